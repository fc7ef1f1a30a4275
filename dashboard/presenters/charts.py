"""Charts of calls and how long they took, drawn by the server from the counters that the engine keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Sum

from integrations.models import Service, Tally, TallyDay, TallyHour
from integrations.models.tally import DURATIONS, Counted, quantile

WIDTH, HEIGHT = 600, 100
COLUMNS = ("calls", "failures", "seconds", *DURATIONS)


@dataclass(frozen=True, slots=True)
class Span:
    """How far back a chart goes, and what each of its bars stands for."""

    name: str  # in addresses
    words: str  # "in the last …"
    each: str
    counters: type[Counted]
    step: timedelta
    bars: int
    time_format: str

    def starts(self, now: datetime) -> list[datetime]:
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        newest = day + (now - day) // self.step * self.step
        return [newest - back * self.step for back in range(self.bars - 1, -1, -1)]


SPANS = (
    Span("hour", "hour", "minute", Tally, timedelta(minutes=1), 60, "H:i"),
    Span("day", "day", "hour", TallyHour, timedelta(hours=1), 24, "H:i"),
    Span("month", "30 days", "day", TallyDay, timedelta(days=1), 30, "j M"),
)


def span_named(name: str | None) -> Span:
    """The shortest one where there is none of this name."""
    return next((span for span in SPANS if span.name == name), SPANS[0])


@dataclass(frozen=True, slots=True)
class Bar:
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
    """Calls with the failed ones at the foot of each bar, and their durations."""

    span: Span
    bars: list[Bar]
    most: int  # calls in one bar
    longest: float | None  # the greatest p95, in seconds
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def spans(self) -> Sequence[Span]:
        """All that there are, to choose from."""
        return SPANS

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
    def busy(self) -> list[Bar]:
        """For the table: when something happened, newest first."""
        return [bar for bar in reversed(self.bars) if bar.calls]


def chart(now: datetime, span: Span, service: Service | None = None) -> Chart:
    """One query, whatever the span."""
    starts = span.starts(now)
    counted = span.counters._default_manager.filter(start__gte=starts[0])
    if service is not None:
        counted = counted.filter(service=service)
    sums: Any = counted.values_list("start").annotate(*(Sum(name) for name in COLUMNS)).order_by()
    found = {start: row for start, *row in sums}
    rows = [found.get(start, [0] * len(COLUMNS)) for start in starts]
    most = max(row[0] for row in rows)
    longest = max((p95 for row in rows if (p95 := quantile(0.95, row[3:])) is not None), default=None)
    bars = [
        _bar(place, span, start, row, most, longest)
        for place, (start, row) in enumerate(zip(starts, rows, strict=True))
    ]
    return Chart(span, bars, most, longest)


def _bar(place: int, span: Span, start: datetime, row: list[float], most: int, longest: float | None) -> Bar:
    calls, failures, seconds, *durations = row
    average = seconds / calls if calls else None
    p95 = quantile(0.95, [int(count) for count in durations])
    # A single failure among thousands must still be seen: two units at least.
    failed = max(2.0, failures * HEIGHT / most) if failures else 0.0
    whole = max(failed, max(1.0, calls * HEIGHT / most) if calls else 0.0)
    longer = max(1.0, p95 * HEIGHT / longest) if p95 and longest else 0.0
    usual = min(longer, average * HEIGHT / longest) if average and longest else 0.0
    step = WIDTH / span.bars
    return Bar(
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
