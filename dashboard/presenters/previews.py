"""What settings would do, before they are saved: retry times and rules in words, and the last day tried again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from dashboard.presenters.breaker_history import Trip, trips_since
from dashboard.presenters.sentences import breaker_rule_words, open_words, retry_words, wait_words
from integrations.history.recorded_calls import MOST, SPAN, recorded_calls
from integrations.models import Service
from integrations.policies.backtest import Backtest, RecordedCall, backtest
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.retry import RetryPolicy

BUCKET = timedelta(minutes=15)
OPENINGS_SHOWN = 20
BARS_HIGH = 50.0


@dataclass(frozen=True, slots=True)
class Preview:
    """One group of settings in words, or what is wrong with them: (name of the field, words)."""

    group: str
    words: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()


def retry_preview(policy: RetryPolicy) -> Preview:
    return Preview("retries", tuple(_retries(policy)))


def breaker_preview(policy: BreakerPolicy) -> Preview:
    return Preview("breaker", tuple(_breaker(policy)))


def _retries(policy: RetryPolicy) -> Iterator[str]:
    yield retry_words(policy, timezone.now())
    yield from wait_words(policy)


def _breaker(policy: BreakerPolicy) -> Iterator[str]:
    yield breaker_rule_words(policy)
    if policy.enabled:
        yield open_words(policy)


# ---- the last day, tried again --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Span:
    """A part of the timeline, in minutes from its start."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Bar:
    """A quarter of an hour of calls, on a foot at ``BARS_HIGH``."""

    x: float
    calls: int
    failures: int
    height: float
    failed_height: float

    @property
    def top(self) -> float:
        return BARS_HIGH - self.height

    @property
    def failed_top(self) -> float:
        return BARS_HIGH - self.failed_height


@dataclass(frozen=True, slots=True)
class Trial:
    """What a page says of a backtest, beside what really happened."""

    since: datetime
    until: datetime
    tried: Backtest
    trips: list[Trip]  # recorded
    bars: list[Bar]
    open_then: list[Span]
    open_tried: list[Span]
    longest_wait: float
    is_cut: bool  # there were more calls than are looked at

    @property
    def openings(self) -> list[Any]:
        return self.tried.openings[:OPENINGS_SHOWN]


def trial(service: Service, breaker: BreakerPolicy, retry: RetryPolicy) -> Trial:
    until = timezone.now()
    calls = recorded_calls(service, until)
    is_cut = len(calls) == MOST
    since = calls[-1].started_at if is_cut else until - SPAN
    tried = backtest(calls, breaker, retry)
    trips = trips_since(service, since)
    return Trial(
        since=since,
        until=until,
        tried=tried,
        trips=trips,
        bars=_bars(calls, since),
        open_then=_spans(((trip.first.at, trip.closed_at) for trip in trips), since, until),
        open_tried=_spans(((opening.opened_at, opening.closed_at) for opening in tried.openings), since, until),
        longest_wait=max((opening.longest_wait(until) for opening in tried.openings), default=0.0),
        is_cut=is_cut,
    )


def _spans(times: Iterable[tuple[datetime, datetime | None]], since: datetime, until: datetime) -> list[Span]:
    """Two minutes wide at least, so that they can be seen."""
    spans = []
    for began, ended in times:
        x = max(0.0, (began - since) / timedelta(minutes=1))
        spans.append(Span(round(x, 1), round(max(2.0, ((ended or until) - since) / timedelta(minutes=1) - x), 1)))
    return spans


def _bars(calls: list[RecordedCall], since: datetime) -> list[Bar]:
    counted: dict[int, list[int]] = {}
    for call in calls:
        counts = counted.setdefault((call.started_at - since) // BUCKET, [0, 0])
        counts[0] += 1
        counts[1] += call.fault != ""
    scale = BARS_HIGH / max((count for count, _ in counted.values()), default=1)
    bars = []
    for place, (count, failures) in sorted(counted.items()):
        failed = max(2.0, failures * scale) if failures else 0.0  # one among thousands must still be seen
        bars.append(Bar(place * 15.0, count, failures, round(max(failed, 1.0, count * scale), 1), round(failed, 1)))
    return bars
