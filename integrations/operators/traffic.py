"""Actions of operators on traffic: pause, resume, override a breaker, cancel, retry now, replay.

Each action is one transaction with its audit entry and its event. The API and the console call the same functions.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.db import transaction
from django.utils import timezone

from integrations.delivery import accept
from integrations.errors import Conflict
from integrations.models import AuditEntry, Event, Message, Runtime, Service, database_now
from integrations.models.message import times_of
from integrations.policies import breaker as breaker_policy
from integrations.schemas.actions import BreakerIn, PauseIn, ResumeIn
from integrations.schemas.fields import utc_text
from integrations.schemas.message import ReplayIn, json_bytes

RELEASE_BATCH = 500


def pause(service: Service, data: PauseIn, *, actor: str) -> None:
    """Pause a service: its messages are accepted and wait, and can still expire. Raises Conflict."""
    if data.until and data.until <= timezone.now():
        raise Conflict("until must be in the future")
    with transaction.atomic():
        service.refresh_from_db(fields=["status", "paused_reason", "paused_until"])
        if service.is_being_deleted:
            raise Conflict(f"{service.name} is being deleted and makes no calls")
        before = _pause_facts(service)
        service.pause(data.reason, data.until)
        Event.objects.create(type="service.paused", service=service, facts={"reason": data.reason, "by": actor})
        AuditEntry.objects.record(
            actor, "service.paused", service.name, reason=data.reason, before=before, after=_pause_facts(service)
        )


def _pause_facts(service: Service) -> dict[str, Any]:
    until = utc_text(service.paused_until) if service.paused_until else None
    return {"status": str(service.status), "paused_reason": service.paused_reason, "paused_until": until}


def resume(service: Service, data: ResumeIn, *, actor: str) -> int:
    """End a pause and release or hold the waiting messages. Return how many are held. Raises Conflict."""
    now = database_now()
    with transaction.atomic():
        # The runtime's lock blocks claims between the end of the pause and the hold.
        Runtime.objects.locked([service.pk])
        service.refresh_from_db(fields=["status", "paused_reason", "paused_until"])
        before = _pause_facts(service)
        if not service.reactivate():
            raise Conflict(f"{service.name} is not paused")
        waiting = Message.objects.for_service(service).pending().filter(held=False)
        to_hold = {
            "all": Message.objects.none(),
            "none": waiting,
            "newer_than": waiting.filter(created_at__lte=data.newer_than or now),
        }[data.release]
        held = to_hold.hold()
        if data.rate:
            _spread(service, data.rate, now)
        facts: dict[str, Any] = {"release": data.release, "held": held, "rate": data.rate, "by": actor}
        Event.objects.create(type="service.resumed", service=service, facts=facts)
        AuditEntry.objects.record(
            actor, "service.resumed", service.name, before=before, after=_pause_facts(service) | facts
        )
    return held


def _spread(service: Service, rate: float, now: datetime) -> None:
    """Spread the due messages over time, ``rate`` a second, oldest first."""
    due = Message.objects.due(now).for_service(service).order_by("pk").values_list("pk", flat=True)
    ids = list(due)
    for start in range(0, len(ids), RELEASE_BATCH):
        batch = enumerate(ids[start : start + RELEASE_BATCH], start)
        times = {pk: now + timedelta(seconds=position / rate) for position, pk in batch}
        Message.objects.filter(pk__in=times).update(due_at=times_of(times))


def override_breaker(service: Service, data: BreakerIn, *, actor: str) -> Runtime:
    """Change the breaker by hand. Raises Conflict if its state does not allow the action.

    Closing or resetting it also clears the service's Retry-After: the operator wants calls to resume now.
    """
    now = database_now()
    if data.until and data.until <= now:
        raise Conflict("until must be in the future")
    with transaction.atomic():
        runtime = Runtime.objects.locked([service.pk])[0]
        before = _breaker_facts(runtime)
        state, changes = breaker_policy.command(
            runtime.breaker, service.breaker_policy, data.action, now, reason=data.reason, until=data.until
        )
        runtime.breaker = state
        if data.action in ("close", "reset"):
            runtime.throttled_until = None
        runtime.save_decided()
        Event.objects.record_changes(service, changes, now, by=actor)
        AuditEntry.objects.record(
            actor,
            f"breaker.{data.action}",
            service.name,
            reason=data.reason,
            before=before,
            after=_breaker_facts(runtime),
        )
    return runtime


def _breaker_facts(runtime: Runtime) -> dict[str, Any]:
    until = utc_text(runtime.mode_until) if runtime.mode_until else None
    facts = {"state": runtime.state, "mode": runtime.mode, "until": until}
    return facts | ({"asked_to_wait_until": utc_text(runtime.throttled_until)} if runtime.throttled_until else {})


def cancel(message: Message, *, actor: str, reason: str = "") -> None:
    """Cancel a pending message. Raises Conflict."""
    with transaction.atomic():
        message.refresh_from_db(fields=["status", "due_at", "held"])
        before = _wait_facts(message)
        message.cancel()
        AuditEntry.objects.record(
            actor, "message.cancelled", message.public_id, reason=reason, before=before, after=_wait_facts(message)
        )


def retry_now(message: Message, *, actor: str) -> None:
    """Make a pending message due now. Raises Conflict."""
    with transaction.atomic():
        message.refresh_from_db(fields=["status", "due_at", "held"])
        before = _wait_facts(message)
        message.retry_now()
        AuditEntry.objects.record(
            actor, "message.retried_now", message.public_id, before=before, after=_wait_facts(message)
        )


def _wait_facts(message: Message) -> dict[str, Any]:
    due = utc_text(message.next_attempt_at) if message.next_attempt_at else None
    return {"status": str(message.status), "next_attempt_at": due, "held": message.held}


def replay(message: Message, data: ReplayIn, *, actor: str, body: bytes | None = None) -> tuple[Message, bool]:
    """Replay a finished message. Return the replay, and whether it is new. Raises Conflict, Invalid or TooLarge."""
    with transaction.atomic():
        made, is_new = accept.replay(message, data, body)
        if is_new:
            before, after = _edits(message, made)
            facts = {"replay": made.public_id, "mode": data.mode} | after
            AuditEntry.objects.record(actor, "message.replayed", message.public_id, before=before, after=facts)
    return made, is_new


def _edits(original: Message, replay: Message) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the values that an edit changed, before and after. Bodies, query and headers may be long or confidential:
    a hash stands for each."""
    before, after = _request_facts(original), _request_facts(replay)
    changed = [name for name in before if before[name] != after[name]]
    return {name: before[name] for name in changed}, {name: after[name] for name in changed}


def _request_facts(message: Message) -> dict[str, Any]:
    content = message.content
    parts = {"query": json_bytes(content.query), "headers": json_bytes(content.headers), "body": bytes(content.body)}
    hashes = {f"{name}_sha256": sha256(part).hexdigest() for name, part in parts.items()}
    endpoint = message.endpoint.name if message.endpoint else None
    return {"endpoint": endpoint, "method": message.method, "path": message.path, **hashes}
