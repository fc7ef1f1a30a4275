"""The installation around the database: its clock, and the keys that encrypt its secrets."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models import F
from django.db.models.functions import Cast

from integrations.models.fields import EncryptedJSONField
from integrations.models.service import Service
from integrations.policies import clocks
from integrations.policies.clocks import ClockHistory

LOOK_EVERY = timedelta(minutes=1)
CHECK_VALUE = "switchboard"


class InstallationManager(models.Manager["Installation"]):
    def get_queryset(self) -> models.QuerySet[Installation]:
        return super().get_queryset().defer("key_check")  # without its key it cannot be read

    def current(self) -> Installation:
        return self.filter(pk=1).first() or self.get_or_create(pk=1)[0]

    # ---- the clock -------------------------------------------------------------------------------------------------
    def clock(self) -> ClockHistory:
        """Return the history of the database's clock; one query, and nothing is written."""
        row = self.filter(pk=1).first()
        return row.clock if row else ClockHistory()

    def look_at_clock(self, now: datetime) -> ClockHistory:
        """Return the history of the database's clock; a worker calls this before it deletes by age. Written once a
        minute, or when the clock has moved back."""
        before = self.current().clock
        if before.seen_at is not None and timedelta(0) <= now - before.seen_at < LOOK_EVERY:
            return before
        # Only if no other worker has looked in between: steady time would count twice.
        if self.filter(pk=1, clock_seen_at=before.seen_at).update(**_columns(clocks.look(before, now))):
            return clocks.look(before, now)
        return self.current().clock

    def may_judge_age(self, now: datetime) -> bool:
        """Whether a row that looks too old is too old: no leap of the clock holds deletions, and none was unseen."""
        clock = self.clock()
        return not clock.is_on_hold and not clock.is_leap(now)

    def accept_clock(self, now: datetime) -> None:
        """End the hold after a leap: an admin says that the time is right."""
        self.current()
        self.filter(pk=1).update(**_columns(ClockHistory(now)))

    # ---- the keys --------------------------------------------------------------------------------------------------
    def has_right_keys(self) -> bool:
        """Return whether the encryption keys are those of this database."""
        try:
            if self.filter(pk=1).values_list("key_check", flat=True).first() is None:
                # An installation from before the check: a service's secrets, which raise if they cannot be read.
                Service.objects.order_by("pk").values_list("secrets", flat=True).first()
        except ImproperlyConfigured:
            return False
        return True

    def stored_check(self) -> str:
        """The stored text that only the keys of this database read; empty in one from before the check."""
        stored = self.filter(pk=1).annotate(stored=Cast(F("key_check"), models.TextField()))
        return stored.values_list("stored", flat=True).first() or ""

    def note_keys(self) -> None:
        """Store a text that these keys encrypt, unless there is one."""
        self.current()
        self.filter(pk=1, key_check=None).update(key_check=CHECK_VALUE)


def _columns(clock: ClockHistory) -> dict[str, Any]:
    return {
        "clock_seen_at": clock.seen_at,
        "leapt_from": clock.leapt_from,
        "leapt_to": clock.leapt_to,
        "steady": clock.steady,
    }


class Installation(models.Model):
    """One row."""

    clock_seen_at = models.DateTimeField(null=True)
    leapt_from = models.DateTimeField(null=True)
    leapt_to = models.DateTimeField(null=True)
    steady = models.DurationField(default=timedelta(0))
    key_check = EncryptedJSONField(null=True)

    objects: ClassVar[InstallationManager] = InstallationManager()

    def __str__(self) -> str:
        return f"clock seen at {self.clock_seen_at}"

    @property
    def clock(self) -> ClockHistory:
        return ClockHistory(self.clock_seen_at, self.leapt_from, self.leapt_to, self.steady)
