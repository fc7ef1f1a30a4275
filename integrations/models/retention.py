"""How long history is kept, and the progress of the walk that deletes older rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db import connection, models
from django.utils import timezone

from integrations.models.sql import array, is_any

WORKERS_KEPT = timedelta(days=30)  # after they stop


class RetentionManager(models.Manager["Retention"]):
    def current(self) -> Retention:
        return self.filter(pk=1).first() or self.get_or_create(pk=1)[0]


class Retention(models.Model):
    """One row: the admin's settings, and the workers' progress. A worker holds the row's lock while it deletes."""

    messages_days = models.PositiveSmallIntegerField(null=True, default=90)  # None: forever
    audit_days = models.PositiveSmallIntegerField(null=True)

    walked_to = models.BigIntegerField(default=0)  # the last message that the walk has read
    operation_id = models.BigIntegerField(null=True)  # the operation whose items are being deleted
    rests_until = models.DateTimeField(default=timezone.now)

    objects: ClassVar[RetentionManager] = RetentionManager()

    def __str__(self) -> str:
        return f"messages {self.messages_days}, audit {self.audit_days} days"

    @property
    def periods(self) -> dict[str, Any]:
        return {"messages_days": self.messages_days, "audit_days": self.audit_days}

    def messages_before(self, now: datetime) -> datetime | None:
        """Messages that finished before this time may be deleted; None if all are kept."""
        return _before(self.messages_days, now)

    def audit_before(self, now: datetime) -> datetime | None:
        return _before(self.audit_days, now)


def _before(days: int | None, now: datetime) -> datetime | None:
    return None if days is None else now - timedelta(days=days)


# The rows of a message, deleted before it. The ORM would read them all first, to delete them by their ids.
OF_A_MESSAGE = ("integrations_attempt", "integrations_fieldvalue", "integrations_messagecontent")


def delete_messages(ids: Sequence[int]) -> None:
    """Delete messages with all their rows; their replays stay. The caller has locked the messages in a transaction, and
    none of them has an unfinished replay."""
    these = array(ids)
    with connection.cursor() as cursor:
        for table in OF_A_MESSAGE:
            cursor.execute(f"DELETE FROM {table} WHERE {is_any('message_id')}", [these])  # noqa: S608 - names of ours
        # The lineage of a replay outlives its original, also where a former version has not set it.
        cursor.execute(
            "UPDATE integrations_message SET replay_of_id = NULL, lineage_id = COALESCE(lineage_id, replay_of_id) "  # noqa: S608
            f"WHERE {is_any('replay_of_id')}",
            [these],
        )
        cursor.execute(f"DELETE FROM integrations_message WHERE {is_any('id')}", [these])  # noqa: S608
