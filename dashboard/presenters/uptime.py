"""Uptime of services from their calls and health checks, by hour and by day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from dashboard.presenters.charts import TimeRange

WIDTH = 10  # of one hour or day, in units of the viewBox
GOOD = 0.999  # an hour is good from this share of successful calls and checks
BAD = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive hours or days with the same tone."""

    tone: str  # good, mixed, bad, none
    start: datetime
    length: int
    x: int
    total: int
    failed: int

    @property
    def width(self) -> float:
        return self.length * WIDTH - 1.0

    @property
    def share(self) -> float | None:
        return 1 - self.failed / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class Uptime:
    """The uptime of one service over one time range."""

    time_range: TimeRange
    runs: list[Run]

    @property
    def width(self) -> int:
        return self.time_range.bars * WIDTH

    @property
    def share(self) -> float | None:
        """The share of successful calls and checks; None without any."""
        total = sum(run.total for run in self.runs)
        return 1 - sum(run.failed for run in self.runs) / total if total else None

    @property
    def troubled(self) -> int:
        """Number of hours or days that were not good."""
        return sum(run.length for run in self.runs if run.tone in ("mixed", "bad"))


def uptimes(service_ids: Collection[int], time_range: TimeRange) -> dict[int, Uptime]:
    """The uptime of each service, in one query."""
    starts = time_range.starts
    counted: dict[int, dict[datetime, tuple[int, int]]] = defaultdict(dict)
    rows = time_range.counters._default_manager.filter(service__in=service_ids, start__gte=starts[0])
    columns = ("service_id", "start", "calls", "checks", "failures", "failed_checks")
    for pk, start, calls, checks, failures, failed in rows.values_list(*columns):
        counted[pk][start] = (calls + checks, failures + failed)
    return {pk: Uptime(time_range, _runs(starts, counted[pk])) for pk in service_ids}


def _runs(starts: list[datetime], counted: dict[datetime, tuple[int, int]]) -> list[Run]:
    parts = [(place, start, *counted.get(start, (0, 0))) for place, start in enumerate(starts)]
    runs = []
    for tone, grouped in groupby(parts, key=lambda part: _tone(part[2], part[3])):
        group = list(grouped)
        place, start, *_ = group[0]
        total, failed = sum(part[2] for part in group), sum(part[3] for part in group)
        runs.append(Run(tone, start, len(group), place * WIDTH, total, failed))
    return runs


def _tone(total: int, failed: int) -> str:
    if not total:
        return "none"
    share = 1 - failed / total
    return "good" if share >= GOOD else "mixed" if share >= BAD else "bad"
