"""Delete a service with its history: a small one at once, a large one by the workers, in small steps.

A large deletion is an operation of kind ``delete``. It begins by making the service ``deleting``: from then on the
service accepts no message and makes no call. Each step deletes some rows in a transaction of its own, so that memory
and locks stay small, a killed worker loses one step, and others go on. The registration goes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import models, transaction

from integrations.errors import Conflict
from integrations.history import retention
from integrations.models import (
    Attempt,
    AuditEntry,
    Event,
    Message,
    Operation,
    Runtime,
    Service,
    ServiceStatus,
    Status,
    database_now,
)
from integrations.models.operation import NO_LIMIT, Kind
from integrations.models.retention import delete_messages
from integrations.registration import registry

AT_ONCE = 1_000  # messages, and calls without one, up to which a request deletes a service within some 100 ms
# From the beginning until the registration is deleted: a message that was checked before the beginning is stored, or
# refused, by then. Stored later, it would take the other messages of its transaction with it.
LAST_ACCEPTED = timedelta(seconds=5)


def delete(service: Service, *, force: bool, actor: str) -> Operation | None:
    """Delete a service with its history, at once if it is small, else by the operation that this returns.

    ``force`` cancels waiting messages; calls in flight end first. Raises Conflict without it while messages are
    unfinished.
    """
    if open_deletion := Operation.objects.deleting(service.pk).first():
        return open_deletion
    unfinished = unfinished_count(service)
    if unfinished and not force:
        raise Conflict(_refusal(unfinished))
    in_flight = Message.objects.for_service(service).delivering().exists()
    if service.is_being_deleted or in_flight or _is_large(service):
        return _begin(service, actor=actor)
    _delete_now(service, actor=actor)
    return None


def unfinished_count(service: Service) -> int:
    return Message.objects.unfinished_for(service.pk).count()


def _refusal(unfinished: int) -> str:
    messages = "1 message is" if unfinished == 1 else f"{unfinished} messages are"
    return f"{messages} not finished; use force=true to cancel them."


def _is_large(service: Service) -> bool:
    rows = (Message.objects.for_service(service), Attempt.objects.without_message().filter(service=service))
    return any(len(found.order_by("-pk").values_list("pk")[: AT_ONCE + 1]) > AT_ONCE for found in rows)


# ---- at once --------------------------------------------------------------------------------------------------------
def _delete_now(service: Service, *, actor: str) -> None:
    _cancel_waiting(service, actor=actor)
    retention.delete_history_of(service)
    with transaction.atomic():
        Runtime.objects.locked([service.pk])  # blocks claims until the commit
        if unfinished_count(service):
            raise Conflict("A message has just arrived; try again in a moment.")
        _delete_registration(service, actor=actor)


def _cancel_waiting(service: Service, *, actor: str) -> None:
    with transaction.atomic():
        cancelled = Message.objects.for_service(service).cancel(database_now())
        if cancelled:
            AuditEntry.objects.record(actor, "service.emptied", service.name, after={"cancelled": len(cancelled)})


def _delete_registration(service: Service, *, actor: str) -> None:
    before = registry.masked(registry.configuration(service))
    AuditEntry.objects.record(actor, "service.deleted", service.name, before=before)
    service.delete()
    Event.objects.create(type="service.deleted", facts={"service": service.name, "by": actor})


# ---- by an operation ------------------------------------------------------------------------------------------------
def _begin(service: Service, *, actor: str) -> Operation:
    """Let the service accept and send nothing from now on, and plan its deletion."""
    with transaction.atomic():
        Runtime.objects.locked([service.pk])  # two requests at once begin one deletion
        if open_deletion := Operation.objects.deleting(service.pk).first():
            return open_deletion
        ids = Message.objects.for_service(service).aggregate(oldest=models.Min("pk"), newest=models.Max("pk"))
        operation = Operation.objects.create(
            kind=Kind.DELETE,
            service_id=service.pk,
            filter=f"service:{service.name}",
            reason=f"{service.name} is deleted with its history",
            rate=NO_LIMIT,
            planned_to=(ids["oldest"] or 1) - 1,
            planned_until=ids["newest"] or 0,
            created_by=actor,
        )
        # The revision too, so that no process keeps the parsed registration of before.
        Service.objects.filter(pk=service.pk).update(
            status=ServiceStatus.DELETING, paused_reason="", paused_until=None, updated_at=database_now()
        )
        Event.objects.create(type="service.changed", service=service, facts={"fields": ["status"], "by": actor})
        facts = {"operation": operation.public_id}
        AuditEntry.objects.record(actor, "service.deletion_begun", service.name, before=None, after=facts)
    service.refresh_from_db(fields=["status", "paused_reason", "paused_until", "updated_at"])
    return operation


def abandon(operation: Operation, *, actor: str) -> None:
    """Pause the service of a deletion that an operator ends: whether its calls go on is a second decision."""
    for service in Service.objects.filter(pk=operation.service_id or 0, status=ServiceStatus.DELETING):
        reason = f"its deletion was cancelled by {actor}"
        Service.objects.filter(pk=service.pk).update(
            status=ServiceStatus.PAUSED, paused_reason=reason[:500], paused_until=None, updated_at=database_now()
        )
        Event.objects.create(type="service.paused", service=service, facts={"reason": reason, "by": actor})


def count_messages(operation: Operation, after: int, until: int) -> int:
    """Count the service's messages with ids in a window: all of them at once would hold SQLite's writer up."""
    return Message.objects.filter(service_id=operation.service_id or 0, pk__gt=after, pk__lte=until).count()


@dataclass(frozen=True, slots=True)
class Deleted:
    """The result of one step."""

    messages: int = 0  # with their content and attempts
    others: int = 0  # calls without a message, and events
    is_gone: bool = False  # the service too


def delete_some(operation: Operation, limit: int, now: datetime) -> Deleted:
    """Delete up to ``limit`` rows of the service, in the caller's transaction, newest first.

    Nothing is deleted while the last calls are in flight, or while other transactions lock the rest.
    """
    service_id = operation.service_id or 0
    messages = Message.objects.filter(service_id=service_id)
    sent = messages.exclude(status=Status.DELIVERING)
    # PostgreSQL keeps an index entry for each deleted message until it vacuums: each step begins below the last one, so
    # that it does not pass all of them. The messages that were locked or sent are found from the top again.
    below = (operation.pace or {}).get("below")
    ids = _newest(sent.filter(pk__lt=below), limit) if below else []
    if ids := ids or _newest(sent, limit):
        operation.pace = (operation.pace or {}) | {"below": ids[-1]}
        free = retention.lock_deletable(ids)
        delete_messages(free)
        return Deleted(messages=len(free))
    for rows in (Attempt.objects.without_message(), Event.objects.all()):
        if ids := _newest(rows.filter(service_id=service_id), limit):
            rows.model._default_manager.filter(pk__any=ids).delete()
            return Deleted(others=len(ids))
    if now - operation.created_at < LAST_ACCEPTED or messages.exists():
        return Deleted()
    Runtime.objects.locked([service_id])
    for service in Service.objects.filter(pk=service_id).select_for_update():
        if messages.exists():
            return Deleted()
        _delete_registration(service, actor=operation.created_by)
    return Deleted(is_gone=True)


def _newest(rows: models.QuerySet[Any], limit: int) -> Sequence[int]:
    return list(rows.order_by("-pk").values_list("pk", flat=True)[:limit])
