"""Metrics for Prometheus, from the same counters and index lookups as the pages: no query scans history.

https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4, written by prometheus_client).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from django.db import connection
from django.db.models import Sum
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dashboard.presenters.service_stats import DEAD_CAP, WAITING_CAP, Standing, standings
from integrations import __version__
from integrations.models import BackupSchedule, Failure, Service, TallyDay, Worker, database_now, storage
from integrations.models.tally import COARSER, COUNTER_COLUMNS

COUNTERS = {
    "calls": "Calls made for messages and through POST /process.",
    "failures": "Calls that failed.",
    "retries": "Calls after the first one of a message.",
    "delivered": "Messages delivered.",
    "dead": "Messages that became dead.",
    "lost": "Calls for messages whose worker was lost before it wrote a result.",
}
UP = {"up": 1, "half_open": 0, "down": 0}
BREAKER_STATES = ("closed", "open", "half_open")


def text() -> bytes:
    """All metrics, in the text format."""
    registry = CollectorRegistry()
    registry.register(_Switchboard())
    return generate_latest(registry)


class _Switchboard(Collector):
    def collect(self) -> Iterator[Metric]:
        now = timezone.now()
        found = standings(Service.objects.all(), now)
        yield _info()
        yield GaugeMetricFamily("switchboard_workers", "Live lanes.", Worker.objects.alive(now).count())
        failures = Failure.objects.unresolved().count()
        yield GaugeMetricFamily("switchboard_failure_groups", "Open or regressed failure groups.", failures)
        if connection.vendor == "sqlite":
            size = storage.wal_bytes()
            yield GaugeMetricFamily("switchboard_sqlite_wal_bytes", "Size of SQLite's write-ahead log.", size)
        yield from _backups()
        yield from _counted({standing.service.pk: standing.service.name for standing in found})
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
    """Counters as sums of the daily tallies. Those are kept forever, so the sums never decrease; they are updated twice
    a minute."""
    sums = TallyDay.objects.values_list("service_id").annotate(*(Sum(name) for name in COUNTER_COLUMNS)).order_by()
    rows = {names[pk]: dict(zip(COUNTER_COLUMNS, row, strict=True)) for pk, *row in sums if pk in names}
    for counted, description in COUNTERS.items():
        counter = CounterMetricFamily(f"switchboard_{counted}", description, labels=["service"])
        for name, row in rows.items():
            counter.add_metric([name], row[counted])
        yield counter
    # Not the finer columns: a bucket that appears later would count fewer calls than the smaller ones before it.
    durations = HistogramMetricFamily(
        "switchboard_call_duration_seconds", "Duration of calls from start to end.", labels=["service"]
    )
    bounds = [*(str(bound) for bound in list(COARSER.values())[:-1]), "+Inf"]
    for name, row in rows.items():
        counts = accumulate(row[column] for column in COARSER)
        durations.add_metric([name], list(zip(bounds, counts, strict=True)), row["seconds"])
    yield durations


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
