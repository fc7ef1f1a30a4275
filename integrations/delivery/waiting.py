"""Explain in one sentence what a message waits for. Computed on request, stored nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.db.models import Count, Q

from integrations.models import Message, Priority, Runtime, Service, ServiceStatus, Status, Worker
from integrations.models.runtime import as_recent
from integrations.policies import breaker as breaker_policy
from integrations.policies.limits import budget_left


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reason why a message waits."""

    kind: str  # one of the words in docs/contract.md
    why: str  # one sentence
    until: datetime | None = None  # the earliest time at which it can change


@dataclass(frozen=True, slots=True)
class Load:
    """Counts that all messages of a service share, so that a list counts once for each service."""

    in_flight: int = 0  # messages being sent; direct calls are in the runtime row
    probes: int = 0  # of them, probes for the breaker's current generation
    has_workers: bool = True

    @classmethod
    def of(cls, runtime: Runtime, now: datetime) -> Load:
        delivering = Message.objects.filter(service=runtime.service_id).delivering()
        probes = Count("pk", filter=Q(probe_generation=runtime.generation))
        counted = delivering.aggregate(in_flight=Count("pk"), probes=probes)
        return cls(**counted, has_workers=Worker.objects.alive(now).exists())


def waiting_for(message: Message, now: datetime, load: Load | None = None) -> Waiting | None:
    """Return the reason why a message waits, or None if it is finished.

    Reads the service's runtime row, and its load unless ``load`` is given.
    """
    if message.is_finished:
        return None
    service = message.service
    if message.status == Status.DELIVERING:
        return Waiting("worker", "A worker is sending it now.")
    if own := _own_reason(message, now):
        return own
    load = load or Load.of(service.runtime, now)
    return _service_reason(message, service, service.runtime, load, now) or _no_worker(load)


def _own_reason(message: Message, now: datetime) -> Waiting | None:
    if message.held:
        why = "It was held when the service was resumed or a backup restored. Retry it now or cancel it."
        return Waiting("held", why)
    if message.service.status == ServiceStatus.PAUSED:
        reason = f": {message.service.paused_reason}" if message.service.paused_reason else ""
        return Waiting("paused", f"{message.service.name} is paused{reason}.", message.service.paused_until)
    if message.service.is_being_deleted:
        return Waiting("paused", f"{message.service.name} is being deleted, and its messages with it.")
    if message.parked:
        return Waiting("ordering", f"An earlier message with the key “{message.ordering_key}” is not finished.")
    if message.due_at and message.due_at > now:
        if message.retry_at:
            return Waiting("retry", "The last call failed. It is retried at that time.", message.due_at)
        return Waiting("schedule", "It is scheduled for that time.", message.due_at)
    return None


def _service_reason(message: Message, service: Service, runtime: Runtime, load: Load, now: datetime) -> Waiting | None:
    state, leased = runtime.breaker, runtime.leased(now)
    probes, in_flight = load.probes + leased.count(runtime.generation), load.in_flight + len(leased)
    allowed = breaker_policy.allowance(state, service.breaker_policy, probes, now)
    if allowed == 0:
        why = f" ({state.reason})" if state.reason else ""
        if state.state == "half_open":
            return Waiting("breaker", f"The breaker of {service.name} is half-open and waits for its probe.")
        return Waiting("breaker", f"The breaker of {service.name} is open{why}.", state.retry_at or state.mode_until)
    if runtime.is_throttled(now):
        why = f"{service.name} asked us to wait. Closing the breaker manually resumes calls now."
        return Waiting("rate", why, runtime.throttled_until)
    if service.limits_policy.rate and runtime.next_slot and runtime.next_slot > now:
        return Waiting("rate", f"The rate limit of {service.name} is used up for the moment.", runtime.next_slot)
    if in_flight >= service.limits_policy.concurrency:
        return Waiting("concurrency", f"{service.name} has {in_flight} calls in flight, its maximum.")
    left = budget_left(as_recent(runtime.recent), service.retry_policy.budget, now)
    if message.priority == Priority.RETRY and left <= 0:
        return Waiting("budget", f"The retry budget of {service.name} is used up for this minute.")
    return None


def _no_worker(load: Load) -> Waiting:
    if load.has_workers:
        return Waiting("worker", "It is due and waits for a free worker.")
    return Waiting("worker", f"No worker is running. Start one with {settings.PROGRAM} up.")
