"""Preview settings before they are saved: retry times and rules in sentences, and a backtest on the last day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from dashboard.presenters.breaker_history import OpenPeriod, open_periods_since
from dashboard.presenters.sentences import backoff_summary, breaker_rules, open_duration_summary, retry_summary
from integrations.history.recorded_calls import MOST, SPAN, recorded_calls
from integrations.models import Service
from integrations.policies.backtest import Backtest, RecordedCall, backtest
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.retry import RetryPolicy

BUCKET = timedelta(minutes=15)
OPENINGS_SHOWN = 20
BARS_HIGH = 50.0


@dataclass(frozen=True, slots=True)
class PolicyPreview:
    """One group of settings in sentences, or its errors as (label of the field, text)."""

    group: str
    sentences: tuple[str, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()


def retry_preview(policy: RetryPolicy) -> PolicyPreview:
    return PolicyPreview("retries", tuple(_retries(policy)))


def breaker_preview(policy: BreakerPolicy) -> PolicyPreview:
    return PolicyPreview("breaker", tuple(_breaker(policy)))


def _retries(policy: RetryPolicy) -> Iterator[str]:
    yield retry_summary(policy, timezone.now())
    yield from backoff_summary(policy)


def _breaker(policy: BreakerPolicy) -> Iterator[str]:
    yield breaker_rules(policy)
    if policy.enabled:
        yield open_duration_summary(policy)


# ---- backtest on the last day --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Interval:
    """A part of the backtest's chart, in minutes from its start."""

    x: float
    width: float


@dataclass(frozen=True, slots=True)
class BacktestBar:
    """The calls of a quarter of an hour, on a base line at ``BARS_HIGH``."""

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
class BacktestReport:
    """Simulated and recorded breaker openings of one backtest."""

    since: datetime
    until: datetime
    simulated: Backtest
    recorded: list[OpenPeriod]
    bars: list[BacktestBar]
    recorded_intervals: list[Interval]
    simulated_intervals: list[Interval]
    longest_wait: float
    is_cut: bool  # more calls were recorded than the backtest reads

    @property
    def openings(self) -> list[Any]:
        return self.simulated.openings[:OPENINGS_SHOWN]


def backtest_report(service: Service, breaker: BreakerPolicy, retry: RetryPolicy) -> BacktestReport:
    until = timezone.now()
    calls = recorded_calls(service, until)
    is_cut = len(calls) == MOST
    since = calls[-1].started_at if is_cut else until - SPAN
    simulated = backtest(calls, breaker, retry)
    recorded = open_periods_since(service, since)
    return BacktestReport(
        since=since,
        until=until,
        simulated=simulated,
        recorded=recorded,
        bars=_bars(calls, since),
        recorded_intervals=_intervals(((period.first.at, period.closed_at) for period in recorded), since, until),
        simulated_intervals=_intervals(
            ((opening.opened_at, opening.closed_at) for opening in simulated.openings), since, until
        ),
        longest_wait=max((opening.longest_wait(until) for opening in simulated.openings), default=0.0),
        is_cut=is_cut,
    )


def _intervals(times: Iterable[tuple[datetime, datetime | None]], since: datetime, until: datetime) -> list[Interval]:
    """Intervals for the chart, at least two minutes wide to stay visible."""
    intervals = []
    for began, ended in times:
        x = max(0.0, (began - since) / timedelta(minutes=1))
        intervals.append(
            Interval(round(x, 1), round(max(2.0, ((ended or until) - since) / timedelta(minutes=1) - x), 1))
        )
    return intervals


def _bars(calls: list[RecordedCall], since: datetime) -> list[BacktestBar]:
    counted: dict[int, list[int]] = {}
    for call in calls:
        counts = counted.setdefault((call.started_at - since) // BUCKET, [0, 0])
        counts[0] += 1
        counts[1] += call.fault != ""
    scale = BARS_HIGH / max((count for count, _ in counted.values()), default=1)
    bars = []
    for place, (count, failures) in sorted(counted.items()):
        failed = max(2.0, failures * scale) if failures else 0.0  # one failure among thousands stays visible
        bars.append(
            BacktestBar(place * 15.0, count, failures, round(max(failed, 1.0, count * scale), 1), round(failed, 1))
        )
    return bars
