"""The ground of a run: a fresh, migrated database for each, on SQLite or on PostgreSQL with fsync, and one sink."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Self

from bench.sink import Sink
from tests.support.backends import FSYNC, ROOT, Servers
from tests.support.installation import clean_environment, fresh_keys

DATABASES = ("sqlite", "postgres")


class Site:
    """The folder, the sink and the servers of one invocation; everything starts when it is first needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._places: dict[str, Place] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="switchboard-bench-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)

    @cached_property
    def sink(self) -> Sink:
        """The receiver that counts (sink.py); it answers every POST at once."""
        sink = Sink(self.folder)
        self._stack.callback(sink.close)
        return sink

    @cached_property
    def servers(self) -> Servers:
        """PostgreSQL with fsync, and Redis."""
        os.environ[FSYNC] = "1"
        servers = Servers()
        self._stack.callback(servers.close)
        return servers

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="run-", dir=self.folder))

    def fresh(self, on: str) -> Database:
        """An empty, migrated database of Switchboard's on "sqlite" or "postgres"."""
        if on not in self._places:
            self._places[on] = Place(on, self.folder / on, self.servers if on == "postgres" else None)
        return self._places[on].fresh()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Ground:
    """The ground of one run: a folder of its own, and the program and environment of the processes it starts."""

    def __init__(self, folder: Path, env: dict[str, str], program: str = sys.executable) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.env, self.program = folder, env, program

    def run(self, *arguments: str, **environment: str) -> str:
        """Run the program (Python) with these arguments to its end, and return its output."""
        done = subprocess.run(
            [self.program, *arguments], cwd=ROOT, env=self.env | environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done.stdout

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts the program (Python) with these arguments; what it prints goes to a file in the run's folder."""
        with (self.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                [self.program, *arguments],
                cwd=ROOT,
                env=self.env | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """The output of the started processes so far."""
        log = self.folder / "output.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def close(self) -> None:
        """Frees what the run filled."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Database(Ground):
    """One database of Switchboard's tables, and the environment that leads to it."""

    def __init__(self, folder: Path, keys: dict[str, str], url: str = "") -> None:
        env = clean_environment() | keys
        env |= {"SWITCHBOARD_DATA": str(folder), "SWITCHBOARD_ALLOW_PRIVATE": "127.0.0.0/8"}
        env |= {"PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "dashboard.settings"}
        if url:
            env["SWITCHBOARD_DATABASE_URL"] = url
        super().__init__(folder, env)
        self.url = url

    def ask(self, *statements: str) -> list[int]:
        """Run the statements, and return the row of the last one."""
        with closing(self._connect()) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            row: Sequence[Any] | None = cursor.fetchone() if cursor.description else None
            return list(row or ())

    def _connect(self) -> Any:
        if self.url:
            import psycopg

            return psycopg.connect(self.url, autocommit=True)
        import sqlite3

        return sqlite3.connect(self.folder / "switchboard.sqlite3", timeout=20, isolation_level=None)


class Place:
    """A kind of database; ``fresh`` copies one that was migrated once."""

    def __init__(self, name: str, folder: Path, servers: Servers | None) -> None:
        self.name, self.folder, self._servers = name, folder, servers
        self._keys = fresh_keys()
        self._numbers = count(1)
        self._template = Database(folder / "template", self._keys, servers.new_postgres_database() if servers else "")
        self._template.run("manage.py", "migrate", "--verbosity", "0")

    def fresh(self) -> Database:
        number = next(self._numbers)
        folder = self.folder / str(number)
        if self._servers is None:
            shutil.copytree(self._template.folder, folder)
            return Database(folder, self._keys)
        template = self._template.url.rpartition("/")[2]
        name = f"{template}_{number}"
        Database(folder, {}, self._servers.postgres_url()).ask(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return Database(folder, self._keys, self._servers.postgres_url(name))
