"""Backups by schedule: one run of it, and the backups that are kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from django.conf import settings

from integrations.backups.errors import BackupError
from integrations.backups.take import Backup, take
from integrations.models import BackupSchedule, database_now

MADE = re.compile(r"switchboard-\d{8}T\d{6}Z")  # names of its backups; other files of the folder are not touched


def folder_of(schedule: BackupSchedule) -> Path:
    return Path(schedule.folder) if schedule.folder else settings.DATA_DIR / "backups"


def run() -> Backup:
    """Take the backup that is due, note its result, and delete those that are not to be kept. Raises BackupError."""
    schedule = BackupSchedule.objects.current()
    folder = folder_of(schedule)
    try:
        for leftover in folder.glob(".switchboard-*.partial"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        backup = take(folder / f"switchboard-{database_now():%Y%m%dT%H%M%SZ}")
    except BackupError as error:
        BackupSchedule.objects.note_failure(settings.CLUSTER, str(error).rstrip("."), database_now())
        raise
    note(backup)
    BackupSchedule.objects.give_up(settings.CLUSTER)
    keep_newest(folder, schedule.keep)
    return backup


def note(backup: Backup) -> None:
    """Let the pages and the doctor know of a backup."""
    BackupSchedule.objects.note_success(
        taken_at=backup.manifest.taken_at,
        place=f"{settings.HOST_NAME}:{backup.folder}",
        size=backup.manifest.size,
        seconds=backup.seconds,
    )


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the newest of the backups that a schedule has made here; their names are their times."""
    made = sorted(path for path in folder.iterdir() if MADE.fullmatch(path.name))
    for path in made[:-count]:
        shutil.rmtree(path, ignore_errors=True)
