"""What several processes must agree on for one service: breaker, rate, recovery. One small row, locked to decide.

It lies apart from the service that operators edit, so that a form never overwrites what workers count.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from django.db import models

from integrations.models.service import Service
from integrations.policies.breaker import BreakerState

if TYPE_CHECKING:
    from collections.abc import Sequence


class RuntimeQuerySet(models.QuerySet["Runtime"]):
    def locked(self, service_ids: Sequence[int]) -> list[Runtime]:
        """Waits for the rows, in one order everywhere so that two settlements cannot lock each other out."""
        return list(
            self.filter(service_id__in=service_ids)
            .select_related("service")
            .select_for_update(of=("self",))
            .order_by("service_id")
        )


class Runtime(models.Model):
    """The state of a service's breaker and limits, as all processes see it."""

    service = models.OneToOneField(Service, on_delete=models.CASCADE, primary_key=True, related_name="runtime")

    state = models.CharField(max_length=9, default="closed")
    mode = models.CharField(max_length=11, default="auto")
    mode_until = models.DateTimeField(null=True)
    reason = models.CharField(max_length=500, blank=True)
    opened_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    reopenings = models.PositiveIntegerField(default=0)
    generation = models.PositiveIntegerField(default=0)
    consecutive = models.PositiveIntegerField(default=0)
    window = models.JSONField(default=str, blank=True)
    probes_succeeded = models.PositiveIntegerField(default=0)
    ramp = models.PositiveIntegerField(null=True)
    observed_open = models.BooleanField(default=False)

    next_slot = models.DateTimeField(null=True)  # the next free send slot under limits.rate
    throttled_until = models.DateTimeField(null=True)  # a 429 or 503 asked to wait
    recent = models.JSONField(default=list)  # calls and retries of the last minute, for the retry budget
    turn = models.PositiveBigIntegerField(default=0)  # services take turns: the least lately served is first

    objects: ClassVar[RuntimeQuerySet] = RuntimeQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"runtime of {self.service_id}"

    @property
    def breaker(self) -> BreakerState:
        return BreakerState.from_json({name: getattr(self, name) for name in BREAKER_FIELDS})

    @breaker.setter
    def breaker(self, state: BreakerState) -> None:
        for name, value in state.as_json().items():
            setattr(self, name, value)

    def is_throttled(self, now: datetime) -> bool:
        return self.throttled_until is not None and self.throttled_until > now

    def save_decided(self, *names: str) -> None:
        """Writes what was decided under the row's lock."""
        self.save(update_fields=list(names or DECIDED_FIELDS))


BREAKER_FIELDS = (
    "state",
    "mode",
    "mode_until",
    "reason",
    "opened_at",
    "retry_at",
    "reopenings",
    "generation",
    "consecutive",
    "window",
    "probes_succeeded",
    "ramp",
    "observed_open",
)
DECIDED_FIELDS = (*BREAKER_FIELDS, "next_slot", "throttled_until", "recent", "turn")


def as_recent(value: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((int(bucket), int(calls), int(retries)) for bucket, calls, retries in value)
