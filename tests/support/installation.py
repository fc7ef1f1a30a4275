"""A whole Switchboard as an operator starts it: `manage.py up` in its own process, folder and port."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from tests.support.backends import MARK, ROOT, TOKEN, Servers, processes_of_run

OWN_MARK = "SWITCHBOARD_TEST_INSTALLATION"
READY_WITHIN = 60.0  # seconds; the first start migrates, and CI has two cores
STOPS_WITHIN = 20.0  # seconds; docs/contract.md

_numbers = count(1)


class Installation:
    """One `manage.py up` with its folder, port and database. `environment` adds variables (None takes one away)."""

    def __init__(
        self,
        folder: Path,
        servers: Servers,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str | None] | None = None,
        *,
        on: str,
        migrated: bool = True,
    ) -> None:
        """``on``: "postgres", with a PostgreSQL and a Redis database of its own, or "sqlite", in its folder.
        ``migrated``: whether the database has its tables, and TOKEN, before the first start, which is 1.5 s faster."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._servers = servers
        self.folder = folder
        self.data = folder / "data"
        self.arguments = arguments
        self.port = free_port()
        self.program: tuple[str, ...] = (sys.executable, str(ROOT / "manage.py"))
        self.started_in = ROOT
        self.inside: tuple[str, ...] = ()  # a command that runs it elsewhere, such as ("ip", "netns", "exec", …)
        self.process: subprocess.Popen[bytes] | None = None
        self._has_token = migrated
        self._mark = f"{os.getpid()}-{next(_numbers)}"
        self._log = folder / "up.log"
        self.env = clean_environment() | {
            "SWITCHBOARD_DATA": str(self.data),
            "SWITCHBOARD_ALLOW_PRIVATE": "127.0.0.0/8",
            "PYTHONUNBUFFERED": "1",
            OWN_MARK: self._mark,
        }
        if on == "postgres":
            self.env["SWITCHBOARD_DATABASE_URL"] = servers.new_postgres_database(migrated)
            self.env["SWITCHBOARD_REDIS_URL"] = servers.new_redis_database()
            self.env |= fresh_keys()  # several machines share a database, so it does not make its own there
        elif migrated:
            self.data.mkdir(mode=0o700)
            shutil.copy(servers.migrated_sqlite, self.data / "switchboard.sqlite3")
            _store_keys(self.data / "keys.json")  # none are made for a database that exists
        for name, value in (environment or {}).items():
            if value is None:
                self.env.pop(name, None)
            else:
                self.env[name] = value

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def has_web(self) -> bool:
        return "--no-web" not in self.arguments

    @property
    def log(self) -> str:
        """What `manage.py up` and its children have printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    # ---- Its life ----

    def start(self, wait: bool = True) -> Self:
        assert self.process is None, "it runs already"
        web = ("--host", "127.0.0.1", "--port", str(self.port)) if self.has_web else ()
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.inside, *self.program, "up", *web, *self.arguments],
                cwd=self.started_in,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if wait and self.has_web:
            self.wait_for_web()
        return self

    def wait_for_web(self) -> None:
        assert self.process
        deadline = time.monotonic() + READY_WITHIN
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/healthz", timeout=2, trust_env=False).status_code == 200:
                    return
            if self.process.poll() is not None:
                raise AssertionError(f"`manage.py up` ended with {self.process.returncode}:\n{self.log[-4000:]}")
            if time.monotonic() > deadline:
                raise AssertionError(f"no /healthz within {READY_WITHIN:g} s:\n{self.log[-4000:]}")
            time.sleep(0.05)

    def stop(self, within: float = STOPS_WITHIN) -> float:
        """SIGTERM, as an operator's service manager does; returns the seconds it took, fails where it is too long."""
        if self.process is None:
            return 0.0
        began = time.monotonic()
        self.process.terminate()
        try:
            self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there {within:g} s after SIGTERM:\n{self.log[-4000:]}") from None
        self.process = None
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL to `manage.py up` alone; its children have to notice by themselves."""
        assert self.process
        self.process.kill()
        self.process.wait(timeout=15)
        self.process = None

    def close(self) -> None:
        """Ends every process it ever started, also those that left the tree."""
        for process in self.everything():
            with suppress(psutil.Error):
                process.kill()
        if self.process:
            self.process.wait(timeout=15)
            self.process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- Its accounts and clients ----

    def manage(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of manage.py in this installation; its output is in `.stdout` and `.stderr`."""
        run = subprocess.run(
            [*self.program, *arguments],
            cwd=self.started_in,
            env=self.env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and run.returncode:
            raise AssertionError(f"manage.py {' '.join(arguments)} ended with {run.returncode}:\n{run.stderr[-4000:]}")
        return run

    def token(self, role: str = "admin", name: str = "tests") -> str:
        if self._has_token and (role, name) == ("admin", "tests"):
            return TOKEN
        return self.manage("token", name, "--role", role).stdout.strip()

    def operator(self, name: str = "ada", role: str = "admin", password: str = "correct horse battery") -> str:
        """Makes an account and returns its password."""
        self.manage("operator", name, "--role", role, "--password-stdin", stdin=f"{password}\n")
        return password

    def api(self, token: str | None = None, **options: Any) -> httpx.Client:
        """A client whose URLs are relative to /api/v1/."""
        headers = {"Authorization": f"Bearer {token or self.token()}"}
        return httpx.Client(base_url=f"{self.url}/api/v1/", headers=headers, timeout=30, trust_env=False, **options)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The tree under `manage.py up` by role: up, web, cluster, sentinel, lane, helper, quarantine, other.

        django-q2 forks: cluster → sentinel → lanes (known by their line in the log), pusher and monitor ("helper").
        """
        roles: dict[str, list[psutil.Process]] = {}
        if self.process is None:
            return roles
        lanes = set(re.findall(r"switchboard\.pump worker .*?pid=(\d+)", self.log))
        with suppress(psutil.NoSuchProcess):
            up = psutil.Process(self.process.pid)
            tree = [(up, 0), *_descendants(up, 1)]
            for process, depth in tree:
                with suppress(psutil.Error):
                    role = "lane" if str(process.pid) in lanes and depth > 1 else _role(process, depth)
                    roles.setdefault(role, []).append(process)
        return roles

    def everything(self) -> list[psutil.Process]:
        """Every living process that this installation started, in its tree or not."""
        return [process for process in processes_of_run(self._mark, OWN_MARK) if _lives(process)]

    def wait_until_gone(self, within: float = STOPS_WITHIN) -> None:
        """Fails where a process of this installation is left after so many seconds."""
        deadline = time.monotonic() + within
        while left := self.everything():
            if time.monotonic() > deadline:
                raise AssertionError(f"still there: {[process.cmdline() for process in left if _lives(process)]}")
            time.sleep(0.1)

    def another(self, *arguments: str) -> Installation:
        """A second `manage.py up` on the same database, not started: another machine, or on SQLite the same one."""
        folder = self.folder / f"another-{next(_numbers)}"
        other = Installation(folder, self._servers, arguments, on="sqlite", migrated=False)
        data = str(other.data) if "SWITCHBOARD_DATABASE_URL" in self.env else self.env["SWITCHBOARD_DATA"]
        other.env = self.env | {OWN_MARK: other._mark, "SWITCHBOARD_DATA": data}
        return other


def clean_environment() -> dict[str, str]:
    """This process's environment without Switchboard's own variables: a test says which it wants."""
    kept = (MARK,)
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or (not name.startswith("SWITCHBOARD_") and name != "DJANGO_SETTINGS_MODULE")
    }


def _store_keys(path: Path) -> None:
    keys = fresh_keys()
    stored = {
        "secret_key": keys["SWITCHBOARD_SECRET_KEY"],
        "encryption_keys": [keys["SWITCHBOARD_ENCRYPTION_KEYS"]],
    }
    path.write_text(json.dumps(stored))
    path.chmod(0o600)


def fresh_keys() -> dict[str, str]:
    return {
        "SWITCHBOARD_SECRET_KEY": secrets.token_urlsafe(60),
        "SWITCHBOARD_ENCRYPTION_KEYS": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(process: psutil.Process, depth: int) -> list[tuple[psutil.Process, int]]:
    found = []
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            found += [(child, depth), *_descendants(child, depth + 1)]
    return found


def _role(process: psutil.Process, depth: int) -> str:
    command = process.cmdline()
    if depth == 0:
        return "up"
    if "serve" in command:
        return "web"
    if "deliver" in command:
        return "quarantine"
    if "cluster" in command:
        return {1: "cluster", 2: "sentinel"}.get(depth, "helper")
    return "other"


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
