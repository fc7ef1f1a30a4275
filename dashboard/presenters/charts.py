"""Charts of calls and their durations from the engine's counters: the values as a table, which static/charts.js draws.

A chart covers the time up to now, or between two times of the address. How old these are and how far apart decides
whether it counts minutes, hours or days (integrations/history/rollups.py keeps minutes for three days).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from django.db.models import Sum
from django.utils import timezone

from dashboard.presenters.sentences import event_summary
from integrations.history.rollups import HOURS_KEPT, MINUTES_KEPT
from integrations.models import Service, Tally, TallyDay, TallyHour
from integrations.models.tally import DURATIONS, TallyBase, quantile

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
LONGEST = 366 * DAY  # the bars of a longer chart would be less than a pixel apart
MARKS_SHOWN = 30  # the newest changes; more lines would hide the chart
COLUMNS = ("calls", "failures", *DURATIONS)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The time that a chart covers, and the step of its bars."""

    query: str  # of the address
    label: str  # "in the last hour", "from 14:03 to 14:30"
    counters: type[TallyBase]
    step: timedelta
    start: datetime
    end: datetime  # the end of the newest bar
    name: str = ""  # in TIME_RANGES; empty for one between two times

    @property
    def unit(self) -> str:
        """Of one bar: "minute", "5 minutes", "hour" or "day"."""
        if self.step >= HOUR:
            return "day" if self.step == DAY else "hour"
        return "minute" if self.step == MINUTE else f"{self.step // MINUTE} minutes"

    @property
    def time_format(self) -> str:
        if self.step == DAY:
            return "j M"
        return "H:i" if self.end - self.start <= DAY else "j M H:i"

    @property
    def bars(self) -> int:
        return (self.end - self.start) // self.step

    @property
    def starts(self) -> list[datetime]:
        return [self.start + place * self.step for place in range(self.bars)]


# name in addresses: ("in the last …", counters, step, bars)
TIME_RANGES: Mapping[str, tuple[str, type[TallyBase], timedelta, int]] = {
    "hour": ("hour", Tally, MINUTE, 60),
    "day": ("day", TallyHour, HOUR, 24),
    "month": ("30 days", TallyDay, DAY, 30),
}


def time_range_of(query: Mapping[str, str], now: datetime) -> TimeRange:
    """The time range of an address: ``span=day``, or ``from`` and ``until``; the shortest one for anything else."""
    start, end = _moment(query.get("from")), _moment(query.get("until"))
    if start and end and start < min(end, now):
        return _between(start, min(end, now), now)
    name = query.get("span", "")
    return latest(name if name in TIME_RANGES else next(iter(TIME_RANGES)), now)


def latest(name: str, now: datetime) -> TimeRange:
    """A time range of TIME_RANGES, up to now."""
    label, counters, step, bars = TIME_RANGES[name]
    end = _floor(now, step) + step
    return TimeRange(f"span={name}", f"in the last {label}", counters, step, end - bars * step, end, name)


def _between(start: datetime, end: datetime, now: datetime) -> TimeRange:
    start = max(start, end - LONGEST)
    counters, step = _resolution(end - start, now - start)
    start, last = _floor(start, step), _floor(end, step)
    end = last if last == end and last > start else last + step
    query = urlencode({"from": _utc_text(start), "until": _utc_text(end)}, safe=":")
    return TimeRange(query, _label(start, end, step, now), counters, step, start, end)


def _label(start: datetime, end: datetime, step: timedelta, now: datetime) -> str:
    """“from 14:03 to 14:30” today, “from 1 May to 3 May” for three days."""
    last = end - step if step == DAY else end
    first, last, today = (timezone.localtime(moment) for moment in (start, last, now))
    form = "%-d %b" if step == DAY else "%H:%M" if first.date() == last.date() == today.date() else "%-d %b %H:%M"
    return f"from {first:{form}} to {last:{form}}"


def _resolution(length: timedelta, age: timedelta) -> tuple[type[TallyBase], timedelta]:
    """The finest counters that are kept for this age, with at most 120 bars (366 of days)."""
    if length <= 6 * HOUR and age < MINUTES_KEPT:
        return Tally, MINUTE if length <= 2 * HOUR else 5 * MINUTE
    if length <= 5 * DAY and age < HOURS_KEPT:
        return TallyHour, HOUR
    return TallyDay, DAY


def _floor(moment: datetime, step: timedelta) -> datetime:
    """The start of the bar of this time; days are in UTC."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + (moment - day) // step * step


def _moment(text: str | None) -> datetime | None:
    """A time of an address, in the viewer's zone unless it names one; None if it is not one."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if moment.year not in range(2000, 9000):  # Python's own limits are near, and no call was made then
        return None
    return (moment if moment.tzinfo else timezone.make_aware(moment)).astimezone(UTC)


def _utc_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


@dataclass(frozen=True, slots=True)
class CallBar:
    """One minute, hour or day, or all of them together; durations in seconds."""

    start: datetime
    end: datetime
    calls: int
    failures: int
    p50: float | None
    p95: float | None
    p99: float | None

    @property
    def values(self) -> str:
        """For static/charts.js: start, calls, failures, P50, P95, P99; times in seconds."""
        durations = (f"{seconds:.4g}" for seconds in (self.p50, self.p95, self.p99) if seconds is not None)
        return " ".join((f"{self.start.timestamp():.0f}", str(self.calls), str(self.failures), *durations))

    @property
    def search(self) -> str:
        """The search for the messages of this time."""
        return f"after:{_utc_text(self.start)} before:{_utc_text(self.end)}"


@dataclass(frozen=True, slots=True)
class Mark:
    """A change of the service, which may explain a change of the values."""

    pk: int
    at: datetime
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Calls, failed calls and percentiles of the duration over a time range."""

    time_range: TimeRange
    bars: list[CallBar]  # those with calls, oldest first
    whole: CallBar
    marks: list[Mark]  # of the service, newest first
    service: Service | None

    @property
    def ranges(self) -> list[tuple[str, str]]:
        """Name and label of the time ranges to choose from."""
        return [(name, label) for name, (label, *_) in TIME_RANGES.items()]

    @property
    def newest_first(self) -> list[CallBar]:
        return self.bars[::-1]


def chart(time_range: TimeRange, service: Service | None = None) -> Chart:
    """Calls and durations over a time range: of all services in one query, of one service in two, with its changes."""
    start, end = time_range.start, time_range.end
    counted = time_range.counters._default_manager.filter(start__gte=start, start__lt=end)
    if service is not None:
        counted = counted.filter(service=service)
    sums: Any = counted.values_list("start").annotate(*(Sum(name) for name in COLUMNS)).order_by("start")
    rows = list(sums)
    bars = [
        _bar(first, first + time_range.step, [row[1:] for row in group])
        for first, group in groupby(rows, key=lambda row: _floor(row[0], time_range.step))
    ]
    whole = _bar(start, end, [row[1:] for row in rows])
    marks = _marks(start, end, service) if service else []
    return Chart(time_range, [bar for bar in bars if bar.calls], whole, marks, service)


def _bar(start: datetime, end: datetime, rows: list[list[int]]) -> CallBar:
    calls, failures, *durations = [sum(column) for column in zip(*rows, strict=True)] or [0] * len(COLUMNS)
    p50, p95, p99 = (quantile(share, durations) for share in (0.5, 0.95, 0.99))
    return CallBar(start, end, calls, failures, p50, p95, p99)


def _marks(start: datetime, end: datetime, service: Service) -> list[Mark]:
    events = service.events.changes_between(start, end)[:MARKS_SHOWN]
    return [Mark(event.pk, event.at, event_summary(event)) for event in events]
