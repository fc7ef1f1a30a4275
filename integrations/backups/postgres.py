"""Dumps of a PostgreSQL database by PostgreSQL's own programs, and their way back."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.db import connection
from django.db.backends.postgresql.client import DatabaseClient

from integrations.backups.contents import counts
from integrations.backups.errors import BackupError
from integrations.backups.manifest import sync
from integrations.models import schema, sql

NAME = "database.dump"
LOCK_WAIT = 10  # seconds for a lock that another session holds
PLAIN = ("--no-owner", "--no-privileges")  # another installation has other roles
CHUNK = 1024**2


def require_programs(*names: str) -> None:
    """Raises BackupError if one of PostgreSQL's programs is missing."""
    for name in names:
        if shutil.which(name) is None:
            raise BackupError(
                f"{name} was not found in PATH. Install PostgreSQL's client programs, of the server's version or newer "
                "(on Debian: postgresql-client), or back up the server by its own means."
            )


def copy_to(folder: Path) -> dict[str, int]:
    """Dump our tables while others write to them, and count what the dump holds: both read the same snapshot."""
    require_programs("pg_dump", "pg_restore")
    dump = folder / NAME
    with _directly(), sql.shared_snapshot() as snapshot:
        chosen = [f"--table={_quoted(table)}" for table in schema.own_tables() if table != schema.RESTORING]
        options = ["--format=custom", *PLAIN, f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_WAIT}s"]
        _run(["pg_dump", *_to_server(), *options, *chosen, f"--file={dump}", f"--dbname={_database()}"])
        found = counts()
    _run(["pg_restore", "--list", str(dump)])
    sync(dump)
    return found


def restore_from(folder: Path, prepare: Callable[[], None]) -> None:
    """Replace our tables by those of the dump, in one transaction, and run ``prepare`` in them. A table is there until
    ``prepare`` has dropped it, so that nothing starts with messages that are not held yet."""
    require_programs("pg_restore", "psql")
    with _directly():
        present = schema.own_tables()
        connection.close()
        _replace(folder / NAME, present)
    prepare()


def _replace(dump: Path, present: list[str]) -> None:
    """Let psql load what pg_restore prints. Without the COMMIT at the end, which nothing but the whole of it is
    followed by, the server rolls all back."""
    begin = [
        "BEGIN;",
        f"SET LOCAL lock_timeout = '{LOCK_WAIT}s';",
        "SET LOCAL idle_in_transaction_session_timeout = 0;",
    ]
    # Without CASCADE: a view that someone has made of our tables is a reason to stop.
    begin += [f"DROP TABLE {', '.join(map(_quoted, present))};"] if present else []
    begin += [f"CREATE TABLE {_quoted(schema.RESTORING)} (begun_at timestamptz DEFAULT now());"]
    load = ["psql", *_to_server(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={_database()}"]
    unpack = ["pg_restore", *PLAIN, "--file=-", str(dump)]
    with tempfile.TemporaryFile() as errors:
        with (
            subprocess.Popen(unpack, stdout=subprocess.PIPE, stderr=errors) as source,  # noqa: S603 - ours
            subprocess.Popen(  # noqa: S603 - ours
                load, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=_environment()
            ) as target,
        ):
            assert source.stdout and target.stdin  # noqa: S101, PT018 - they are pipes
            with suppress(BrokenPipeError):  # psql has ended with an error, which it has written
                target.stdin.write("\n".join([*begin, ""]).encode())
                shutil.copyfileobj(source.stdout, target.stdin, CHUNK)
                if source.wait() == 0:
                    target.stdin.write(b"\nCOMMIT;\n")
            with suppress(BrokenPipeError):
                target.stdin.close()
            source.stdout.close()
        if source.returncode or target.returncode:
            errors.seek(0)
            raise BackupError(f"Nothing was restored: {_first_error(errors.read())}")


@contextmanager
def _directly() -> Iterator[None]:
    """Past a pooler: what the programs set for their session would meet its other clients."""
    with sql.directly():
        if sql.is_pooled():
            raise BackupError(
                "PostgreSQL's programs do not work through a pooler. Set SWITCHBOARD_DATABASE_DIRECT_URL to the "
                "server itself, or back up the server by its own means."
            )
        yield


# ---- the programs ---------------------------------------------------------------------------------------------------
def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=_environment(), capture_output=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        raise BackupError(f"{command[0]} failed: {_first_error(done.stderr)}")


def _to_server() -> list[str]:
    """The options that name server and user, as Django gives them to psql; the last argument is the database."""
    return DatabaseClient.settings_to_cmd_args_env(connection.settings_dict, [])[0][1:-1]


def _environment() -> dict[str, str]:
    """The environment with the password, which other users could read on a command line."""
    return os.environ | (DatabaseClient.settings_to_cmd_args_env(connection.settings_dict, [])[1] or {})


def _database() -> str:
    return str(connection.settings_dict["NAME"])


def _quoted(table: str) -> str:
    """For a statement, and as a pattern of pg_dump that fits this table alone."""
    return connection.ops.quote_name(table)


def _first_error(output: bytes) -> str:
    """The first error with its detail, in one line: the programs go on with hints."""
    lines = [" ".join(line.split()) for line in output.decode(errors="replace").splitlines() if line.strip()]
    start = next((place for place, line in enumerate(lines) if "error" in line.lower()), 0)
    found = [line for line in lines[start : start + 2] if line == lines[start] or line.startswith("DETAIL:")]
    return ". ".join(found)[:400] or "it gave no reason"
