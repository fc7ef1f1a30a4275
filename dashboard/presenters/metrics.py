"""Metrics for Prometheus, from the same counters and index lookups as the pages: no query scans history.

https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4, written by prometheus_client).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from django.db import connection
from django.utils import timezone
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from dashboard.presenters.service_stats import DEAD_CAP, WAITING_CAP, Standing, standings_in_brief
from integrations import __version__
from integrations.api.asgi.events import broadcaster
from integrations.models import BackupSchedule, Failure, Meter, Service, Worker, database_now, storage, tally
from integrations.models.meter import BOUNDS, COLUMNS
from integrations.models.tally import COARSER, DURATIONS, FINER

COUNTERS = {
    "calls": "Calls made for messages and through POST /process.",
    "failures": "Calls that failed.",
    "retries": "Calls after the first one of a message.",
    "delivered": "Messages delivered.",
    "dead": "Messages that became dead.",
    "lost": "Calls for messages whose worker was lost before it wrote a result.",
}
# Three finer ones, for receivers on the same network; all of them would double the page for 1,000 services.
CALL_BOUNDS = {
    name: bound
    for name, bound in DURATIONS.items()
    if name in COARSER or name in ("within_1ms", "within_2ms", "within_5ms")
}
COUNTED = (*COUNTERS, "seconds", *CALL_BOUNDS)
# For each service some of the bounds: with all of them, 1,000 services took a third longer.
SERVICE_BOUNDS = (0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 21600.0, math.inf)
# By the name of the sum: the metric, its description, and its label.
METERED_COUNTERS = {
    "accepted": (
        "switchboard_accepted",
        "Messages accepted, by source: api, console, replay, operation or other.",
        "source",
    ),
    "held_back": (
        "switchboard_held_back",
        "Looks for work that left due messages waiting, by reason: breaker, concurrency, rate or budget (of retries).",
        "reason",
    ),
}
METERED_HISTOGRAMS = {
    "queue_wait": (
        "switchboard_queue_wait_seconds",
        "Time from acceptance, or the scheduled time, to the start of the first call.",
        "service",
    ),
    "end_to_end": (
        "switchboard_end_to_end_seconds",
        "Time from acceptance, or the scheduled time, to delivery.",
        "service",
    ),
    "database": (
        "switchboard_database_seconds",
        "Time of the transactions that accept, claim and settle messages, by step.",
        "step",
    ),
    "page": (
        "switchboard_page_duration_seconds",
        "Time that Django took for a page or an API request, by the name of its view.",
        "view",
    ),
}
RATE_WAIT = "Time that claimed messages waited for their send slot, of services with a rate."
UP = {"up": 1, "half_open": 0, "down": 0}
BREAKER_STATES = ("closed", "open", "half_open")


def text() -> bytes:
    """All metrics, in the text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)  # of the web server that answers
    PlatformCollector(registry=registry)
    registry.register(_Switchboard())
    return generate_latest(registry)


class _Switchboard(Collector):
    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        found = standings_in_brief(Service.objects.all(), now)
        yield _info()
        yield GaugeMetricFamily("switchboard_workers", "Live lanes.", Worker.objects.alive(now).count())
        failures = Failure.objects.unresolved().count()
        yield GaugeMetricFamily("switchboard_failure_groups", "Open or regressed failure groups.", failures)
        if connection.vendor == "sqlite":
            size = storage.wal_bytes()
            yield GaugeMetricFamily("switchboard_sqlite_wal_bytes", "Size of SQLite's write-ahead log.", size)
        yield from _backups()
        streams = len(broadcaster.streams)
        yield GaugeMetricFamily("switchboard_streams", "Open event streams of the web server that answers.", streams)
        names = {standing.service.pk: standing.service.name for standing in found}
        yield from _counted(names)
        yield from _metered(names)
        yield from _standing(found)


def _info() -> Metric:
    family = GaugeMetricFamily("switchboard_info", "Always 1; its label is the running version.", labels=["version"])
    family.add_metric([__version__], 1)
    return family


def _backups() -> Iterator[Metric]:
    schedule = BackupSchedule.objects.current()
    if schedule.taken_at:
        description = "Time of the last good backup, in seconds since 1970; absent without one."
        yield GaugeMetricFamily("switchboard_backup_timestamp_seconds", description, schedule.taken_at.timestamp())
    is_wrong = schedule.trouble(database_now()) is not None
    yield GaugeMetricFamily("switchboard_backup_trouble", "1 if the last backup failed or one is overdue.", is_wrong)


def _counted(names: dict[int, str]) -> Iterator[Metric]:
    """Counters as sums of the tallies, which are kept forever, so the sums never decrease."""
    rows = {names[pk]: row for pk, row in tally.totals(COUNTED).items() if pk in names}
    for counted, description in COUNTERS.items():
        counter = CounterMetricFamily(f"switchboard_{counted}", description, labels=["service"])
        for name, row in rows.items():
            counter.add_metric([name], row[counted])
        yield counter
    durations = HistogramMetricFamily(
        "switchboard_call_duration_seconds", "Duration of calls from start to end.", labels=["service"]
    )
    for name, row in rows.items():
        durations.add_metric([name], _call_buckets(row), row["seconds"])
    yield durations


def _call_buckets(row: dict[str, float]) -> list[tuple[str, float]]:
    """The cumulative counts. A finer column counts a part of the next coarser one's calls; calls from before there were
    finer columns are in the coarser ones alone, and the counts increase with the bound all the same."""
    buckets, below, parts = list[tuple[str, float]](), 0.0, 0.0
    for column, bound in CALL_BOUNDS.items():
        if column in FINER:
            parts += row[column]
            buckets.append((str(bound), below + parts))
        else:
            below, parts = below + row[column], 0.0
            buckets.append((_bound(bound), below))
    return buckets


def _metered(names: dict[int, str]) -> Iterator[Metric]:
    """The sums of integrations/models/meter.py. Those of the whole installation have the service 0."""
    rows: dict[str, list[list[Any]]] = defaultdict(list)
    for name, service_id, *row in Meter.objects.values_list(
        "name", "service_id", "label", "count", "seconds", *COLUMNS
    ):
        if not service_id or service_id in names:
            rows[name].append([names.get(service_id), *row])
    for name, (exported, description, label) in METERED_COUNTERS.items():
        counter = CounterMetricFamily(exported, description, labels=["service", label])
        for service, value, times, *_ in rows[name]:
            counter.add_metric([service, value], times)
        yield counter
    for name, (exported, description, label) in METERED_HISTOGRAMS.items():
        histogram = HistogramMetricFamily(exported, description, labels=[label])
        exposed = SERVICE_BOUNDS if label == "service" else BOUNDS
        for service, value, _, seconds, *buckets in rows[name]:
            counts = zip(BOUNDS, accumulate(buckets), strict=True)
            cumulative = [(_bound(bound), number) for bound, number in counts if bound in exposed]
            histogram.add_metric([service if label == "service" else value], cumulative, seconds)
        yield histogram
    rate_waits = SummaryMetricFamily("switchboard_rate_wait_seconds", RATE_WAIT, labels=["service"])
    for service, _, times, seconds, *_ in rows["rate_wait"]:
        rate_waits.add_metric([service], times, seconds)
    yield rate_waits


def _bound(seconds: float) -> str:
    return "+Inf" if math.isinf(seconds) else str(seconds)


def _standing(found: list[Standing]) -> Iterator[Metric]:
    """The current state of each service."""
    gauges = {
        "waiting": f"Messages with a due time, now or later; counting stops at {WAITING_CAP}.",
        "in_flight": "Calls in flight.",
        "dead_unanswered": f"Messages dead in the last 24 h and not yet redelivered; counting stops at {DEAD_CAP}.",
        "oldest_due_age_seconds": "Age of the oldest due message; 0 without one.",
        "paused": "1 while the service is paused.",
        "up": "1 or 0 according to breaker, health check and calls; absent if they do not tell.",
    }
    families = {
        name: GaugeMetricFamily(f"switchboard_{name}", description, labels=["service"])
        for name, description in gauges.items()
    }
    states = GaugeMetricFamily("switchboard_breaker_state", "1 for the current state.", labels=["service", "state"])
    for standing in found:
        values = {
            "waiting": standing.waiting,
            "in_flight": standing.in_flight,
            "dead_unanswered": standing.dead,
            "oldest_due_age_seconds": standing.oldest_due_age,
            "paused": int(standing.service.is_paused),
        }
        if (is_up := UP.get(standing.state)) is not None:
            values["up"] = is_up
        for name, value in values.items():
            families[name].add_metric([standing.service.name], value)
        for state in BREAKER_STATES:
            states.add_metric([standing.service.name, state], int(standing.runtime.state == state))
    yield from families.values()
    yield states
