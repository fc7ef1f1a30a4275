"""Limits that slow calls to a service down while its breaker lets them through: retry budget, ramp-up, Retry-After."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dashboard.presenters.service_stats import WAITING_CAP, Standing
from integrations.models import Message, Priority
from integrations.models.runtime import as_recent
from integrations.policies import breaker
from integrations.policies.limits import budget_use


@dataclass(slots=True)
class Slowdowns:
    """Current limits on calls to a service. ``waiting`` is capped, and None if it was not counted."""

    retries: int  # in the last minute
    retries_allowed: int
    concurrency_now: int  # concurrent calls allowed during the ramp-up after the breaker closed
    concurrency: int  # the service's limit
    throttled_until: datetime | None
    waiting: int | None = None  # due messages that wait for the retry budget

    @property
    def is_spent(self) -> bool:
        return self.retries >= self.retries_allowed

    @property
    def is_ramping(self) -> bool:
        return self.concurrency_now < self.concurrency


def slowdowns_of(standing: Standing, *, count_waiting: bool = False) -> Slowdowns:
    """The slowdowns of a service. Its one query counts the messages that wait for a spent retry budget, on request."""
    service, runtime, now = standing.service, standing.runtime, standing.now
    retries, allowed = budget_use(as_recent(runtime.recent), service.retry_policy.budget, now)
    concurrency = service.limits_policy.concurrency
    found = Slowdowns(
        retries=retries,
        retries_allowed=allowed,
        concurrency_now=breaker.ceiling(runtime.breaker, concurrency),
        concurrency=concurrency,
        throttled_until=runtime.throttled_until if runtime.is_throttled(now) else None,
    )
    if count_waiting and found.is_spent:
        due = Message.objects.for_service(service).due(now).filter(priority=Priority.RETRY)
        found.waiting = due[:WAITING_CAP].count()
    return found
