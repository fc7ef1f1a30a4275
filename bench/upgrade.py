"""How long the migrations keep writers out: `python -m bench.upgrade VERSION [--messages N] [--on sqlite postgres]`.

The database is that of a released version, with messages by its own `bench.seed`. While each migration runs, a program
writes the row of a message again and again, each time in a transaction, as every delivery does, and notes the longest
time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.places import DATABASES, Site
from tests.support.backends import ROOT
from tests.support.installation import clean_environment, fresh_keys
from tests.support.releases import check_out

PAUSE = 0.005  # seconds between two writes
# No migration so far reads their contents or attempts, which would take most of the time.
SEED = """
import django; django.setup()
from bench import seed
insert = seed._insert
seed._insert = lambda model, *given, **columns: (
    None if model.__name__ in ("MessageContent", "Attempt") else insert(model, *given, **columns)
)
seed.seed({messages})
seed.analyze()
"""
WRITE = "UPDATE integrations_message SET priority = priority WHERE id = 1"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.upgrade", description=__doc__.partition("\n")[0])
    parser.add_argument("version")
    parser.add_argument("--messages", type=int, default=5_000_000)
    parser.add_argument("--on", nargs="*", default=DATABASES, choices=DATABASES)
    options = parser.parse_args()
    with Site() as site:
        checkout = check_out(options.version, site.folder / "checkout")
        for on in options.on:
            _measure(site, on, checkout, options.messages)


def _measure(site: Site, on: str, checkout: Path, messages: int) -> None:
    folder = site.new_folder()
    url = f"sqlite:///{folder / 'it.sqlite3'}" if on == "sqlite" else site.servers.new_postgres_database()
    environment = clean_environment() | fresh_keys()
    environment |= {"SWITCHBOARD_DATABASE_URL": url, "SWITCHBOARD_DATA": str(folder)}
    environment |= {"DJANGO_SETTINGS_MODULE": "dashboard.settings"}

    def run(where: Path, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, *arguments], cwd=where, env=environment, check=True, text=True, stdout=subprocess.PIPE
        ).stdout

    run(checkout, "manage.py", "migrate", "--verbosity", "0")
    began = time.monotonic()
    run(checkout, "-c", SEED.format(messages=messages))
    print(f"{messages:,} messages on {on} in {time.monotonic() - began:.0f} s")
    before = _migrations(checkout)
    with Writer(url) as writer:
        time.sleep(2)
        print(f"{'before':24} {writer.longest():8.3f} s kept out")
        for name in sorted(_migrations(ROOT) - before):
            began = time.monotonic()
            run(ROOT, "manage.py", "migrate", "--verbosity", "0", "integrations", name)
            print(f"{name:24} {writer.longest():8.3f} s kept out, {time.monotonic() - began:6.1f} s with the start")


def _migrations(root: Path) -> set[str]:
    return {path.stem for path in (root / "integrations" / "migrations").glob("0*.py")}


class Writer:
    """A program that writes, in a thread."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._may_end = threading.Event()
        self._longest, self._began = 0.0, time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def longest(self) -> float:
        """The longest write since this was last asked, with the one that is waiting now."""
        longest, self._longest = max(self._longest, time.monotonic() - self._began), 0.0
        return longest

    def _run(self) -> None:
        connection = _connect(self._url)
        while not self._may_end.wait(PAUSE):
            self._began = time.monotonic()
            connection.execute(WRITE)
            self._longest = max(self._longest, time.monotonic() - self._began)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._may_end.set()
        self._thread.join()


def _connect(url: str) -> Any:
    if url.startswith("sqlite"):
        from pysqlite3 import dbapi2

        connection = dbapi2.connect("/" + urlsplit(url).path.lstrip("/"), isolation_level=None, timeout=600)
        connection.execute("PRAGMA busy_timeout = 600000")
        return connection
    import psycopg

    return psycopg.connect(url, autocommit=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
