"""Counters per service and minute, hour and day, so that charts and rates never count history.

Settlements add to their minute; integrations/history/rollups.py sums minutes into hours and days.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection, models
from django.db.models import Max, Sum

from integrations.models.service import Service
from integrations.models.sql import prepared

# Durations of calls, in seconds: each column counts the calls above the previous bound and up to its own. The columns
# of FINER split a coarser one, which counts their calls too, so that a process of the version before, which knows only
# the coarser columns, reads and writes them as it did (migration 0009).
DURATIONS = {
    "within_1ms": 0.001,
    "within_2ms": 0.002,
    "within_3ms": 0.003,
    "within_5ms": 0.005,
    "within_7ms": 0.007,
    "within_10ms": 0.01,
    "within_15ms": 0.015,
    "within_20ms": 0.02,
    "within_30ms": 0.03,
    "within_50ms": 0.05,
    "within_70ms": 0.07,
    "within_100ms": 0.1,
    "within_150ms": 0.15,
    "within_200ms": 0.2,
    "within_300ms": 0.3,
    "within_500ms": 0.5,
    "within_700ms": 0.7,
    "within_1s": 1.0,
    "within_2s": 2.0,
    "within_5s": 5.0,
    "within_10s": 10.0,
    "within_30s": 30.0,
    "beyond_30s": math.inf,
}
FINER = frozenset(f"within_{milliseconds}ms" for milliseconds in (1, 2, 3, 5, 7, 15, 30, 70, 150, 300, 700))
COARSER = {name: bound for name, bound in DURATIONS.items() if name not in FINER}
BOUNDS = tuple(DURATIONS.values())
# For each column that splits another, its place and the place of that other one.
_PARTS = {
    place: next(other for other in range(place, len(BOUNDS)) if list(DURATIONS)[other] not in FINER)
    for place, name in enumerate(DURATIONS)
    if name in FINER
}
COUNTER_COLUMNS = (
    "calls",
    "failures",
    "retries",
    "delivered",
    "dead",
    "lost",
    "checks",
    "failed_checks",
    "seconds",
    *DURATIONS,
)


@dataclass(slots=True)
class Counts:
    """One settlement's addition to one service's minute."""

    calls: int = 0
    failures: int = 0
    retries: int = 0
    delivered: int = 0
    dead: int = 0
    lost: int = 0  # calls whose worker was lost, which are not among the calls: they have no result
    checks: int = 0  # health checks, which are not among the calls
    failed_checks: int = 0
    seconds: float = 0.0  # of all calls together
    durations: list[int] = field(default_factory=lambda: [0] * len(BOUNDS))

    def took(self, seconds: float) -> None:
        self.seconds += seconds
        place = bisect_left(BOUNDS, seconds)
        self.durations[place] += 1
        if place in _PARTS:
            self.durations[_PARTS[place]] += 1

    def row(self) -> tuple[float, ...]:
        """The values in the order of COUNTER_COLUMNS."""
        return tuple(getattr(self, name) for name in COUNTER_COLUMNS[: -len(BOUNDS)]) + tuple(self.durations)


class TallyBase(models.Model):
    """One service's calls in a span of time from ``start`` on."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, db_index=False, related_name="+")
    start = models.DateTimeField()
    calls = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    retries = models.PositiveIntegerField(default=0)
    delivered = models.PositiveIntegerField(default=0)
    dead = models.PositiveIntegerField(default=0)
    lost = models.IntegerField(default=0, db_default=0)
    checks = models.PositiveIntegerField(default=0)
    failed_checks = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0)
    within_10ms = models.PositiveIntegerField(default=0)
    within_20ms = models.PositiveIntegerField(default=0)
    within_50ms = models.PositiveIntegerField(default=0)
    within_100ms = models.PositiveIntegerField(default=0)
    within_200ms = models.PositiveIntegerField(default=0)
    within_500ms = models.PositiveIntegerField(default=0)
    within_1s = models.PositiveIntegerField(default=0)
    within_2s = models.PositiveIntegerField(default=0)
    within_5s = models.PositiveIntegerField(default=0)
    within_10s = models.PositiveIntegerField(default=0)
    within_30s = models.PositiveIntegerField(default=0)
    beyond_30s = models.PositiveIntegerField(default=0)
    within_1ms = models.IntegerField(default=0, db_default=0)
    within_2ms = models.IntegerField(default=0, db_default=0)
    within_3ms = models.IntegerField(default=0, db_default=0)
    within_5ms = models.IntegerField(default=0, db_default=0)
    within_7ms = models.IntegerField(default=0, db_default=0)
    within_15ms = models.IntegerField(default=0, db_default=0)
    within_30ms = models.IntegerField(default=0, db_default=0)
    within_70ms = models.IntegerField(default=0, db_default=0)
    within_150ms = models.IntegerField(default=0, db_default=0)
    within_300ms = models.IntegerField(default=0, db_default=0)
    within_700ms = models.IntegerField(default=0, db_default=0)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.service_id} {self.start:%F %H:%M}"


class Tally(TallyBase):
    """One service's minute."""

    class Meta:
        constraints = (models.UniqueConstraint(fields=["service", "start"], name="tally_of_minute"),)
        indexes = (models.Index(fields=["start"], name="tally_by_minute"),)


class TallyHour(TallyBase):
    """One service's hour."""

    class Meta:
        constraints = (models.UniqueConstraint(fields=["service", "start"], name="tally_of_hour"),)
        indexes = (models.Index(fields=["start"], name="tally_by_hour"),)


class TallyDay(TallyBase):
    """One service's day, in UTC."""

    class Meta:
        constraints = (models.UniqueConstraint(fields=["service", "start"], name="tally_of_day"),)
        indexes = (models.Index(fields=["start"], name="tally_by_day"),)


def add(counts: dict[int, Counts], now: datetime) -> None:
    """Add to this minute's counters in one statement (the ORM's upsert can set a column, but not add to it).

    Call it last in a transaction: its rows are locked after all others, in the order of their services.
    """
    if not counts:
        return
    minute = connection.ops.adapt_datetimefield_value(now.replace(second=0, microsecond=0))
    rows: list[Sequence[Any]] = [(service_id, minute, *counted.row()) for service_id, counted in sorted(counts.items())]
    places = ", ".join([f"(%s, %s{', %s' * len(COUNTER_COLUMNS)})"] * len(rows))
    added = ", ".join(f"{name} = integrations_tally.{name} + excluded.{name}" for name in COUNTER_COLUMNS)
    with prepared() as cursor:
        cursor.execute(
            f"INSERT INTO integrations_tally (service_id, start, {', '.join(COUNTER_COLUMNS)}) VALUES {places} "  # noqa: S608 - names are ours
            f"ON CONFLICT (service_id, start) DO UPDATE SET {added}",
            [value for row in rows for value in row],
        )


def totals(columns: Sequence[str]) -> dict[int, dict[str, float]]:
    """The sums of these columns since ever, by service id: days before the newest day, then hours before the newest
    hour, then minutes. So they have the calls of a moment ago, and read some 150 rows of a busy service."""
    day, hour = (table._default_manager.aggregate(newest=Max("start"))["newest"] for table in (TallyDay, TallyHour))
    parts: list[models.QuerySet[Any]] = [Tally.objects.filter(start__gte=hour) if hour else Tally.objects.all()]
    if hour:
        hours = TallyHour.objects.filter(start__lt=hour)
        parts.append(hours.filter(start__gte=day) if day else hours)
    if day:
        parts.append(TallyDay.objects.filter(start__lt=day))
    found: dict[int, dict[str, float]] = {}
    for part in parts:
        sums = part.values_list("service_id").annotate(*(Sum(name) for name in columns)).order_by()
        for service_id, *row in sums:
            total = found.setdefault(service_id, dict.fromkeys(columns, 0))
            for name, value in zip(columns, row, strict=True):
                total[name] += value
    return found


def quantile(share: float, durations: Sequence[int]) -> float | None:
    """Estimate a quantile of the calls' durations in seconds, such as 0.95 for P95, from counts by DURATIONS; None
    without calls. Between two bounds, durations are taken as evenly spread; above the last bound it returns that."""
    counts = list(durations)
    for place, whole in _PARTS.items():
        counts[whole] -= durations[place]
    wanted = share * sum(counts)
    below, passed = 0.0, 0
    for bound, count in zip(BOUNDS, counts, strict=True):
        if count > 0 and passed + count >= wanted:
            return below if math.isinf(bound) else below + (bound - below) * (wanted - passed) / count
        below, passed = (below if math.isinf(bound) else bound), passed + count
    return None
