"""Before an upgrade: whether the tables are of an older version, and a backup of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import IntegrityError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from integrations.backups import schedule
from integrations.backups.errors import BackupError
from integrations.backups.take import take
from integrations.models import sql

KEPT = 3  # backups before a migration; the older ones are deleted
ATTEMPTS, PAUSE = 60, 1.0  # seconds between two attempts to get a lock
STAYS_LOCKED = "The migrations wait for a table that another session holds. End its transaction, then start again."
SHOWN = 3  # migrations that a sentence names


def missing_migrations() -> tuple[list[str], bool]:
    """The names of those that the database lacks, in their order, and whether it has none of ours at all."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    is_new = not any(app == "integrations" for app, _ in executor.loader.applied_migrations)
    return [migration.name for migration, _ in plan], is_new


def let_writers_go_on(migrate: Callable[[], object]) -> None:
    """Run the migrations.

    One that waits for a lock on PostgreSQL has all writers wait behind it, as long as a dump or an open transaction
    holds a table. So it waits for half a second, lets the writers go on, and tries again. Raises BackupError.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            with sql.short_lock_waits(), _foreign_keys_checked_last():
                migrate()
            return
        except OperationalError as error:
            if not sql.is_lock_timeout(error):
                raise
            if not left:
                raise BackupError(f"{STAYS_LOCKED} ({' '.join(str(error).split())})") from error
        time.sleep(PAUSE)


@contextmanager
def _foreign_keys_checked_last() -> Iterator[None]:
    """Let writers go on while SQLite checks the foreign keys. Django does it in each migration with the write lock, and
    reads every row: that took up to 3 s at 5 million messages. Here it is done once, after the last one.
    """
    if connection.vendor != "sqlite":
        yield
        return
    check = connection.check_constraints
    connection.check_constraints = lambda table_names=None: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        connection.check_constraints = check  # type: ignore[method-assign]
    try:
        check()
    except IntegrityError as error:
        raise BackupError(f"The migrations are applied, but a row is broken, and was so before: {error}") from error


def refusal(missing: list[str]) -> str:
    names = ", ".join(missing[:SHOWN]) + (" …" if len(missing) > SHOWN else "")
    return (
        f"The database is of an older version: it needs {len(missing)} migration{'s' if len(missing) > 1 else ''} "
        f"({names}). Back it up, then start once with --migrate. Workers of the version before may go on."
    )


def back_up() -> Path:
    """Back up the embedded database into the data folder. Raises BackupError."""
    folder = settings.DATA_DIR / "backups-before-upgrades"
    try:
        backup = take(folder / f"switchboard-{timezone.now():%Y%m%dT%H%M%SZ}")
    except BackupError as error:
        raise BackupError(
            f"Nothing was migrated, since the backup before it failed: {error} To go on without one, run "
            f"{settings.PROGRAM} migrate."
        ) from error
    schedule.keep_newest(folder, KEPT)
    return backup.folder
