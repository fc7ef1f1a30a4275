"""How long history is kept, and how far the walk is that takes away what is older."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db import connection, models
from django.utils import timezone

from integrations.models.sql import array, is_any

WORKERS_KEPT = timedelta(days=30)  # after they have stopped


class RetentionManager(models.Manager["Retention"]):
    def current(self) -> Retention:
        return self.filter(pk=1).first() or self.get_or_create(pk=1)[0]


class Retention(models.Model):
    """One row: what an admin decided, and the walk of the workers, who hold its lock while they delete."""

    messages_days = models.PositiveSmallIntegerField(null=True, default=90)  # none: for ever
    audit_days = models.PositiveSmallIntegerField(null=True)

    walked_to = models.BigIntegerField(default=0)  # the last message looked at
    operation_id = models.BigIntegerField(null=True)  # whose items are being deleted
    rests_until = models.DateTimeField(default=timezone.now)

    objects: ClassVar[RetentionManager] = RetentionManager()

    def __str__(self) -> str:
        return f"messages {self.messages_days}, audit {self.audit_days} days"

    @property
    def decided(self) -> dict[str, Any]:
        return {"messages_days": self.messages_days, "audit_days": self.audit_days}

    def messages_before(self, now: datetime) -> datetime | None:
        """What was finished before this may go; None where all is kept."""
        return _before(self.messages_days, now)

    def audit_before(self, now: datetime) -> datetime | None:
        return _before(self.audit_days, now)


def _before(days: int | None, now: datetime) -> datetime | None:
    return None if days is None else now - timedelta(days=days)


# What belongs to a message and goes ahead of it; the ORM would read all of it first, to delete it by its keys.
OF_A_MESSAGE = ("integrations_attempt", "integrations_fieldvalue", "integrations_messagecontent")


def delete_messages(ids: Sequence[int]) -> None:
    """Takes away messages with all that is theirs; what was a replay of one stays. The caller has locked them, in a
    transaction, and no replay of theirs is unfinished."""
    these = array(ids)
    with connection.cursor() as cursor:
        for table in OF_A_MESSAGE:
            cursor.execute(f"DELETE FROM {table} WHERE {is_any('message_id')}", [these])  # noqa: S608 - names of ours
        cursor.execute(f"UPDATE integrations_message SET replay_of_id = NULL WHERE {is_any('replay_of_id')}", [these])  # noqa: S608
        cursor.execute(f"DELETE FROM integrations_message WHERE {is_any('id')}", [these])  # noqa: S608
