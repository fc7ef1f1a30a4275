"""Charts of calls and their durations, drawn by the server from the engine's counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Sum

from integrations.models import Service, Tally, TallyDay, TallyHour
from integrations.models.tally import DURATIONS, TallyBase, quantile

WIDTH, HEIGHT = 600, 100
COLUMNS = ("calls", "failures", "seconds", *DURATIONS)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The time range of a chart, and the step of its bars."""

    name: str  # in addresses
    label: str  # "in the last …"
    unit: str  # of one bar: minute, hour or day
    counters: type[TallyBase]
    step: timedelta
    bars: int
    time_format: str

    def starts(self, now: datetime) -> list[datetime]:
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        newest = day + (now - day) // self.step * self.step
        return [newest - back * self.step for back in range(self.bars - 1, -1, -1)]


TIME_RANGES = (
    TimeRange("hour", "hour", "minute", Tally, timedelta(minutes=1), 60, "H:i"),
    TimeRange("day", "day", "hour", TallyHour, timedelta(hours=1), 24, "H:i"),
    TimeRange("month", "30 days", "day", TallyDay, timedelta(days=1), 30, "j M"),
)


def time_range_named(name: str | None) -> TimeRange:
    """The time range of this name; the shortest one for an unknown name."""
    return next((time_range for time_range in TIME_RANGES if time_range.name == name), TIME_RANGES[0])


@dataclass(frozen=True, slots=True)
class CallBar:
    """One minute, hour or day; lengths are in units of the viewBox."""

    start: datetime
    calls: int
    failures: int
    average: float | None  # seconds
    p95: float | None
    x: float
    width: float
    top: float
    height: float
    failed_top: float
    failed_height: float
    p95_top: float
    p95_height: float
    average_top: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Calls, with the failed ones at the foot of each bar, and their durations."""

    time_range: TimeRange
    bars: list[CallBar]
    most: int  # calls in one bar
    longest: float | None  # the greatest p95, in seconds
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def ranges(self) -> Sequence[TimeRange]:
        """All time ranges, to choose from."""
        return TIME_RANGES

    @property
    def start(self) -> datetime:
        return self.bars[0].start

    @property
    def calls(self) -> int:
        return sum(bar.calls for bar in self.bars)

    @property
    def failures(self) -> int:
        return sum(bar.failures for bar in self.bars)

    @property
    def busy(self) -> list[CallBar]:
        """The bars with calls, newest first, for the table."""
        return [bar for bar in reversed(self.bars) if bar.calls]


def chart(now: datetime, time_range: TimeRange, service: Service | None = None) -> Chart:
    """Calls and durations over a time range, of one service or all. One query."""
    starts = time_range.starts(now)
    counted = time_range.counters._default_manager.filter(start__gte=starts[0])
    if service is not None:
        counted = counted.filter(service=service)
    sums: Any = counted.values_list("start").annotate(*(Sum(name) for name in COLUMNS)).order_by()
    found = {start: row for start, *row in sums}
    rows = [found.get(start, [0] * len(COLUMNS)) for start in starts]
    most = max(row[0] for row in rows)
    longest = max((p95 for row in rows if (p95 := quantile(0.95, row[3:])) is not None), default=None)
    bars = [
        _bar(place, time_range, start, row, most, longest)
        for place, (start, row) in enumerate(zip(starts, rows, strict=True))
    ]
    return Chart(time_range, bars, most, longest)


def _bar(
    place: int, time_range: TimeRange, start: datetime, row: list[float], most: int, longest: float | None
) -> CallBar:
    calls, failures, seconds, *durations = row
    average = seconds / calls if calls else None
    p95 = quantile(0.95, [int(count) for count in durations])
    # At least two units, so that one failure among thousands stays visible.
    failed = max(2.0, failures * HEIGHT / most) if failures else 0.0
    whole = max(failed, max(1.0, calls * HEIGHT / most) if calls else 0.0)
    longer = max(1.0, p95 * HEIGHT / longest) if p95 and longest else 0.0
    usual = min(longer, average * HEIGHT / longest) if average and longest else 0.0
    step = WIDTH / time_range.bars
    return CallBar(
        start=start,
        calls=int(calls),
        failures=int(failures),
        average=average,
        p95=p95,
        x=round((place + 0.1) * step, 2),
        width=round(step * 0.8, 2),
        top=round(HEIGHT - whole, 2),
        height=round(whole - failed, 2),
        failed_top=round(HEIGHT - failed, 2),
        failed_height=round(failed, 2),
        p95_top=round(HEIGHT - longer, 2),
        p95_height=round(longer, 2),
        average_top=round(HEIGHT - usual, 2),
    )
