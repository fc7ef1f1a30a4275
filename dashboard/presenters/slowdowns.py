"""What slows a service down beside its breaker's state: the retry budget, the release after a closing, a 429."""

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
    """How fast a service may be called now. ``waiting`` is capped, and None where it was not counted."""

    retries: int  # of the last minute
    retries_allowed: int
    concurrency_now: int  # calls at once, now
    concurrency: int  # and at most
    throttled_until: datetime | None
    waiting: int | None = None  # due messages that wait for the retry budget

    @property
    def is_spent(self) -> bool:
        return self.retries >= self.retries_allowed

    @property
    def is_ramping(self) -> bool:
        return self.concurrency_now < self.concurrency


def slowdowns_of(standing: Standing, *, count_waiting: bool = False) -> Slowdowns:
    """Reads nothing, but for the messages that wait for a budget that is spent, where they are to be counted."""
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
