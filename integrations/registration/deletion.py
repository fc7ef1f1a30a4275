"""Delete a service with its history: the history first, in small transactions, then the service."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from integrations.errors import Conflict
from integrations.history import retention
from integrations.models import AuditEntry, Message, Runtime, Service
from integrations.registration import registry


def delete(service: Service, *, force: bool, actor: str) -> None:
    """Delete a service with its history. Raises Conflict while it has unfinished messages.

    ``force`` cancels waiting messages first, but never one that is being sent.
    """
    if force:
        # A commit of its own: if a call is in flight and the deletion is refused, the next try has less to do.
        _cancel_waiting(service, actor=actor)
    if unfinished := unfinished_count(service):  # before any history is deleted
        raise Conflict(_refusal(unfinished, force))
    retention.delete_history_of(service)
    with transaction.atomic():
        Runtime.objects.locked([service.pk])  # blocks claims until the commit
        if unfinished := unfinished_count(service):
            raise Conflict(_refusal(unfinished, force))
        AuditEntry.objects.record(
            actor, "service.deleted", service.name, before=registry.masked(registry.configuration(service))
        )
        service.delete()


def unfinished_count(service: Service) -> int:
    return Message.objects.for_service(service).unfinished().count()


def _cancel_waiting(service: Service, *, actor: str) -> None:
    now = timezone.now()
    with transaction.atomic():
        cancelled = Message.objects.for_service(service).cancel(now)
        if cancelled:
            AuditEntry.objects.record(actor, "service.emptied", service.name, after={"cancelled": len(cancelled)})


def _refusal(unfinished: int, force: bool) -> str:
    messages = "1 message is" if unfinished == 1 else f"{unfinished} messages are"
    if force:
        return f"Waiting messages were cancelled, but {messages} being sent or just arrived; try again in a moment."
    return f"{messages} not finished; use force=true to cancel them."
