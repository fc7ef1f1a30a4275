"""The schedule of backups, the result of the last one, and the last restore."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal

from django.db import models

from integrations.models.message import Message

LEASE = timedelta(minutes=2)  # renewed every half minute while a backup is written
AGAIN = timedelta(minutes=15)  # after one that failed


Trouble = Literal["failed", "overdue"]
NO_HOLDER: dict[str, Any] = {"holder": "", "lease_until": None}


class BackupScheduleManager(models.Manager["BackupSchedule"]):
    def current(self) -> BackupSchedule:
        """The row, or one with the defaults; nothing is written."""
        return self.filter(pk=1).first() or BackupSchedule(pk=1)

    def locked(self) -> BackupSchedule:
        """The row, locked until the end of the transaction."""
        self.get_or_create(pk=1)
        return self.select_for_update().get(pk=1)

    # ---- one holder ------------------------------------------------------------------------------------------------
    def begin(self, holder: str, now: datetime) -> bool:
        """Take the next backup if it is due. False: it is not, or another process writes it."""
        schedule = self.current()
        if not schedule.is_due(now):
            return False
        # Only if the row is as it was read: of two processes that find it due, one gets it.
        same = self.filter(pk=1, holder=schedule.holder, lease_until=schedule.lease_until, taken_at=schedule.taken_at)
        return bool(same.update(holder=holder, lease_until=now + LEASE))

    def renew(self, holder: str, now: datetime) -> None:
        self.filter(pk=1, holder=holder).update(lease_until=now + LEASE)

    def give_up(self, holder: str) -> None:
        """Leave the backup to the next process that finds it due."""
        self.filter(pk=1, holder=holder).update(**NO_HOLDER)

    # ---- results ---------------------------------------------------------------------------------------------------
    def note_success(self, *, taken_at: datetime, place: str, size: int, seconds: float) -> None:
        self.get_or_create(pk=1)
        self.filter(pk=1).update(taken_at=taken_at, place=place, size=size, seconds=seconds, failed_at=None, failure="")

    def note_failure(self, holder: str, text: str, now: datetime) -> None:
        """End the backup of this holder, if it has not ended yet."""
        self.filter(pk=1, holder=holder).update(failed_at=now, failure=text[:500], **NO_HOLDER)

    def note_restore(self, taken_at: datetime, now: datetime) -> None:
        """Note that a backup was restored. The processes that ran when it was taken hold nothing any more."""
        self.get_or_create(pk=1)
        self.filter(pk=1).update(restored_at=now, restored_from=taken_at, **NO_HOLDER)

    def forget_restore(self) -> None:
        """Once no message that a restore has held is left."""
        restored_at = self.current().restored_at
        if restored_at and not Message.objects.held_by_restore(restored_at).exists():
            self.filter(pk=1, restored_at=restored_at).update(restored_at=None)


class BackupSchedule(models.Model):
    """One row: the admin's settings, and the results of the process that writes the backups."""

    every_hours = models.PositiveSmallIntegerField(null=True)  # None: no backups by schedule
    folder = models.CharField(max_length=500, blank=True)  # blank: `backups` in the data folder
    keep = models.PositiveSmallIntegerField(default=7)
    changed_at = models.DateTimeField(null=True)

    holder = models.CharField(max_length=100, blank=True)  # the cluster whose process writes one now
    lease_until = models.DateTimeField(null=True)

    taken_at = models.DateTimeField(null=True)  # the moment whose state the last backup holds
    place = models.CharField(max_length=600, blank=True)
    size = models.PositiveBigIntegerField(default=0)  # bytes
    seconds = models.FloatField(default=0)
    failed_at = models.DateTimeField(null=True)  # only if the last one failed
    failure = models.CharField(max_length=500, blank=True)

    restored_at = models.DateTimeField(null=True)
    restored_from = models.DateTimeField(null=True)  # the moment whose state was restored

    objects: ClassVar[BackupScheduleManager] = BackupScheduleManager()

    def __str__(self) -> str:
        return f"every {self.every_hours} hours" if self.every_hours else "off"

    @property
    def settings(self) -> dict[str, Any]:
        return {"every_hours": self.every_hours, "folder": self.folder, "keep": self.keep}

    @property
    def next_at(self) -> datetime | None:
        """When the next backup begins; None without a schedule."""
        if self.every_hours is None or self.changed_at is None:
            return None
        planned = self.taken_at + timedelta(hours=self.every_hours) if self.taken_at else self.changed_at
        return max(planned, self.failed_at + AGAIN) if self.failed_at else planned

    def is_being_written(self, now: datetime) -> bool:
        return self.lease_until is not None and self.lease_until > now

    def is_due(self, now: datetime) -> bool:
        return not self.is_being_written(now) and self.next_at is not None and self.next_at <= now

    def is_overdue(self, now: datetime) -> bool:
        """Whether half an interval more than planned has passed without a backup."""
        if self.every_hours is None or self.changed_at is None:
            return False
        since = max(self.taken_at or self.changed_at, self.changed_at)
        return now - since > timedelta(hours=1.5 * self.every_hours)

    def trouble(self, now: datetime) -> Trouble | None:
        """Why the backups need an operator."""
        if self.failed_at:
            return "failed"
        return "overdue" if self.is_overdue(now) else None
