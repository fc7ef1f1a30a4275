"""What waits for each service, for queries over services: counts that end at a cap, and index ends."""

from __future__ import annotations

from datetime import datetime

from django.db.models import IntegerField, OuterRef, Subquery

from integrations.models.message import Message, Priority

COUNTED = 10_000  # nobody reads more digits, and counting on would read every row


class CountOf(Subquery):
    """Counts the rows of a sliced subquery, so that a count ends at its cap."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()


def unfinished() -> CountOf:
    """How many messages of the service are not finished, up to COUNTED; in the order of the index of just these, since
    any other leads through its history."""
    mine = Message.objects.unfinished().filter(service=OuterRef("pk"))
    return CountOf(mine.order_by("ordering_key", "pk").values("pk")[:COUNTED])


def earliest(now: datetime) -> dict[str, Subquery]:
    """By the names ``due_0`` …: since when the longest waiting of each priority is due. One index seek for each
    service and priority, as each lies at an end of the index."""
    due = Message.objects.due(now).filter(service=OuterRef("pk"))
    return {
        f"due_{priority}": Subquery(due.filter(priority=priority).order_by("due_at").values("due_at")[:1])
        for priority in Priority
    }
