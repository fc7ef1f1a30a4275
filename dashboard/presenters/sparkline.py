"""Failed calls of a failure group in the last 24 hours, by hour: small in the list, larger on the group's page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from integrations.models import FailureHour

HOURS = 24
WIDTH = 10  # of an hour, in units of the viewBox
HEIGHT = 100


@dataclass(frozen=True, slots=True)
class SparklineBar:
    """One hour; lengths are in units of the viewBox."""

    hour: datetime
    count: int
    x: int
    top: float
    height: float


@dataclass(frozen=True, slots=True)
class Sparkline:
    hours: list[SparklineBar]
    width: int = HOURS * WIDTH
    height: int = HEIGHT

    @property
    def total(self) -> int:
        return sum(hour.count for hour in self.hours)

    @property
    def most(self) -> int:
        return max(hour.count for hour in self.hours)

    @property
    def busy(self) -> list[SparklineBar]:
        """The hours with failed calls, newest first, for the table."""
        return [hour for hour in reversed(self.hours) if hour.count]


def sparklines(failure_ids: Collection[int], now: datetime) -> dict[int, Sparkline]:
    """A sparkline per group, in one query."""
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=back) for back in range(HOURS - 1, -1, -1)]
    counts: dict[int, dict[datetime, int]] = defaultdict(dict)
    rows = FailureHour.objects.filter(failure__in=failure_ids, hour__gte=hours[0])
    for failure_id, hour, count in rows.values_list("failure_id", "hour", "count"):
        counts[failure_id][hour] = count
    return {failure_id: _sparkline(hours, counts[failure_id]) for failure_id in failure_ids}


def _sparkline(hours: list[datetime], counts: dict[datetime, int]) -> Sparkline:
    most = max(counts.values(), default=0)
    return Sparkline([_bar(place, hour, counts.get(hour, 0), most) for place, hour in enumerate(hours)])


def _bar(place: int, hour: datetime, count: int, most: int) -> SparklineBar:
    # At least six units, so that one call among thousands stays visible.
    height = max(6.0, HEIGHT * count / most) if count else 0.0
    return SparklineBar(hour, count, place * WIDTH + 1, round(HEIGHT - height, 1), round(height, 1))
