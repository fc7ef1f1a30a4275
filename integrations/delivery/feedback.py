"""Feed the results of calls back into a service: its breaker, its throttle, and a pause after 410 Gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from integrations.delivery.target import Target
from integrations.models import AuditEntry, Event, Message, Runtime, Service
from integrations.policies import breaker
from integrations.policies.verdict import Verdict


def feed_back(
    runtime: Runtime, target: Target, samples: list[breaker.Sample], verdicts: Sequence[Verdict], now: datetime
) -> None:
    """Apply the results of calls to a locked runtime row, and pause the service after a 410 if it is set to pause.

    The caller saves the row.
    """
    before = runtime.breaker
    backlog = before.state == "half_open" and Message.objects.due(now).filter(service_id=runtime.pk).any_by_index()
    state, changes = breaker.apply_results(
        before, target.breaker, samples, now, concurrency=target.limits.concurrency, backlog=backlog
    )
    runtime.breaker = state
    if changes:
        Event.objects.record_changes(target.service, changes, now)
    waits = [verdict.throttle for verdict in verdicts if verdict.throttle]
    if waits:
        until = now + timedelta(seconds=max(waits))
        runtime.throttled_until = max(until, runtime.throttled_until or until)
    is_gone = any(verdict.action == "pause" for verdict in verdicts)
    # A pause by an operator stays, with its reason and its end.
    if is_gone and not (service := Service.objects.get(pk=runtime.pk)).is_paused and service.pause("answered 410 Gone"):
        Event.objects.create(type="service.paused", at=now, service=service, facts={"reason": "answered 410 Gone"})
        AuditEntry.objects.record("switchboard", "service.paused", service.name, reason="answered 410 Gone")
