"""Decide how many calls a service may have now: breaker, concurrency, rate and retry budget.

Each decision is made under the lock of the service's runtime row, so all processes agree on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from integrations.delivery.target import Target, target_for
from integrations.models import Event, Priority, Runtime, queue
from integrations.models.runtime import as_recent
from integrations.policies import breaker, limits, pacing

SLOT_HORIZON = timedelta(milliseconds=250)  # how far ahead send slots of a rate are claimed
CAREFUL_FOR = timedelta(seconds=5)  # after the last look of the operation; longer, and a clock moved back
SLOT_LEAD = timedelta(milliseconds=20)  # from the claim to its first slot: a claim takes this long until it is sent


@dataclass(slots=True)
class Admission:
    """The calls that one service may have in this claim, and the messages chosen for them."""

    runtime: Runtime
    target: Target
    permits: int  # calls that may start now
    retries: int  # of them, calls that the retry budget allows for retries
    is_probing: bool
    bulk_permits: int | None = None  # of them, calls of bulk replays; None without a limit of their own
    candidates: list[int] = field(default_factory=list)
    decided: bool = False  # whether the runtime row has changed and must be saved
    retries_chosen: int = 0
    limit: str = ""  # that allows no call now: breaker, concurrency or rate

    def wanted(self, priority: Priority, capacity: int) -> int:
        """How many more messages of this priority may be chosen."""
        room = min(self.permits, capacity) - len(self.candidates)
        if priority == Priority.RETRY and not self.is_probing:
            return min(room, self.retries - self.retries_chosen)
        if priority == Priority.BULK and self.bulk_permits is not None:
            return min(room, self.bulk_permits - len(self.candidates))
        return room

    def held_back(self, due: Collection[Priority]) -> str:
        """The limit for which due messages of these priorities wait, if it is one of the service."""
        is_spent = Priority.RETRY in due and self.retries < 1 and not self.is_probing
        return self.limit or ("budget" if is_spent else "")


def with_load(runtimes: Iterable[Runtime], now: datetime) -> list[tuple[Runtime, Target]]:
    """Count the calls and probes in flight of locked rows, and leave out the rows whose registration is unreadable.

    Both are counted from claims and from the leases of direct calls, so that a crash leaks no permit.
    """
    found = [(runtime, target_for(runtime)) for runtime in runtimes]
    usable = [(runtime, target) for runtime, target in found if target is not None]
    load = queue.load([runtime.pk for runtime, _ in usable]) if usable else {}
    for runtime, _ in usable:
        leased = runtime.leased(now)
        runtime.in_flight = sum(load[runtime.pk].values()) + len(leased)
        runtime.probes_in_flight = load[runtime.pk].get(runtime.generation, 0) + leased.count(runtime.generation)
    return usable


def admit(runtime: Runtime, target: Target, now: datetime) -> Admission:
    """Decide how many calls a service may have now, and turn its breaker if its time has come."""
    before = runtime.breaker
    state, changes = breaker.tick(before, target.breaker, now)
    if state is not before:
        runtime.breaker = state
    if changes:
        runtime.probes_in_flight = 0
        Event.objects.record_changes(target.service, changes, now)
    allowed = breaker.allowance(state, target.breaker, runtime.probes_in_flight, now)
    permits = max(0, breaker.ceiling(state, target.limits.concurrency) - runtime.in_flight)
    limit = "" if permits else "concurrency"
    if allowed is not None:
        permits = min(permits, allowed)
        limit = limit or ("" if permits else "breaker")
    if target.limits.rate:
        permits = len(send_slots(target, runtime, now, permits)[0])
        limit = limit or ("" if permits else "rate")
    return Admission(
        runtime=runtime,
        target=target,
        permits=permits,
        retries=limits.budget_left(as_recent(runtime.recent), target.retry.budget, now),
        is_probing=state.state == "half_open" and allowed is not None,
        bulk_permits=_bulk_permits(runtime, target, now),
        decided=state is not before,
        limit=limit,
    )


def _bulk_permits(runtime: Runtime, target: Target, now: datetime) -> int | None:
    """Return how many bulk calls may start while an operation finds its pace: all calls in flight may then fail, and
    the breaker does not open."""
    until, policy = runtime.careful_until, target.breaker
    if until is None or not now < until <= now + CAREFUL_FOR or not policy.enabled or runtime.state != "closed":
        return None
    return pacing.room(runtime.in_flight, runtime.consecutive, policy.consecutive_failures or None)


def send_slots(
    target: Target, runtime: Runtime, now: datetime, wanted: int
) -> tuple[tuple[datetime, ...], datetime | None]:
    """Return up to ``wanted`` send times under the service's rate, and the next free one.

    With an interval below SLOT_LEAD the first slots would pass before the claim is committed, and their calls would
    go out in a burst, so those start later.
    """
    lead = SLOT_LEAD if target.limits.rate and target.limits.interval < SLOT_LEAD else timedelta(0)
    return limits.slots(target.limits, runtime.next_slot, now + lead, wanted, SLOT_HORIZON)
