"""Declare a field of a service's bodies, and fill in the values of its messages of the last days.

The registration changes at once: messages that are accepted from then on store the field. An operation of kind
``index`` then reads the older bodies in small steps, from the newest on, so that what operators look for most is found
first. A step is repeatable: it passes the messages that have the value already. So a killed worker loses one step, and
messages that were accepted by a registration of before, in the seconds around the change, are read again at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max

from integrations.errors import Invalid
from integrations.models import AuditEntry, Message, Operation, Service, database_now, field_value
from integrations.models.operation import NO_LIMIT, Kind
from integrations.registration import registry
from integrations.schemas.fields import checked_field
from integrations.schemas.service import SEARCH_FIELD_LIMIT, ServiceIn
from integrations.search.pages import SLACK, rows_around

DAYS_LIMIT = 3650
# From the change of the registration until no request accepts a message by the one of before.
LAST_ACCEPTED = timedelta(seconds=5)


def declare(service: Service, path: str, days: int, *, actor: str) -> Operation:
    """Declare a field, and index the messages of the last ``days``. A field that is declared already is only indexed.

    While an index of the field is open, that one is returned. Raises Invalid.
    """
    if not 1 <= days <= DAYS_LIMIT:
        raise Invalid((("days",), f"must be between 1 and {DAYS_LIMIT:,}"))
    try:
        checked_field(path)
    except ValueError as problem:
        raise Invalid((("path",), str(problem))) from None
    with transaction.atomic():
        # Under the row's lock, so that two declarations at once keep both fields.
        locked = Service.objects.select_for_update(no_key=True).get(pk=service.pk)
        if path not in locked.search_fields:
            if len(locked.search_fields) >= SEARCH_FIELD_LIMIT:
                text = f"{service.name} declares {SEARCH_FIELD_LIMIT} fields already, the most there can be"
                raise Invalid((("path",), text))
            # No other field of the registration is read.
            wanted = ServiceIn.model_construct(name=service.name, search_fields=[*locked.search_fields, path])
            registry.change(service, wanted, {"search_fields"}, actor=actor)
        if open_index := Operation.objects.indexing(service.pk, path).first():
            return open_index
        now = database_now()
        newest = Message.objects.aggregate(newest=Max("pk"))["newest"] or 0
        oldest = max(0, rows_around(now - timedelta(days=days), newest)[0] - SLACK)
        operation = Operation.objects.create(
            kind=Kind.INDEX,
            service_id=service.pk,
            filter=f"service:{service.name} newer:{days}d",
            reason=f"{path} of {service.name} is searchable, also in messages of the last {days} days",
            rate=NO_LIMIT,
            pace={"path": path, "after": oldest},
            planned_to=oldest,
            planned_until=newest,
            created_by=actor,
        )
        facts = {"kind": operation.kind, "filter": operation.filter, "path": path}
        AuditEntry.objects.record(actor, "operation.planned", operation.public_id, reason=operation.reason, after=facts)
    service.refresh_from_db(fields=["search_fields", "updated_at"])
    return operation


@dataclass(frozen=True, slots=True)
class Indexed:
    """The result of one step."""

    found: int = 0  # messages that have the field
    others: int = 0  # messages without it, or that had it already
    is_done: bool = False

    @property
    def messages(self) -> int:
        return self.found + self.others


def index_some(operation: Operation, limit: int, now: datetime) -> Indexed:
    """Store the field of up to ``limit`` messages, in the caller's transaction, newest first."""
    pace = dict(operation.pace or {})
    below = pace.get("below", operation.planned_until + 1)
    read = field_value.index_messages(operation.service_id or 0, pace["path"], pace["after"], below, limit)
    if read.lowest:
        operation.pace = pace | {"below": read.lowest}
        return Indexed(read.found, read.messages - read.found)
    if now - operation.created_at < LAST_ACCEPTED:
        return Indexed()
    if "again" not in pace:  # once more, for the messages that came while the registration changed
        newest = Message.objects.aggregate(newest=Max("pk"))["newest"] or 0
        operation.pace = pace | {"again": True, "after": operation.planned_until, "below": newest + 1}
        return Indexed()
    return Indexed(is_done=True)
