"""Before an upgrade: whether the tables are of an older version, and a backup of them."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from integrations.backups import schedule
from integrations.backups.take import take

KEPT = 3  # backups before a migration; the older ones are deleted
SHOWN = 3  # migrations that a sentence names


def missing_migrations() -> tuple[list[str], bool]:
    """The names of those that the database lacks, in their order, and whether it has none of ours at all."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    is_new = not any(app == "integrations" for app, _ in executor.loader.applied_migrations)
    return [migration.name for migration, _ in plan], is_new


def refusal(missing: list[str]) -> str:
    names = ", ".join(missing[:SHOWN]) + (" …" if len(missing) > SHOWN else "")
    return (
        f"The database is of an older version: it needs {len(missing)} migration{'s' if len(missing) > 1 else ''} "
        f"({names}). Back it up, then start once with --migrate. Workers of the version before may go on."
    )


def back_up() -> Path:
    """Back up the embedded database into the data folder. Raises BackupError."""
    folder = settings.DATA_DIR / "backups-before-upgrades"
    backup = take(folder / f"switchboard-{timezone.now():%Y%m%dT%H%M%SZ}")
    schedule.keep_newest(folder, KEPT)
    return backup.folder
