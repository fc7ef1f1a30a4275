"""The backlog of each service, as subqueries over services: counts that stop at a cap, and ends of the index."""

from __future__ import annotations

from datetime import datetime

from django.db.models import IntegerField, OuterRef, Subquery

from integrations.models.message import Message, Priority

BACKLOG_CAP = 10_000  # enough digits for a person; counting on would read every row


class CountOf(Subquery):
    """The count of a sliced subquery's rows, so that a count stops at its cap."""

    template = "(SELECT COUNT(*) FROM (%(subquery)s) counted)"
    output_field = IntegerField()


def unfinished() -> CountOf:
    """The service's unfinished messages, counted up to BACKLOG_CAP. Ordered as the index of unfinished messages, since
    any other order leads through the service's history."""
    mine = Message.objects.unfinished().filter(service=OuterRef("pk"))
    return CountOf(mine.order_by("ordering_key", "pk").values("pk")[:BACKLOG_CAP])


def earliest(now: datetime) -> dict[str, Subquery]:
    """The due time of the longest waiting message, by priority under the names ``due_0`` …. One index seek for each
    service and priority, since each lies at an end of the index."""
    due = Message.objects.due(now).filter(service=OuterRef("pk"))
    return {
        f"due_{priority}": Subquery(due.filter(priority=priority).order_by("due_at").values("due_at")[:1])
        for priority in Priority
    }
