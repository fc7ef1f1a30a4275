"""Copies of the embedded database, by SQLite's backup API, and their way back."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from django.db import connection

from integrations.backups.contents import counts
from integrations.backups.errors import BackupError
from integrations.backups.manifest import sync

NAME = "database.sqlite3"
PAGES = 4096  # copied at once: a signal ends the backup between two steps


def copy_to(folder: Path) -> dict[str, int]:
    """Copy the database while others write to it, and count what the copy holds."""
    if not is_there():
        raise BackupError(f"There is no database yet: {_path()} is missing.")
    copy = folder / NAME
    with closing(sqlite3.connect(_path())) as source, closing(sqlite3.connect(copy)) as target:
        # The open transaction keeps the state that it reads. Without it SQLite would begin again after each write of
        # another process.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        source.backup(target, pages=PAGES)
        _make_single_file(target)
        if (found := target.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise BackupError(f"The database is damaged, so the backup was not kept: {found}.")
    with opened(copy):
        found_counts = counts()
    with closing(sqlite3.connect(copy)) as target:  # the ORM has made a write-ahead log of its own
        _make_single_file(target)
    sync(copy)
    return found_counts


def is_there() -> bool:
    return _path().exists()


def refuse_if_in_use() -> None:
    """Raises BackupError while another process has the database open: it would go on with the file that is replaced."""
    connection.close()
    try:
        with closing(sqlite3.connect(_path(), timeout=1)) as database:
            _make_single_file(database)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise BackupError(
                f"Another process has {_path()} open. Stop Switchboard and every program that reads it, then try again."
            ) from None
        # A file that SQLite cannot read is worth replacing.


def restore_from(folder: Path, prepare: Callable[[], None], keep_as: datetime | None) -> Path | None:
    """Put the copy in the place of the database after ``prepare`` has run in it. Until the last step the database is as
    it was. Returns where the file that was there is kept, with the time ``keep_as`` in its name."""
    path = _path()
    draft = path.with_name(f".{path.name}.restoring")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        _remove(draft)
        shutil.copyfile(folder / NAME, draft)
        draft.chmod(0o600)
        with opened(draft):
            prepare()
        with closing(sqlite3.connect(draft)) as database:
            _make_single_file(database)
        sync(draft)
        if is_there():
            refuse_if_in_use()
        kept = _keep(path, keep_as) if keep_as else None
        os.replace(draft, path)
        for leftover in _logs(
            path
        ):  # of a file that SQLite could not read: they would be taken for those of the new one
            leftover.unlink(missing_ok=True)
        sync(path.parent)
    finally:
        _remove(draft)
    return kept


@contextmanager
def opened(path: Path) -> Iterator[None]:
    """Let the ORM use another file. Only for a process with one thread that uses the database."""
    present = connection.settings_dict["NAME"]
    connection.close()
    connection.settings_dict["NAME"] = str(path)
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict["NAME"] = present


def _path() -> Path:
    return Path(str(connection.settings_dict["NAME"]))


def _keep(path: Path, now: datetime) -> Path:
    kept = path.with_name(f"{path.name}.before-restore-{now:%Y%m%dT%H%M%S}")
    os.link(path, kept)
    return kept


def _make_single_file(database: sqlite3.Connection) -> None:
    """Write the log back and remove it. Raises sqlite3.OperationalError while another connection is open."""
    database.execute("PRAGMA journal_mode = DELETE")


def _logs(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm", "-journal")]


def _remove(path: Path) -> None:
    for file in (path, *_logs(path)):
        file.unlink(missing_ok=True)
