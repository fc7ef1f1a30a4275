"""Delete a service with its history, in small steps ahead of the service itself."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from integrations.errors import Conflict
from integrations.history import retention
from integrations.models import AuditEntry, Message, Runtime, Service
from integrations.registration import registry


def cancel_unfinished(service: Service, *, actor: str) -> int:
    """Cancels what waits for a service that is about to go."""
    now = timezone.now()
    with transaction.atomic():
        cancelled = Message.objects.for_service(service).cancel(now)
        if cancelled:
            AuditEntry.objects.record(actor, "service.emptied", service.name, after={"cancelled": len(cancelled)})
    return len(cancelled)


def delete(service: Service, *, force: bool, actor: str) -> None:
    """Removes a service with its history. Raises Conflict while it has unfinished messages; ``force`` cancels those
    that wait, but never tears away one that is being sent."""
    if force:
        # Committed on its own: should a call be under way, the next try finds less to do and not as much again.
        cancel_unfinished(service, actor=actor)
    if unfinished := unfinished_count(service):  # before any of its history is gone
        raise Conflict(_still_there(unfinished, force))
    retention.empty(service)
    with transaction.atomic():
        Runtime.objects.locked([service.pk])  # no claim from here on
        if unfinished := unfinished_count(service):
            raise Conflict(_still_there(unfinished, force))
        AuditEntry.objects.record(actor, "service.deleted", service.name, before=registry.configuration(service))
        service.delete()


def _still_there(unfinished: int, force: bool) -> str:
    messages = "1 message" if unfinished == 1 else f"{unfinished} messages"
    if force:
        return f"What waited is cancelled, but {messages} came in or are being sent right now; try again in a moment."
    return f"{messages} not finished; with force=true they are cancelled."


def unfinished_count(service: Service) -> int:
    return Message.objects.for_service(service).unfinished().count()
