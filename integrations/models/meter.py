"""Sums for `/metrics` that no other table has: waits, latencies, sources, and the time that our own steps take.

A process adds to its memory and writes the sum every few seconds, one statement for everything: a call pays some
microseconds, and all processes add to the same rows, which only grow. A killed process loses its last seconds,
so nothing but `/metrics` reads these.
"""

from __future__ import annotations

import math
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from django.db import connection, models

WRITE_EVERY = 5.0  # seconds
# In seconds: from a write to SQLite, of milliseconds, to the end of a partner's bad day.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 21600.0, math.inf)
COLUMNS = tuple(f"bucket_{place}" for place in range(len(BOUNDS)))
_SUMMED = ("count", "seconds", *COLUMNS)
_AT_ONCE = 500  # rows in a statement
_KEPT = 20_000  # sums in memory while the database takes no writes


class Key(NamedTuple):
    """The name of a sum. ``service_id`` is 0 for the whole installation; the label is a source, a step or a page."""

    name: str
    service_id: int
    label: str


class MeterQuerySet(models.QuerySet["Meter"]):
    def forget_deleted(self) -> None:
        """Delete the sums of deleted services."""
        from integrations.models.service import Service

        known = Service.objects.values("pk")
        self.exclude(service_id=0).exclude(service_id__in=known).delete()


class Meter(models.Model):
    """One sum: how often, how many seconds altogether, and how many of each length (not cumulative)."""

    name = models.CharField(max_length=30)
    service_id = models.BigIntegerField()  # no foreign key: a process may still add to a service that was just deleted
    label = models.CharField(max_length=100)
    count = models.BigIntegerField(default=0)
    seconds = models.FloatField(default=0)
    bucket_0 = models.BigIntegerField(default=0)
    bucket_1 = models.BigIntegerField(default=0)
    bucket_2 = models.BigIntegerField(default=0)
    bucket_3 = models.BigIntegerField(default=0)
    bucket_4 = models.BigIntegerField(default=0)
    bucket_5 = models.BigIntegerField(default=0)
    bucket_6 = models.BigIntegerField(default=0)
    bucket_7 = models.BigIntegerField(default=0)
    bucket_8 = models.BigIntegerField(default=0)
    bucket_9 = models.BigIntegerField(default=0)
    bucket_10 = models.BigIntegerField(default=0)
    bucket_11 = models.BigIntegerField(default=0)
    bucket_12 = models.BigIntegerField(default=0)
    bucket_13 = models.BigIntegerField(default=0)
    bucket_14 = models.BigIntegerField(default=0)
    bucket_15 = models.BigIntegerField(default=0)

    objects: ClassVar[MeterQuerySet] = MeterQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = (models.UniqueConstraint(fields=["name", "service_id", "label"], name="meter_of_key"),)

    def __str__(self) -> str:
        return f"{self.name} {self.service_id} {self.label}"


_lock = threading.Lock()
_sums: dict[Key, list[float]] = {}  # in the order of _SUMMED


def count(name: str, service_id: int = 0, label: str = "", number: int = 1) -> None:
    with _lock:
        _sum(Key(name, service_id, label[:100]))[0] += number


def observe(name: str, seconds: float, service_id: int = 0, label: str = "") -> None:
    seconds = max(0.0, seconds)  # clocks may differ by a little
    with _lock:
        row = _sum(Key(name, service_id, label[:100]))
        row[0] += 1
        row[1] += seconds
        row[2 + bisect_left(BOUNDS, seconds)] += 1


@contextmanager
def timed(name: str, label: str) -> Iterator[None]:
    """Observe how long the block takes, whether it succeeds or not. Also a decorator."""
    began = time.perf_counter()
    try:
        yield
    finally:
        observe(name, time.perf_counter() - began, label=label)


def write() -> None:
    """Add to the table what this process has summed since the last time. Raises the database's errors, and keeps the
    sums for the next time then."""
    global _sums
    with _lock:
        taken, _sums = _sums, {}
    rows = sorted(taken.items())  # in one order, so that two processes do not wait for each other in a circle
    while rows:
        part = rows[:_AT_ONCE]
        try:
            _add(part)
        except BaseException:
            _keep(rows)
            raise
        del rows[:_AT_ONCE]


def _sum(key: Key) -> list[float]:
    if (row := _sums.get(key)) is None:
        row = _sums[key] = [0.0] * len(_SUMMED)
    return row


def _keep(rows: list[tuple[Key, list[float]]]) -> None:
    with _lock:
        for key, values in rows:
            if key in _sums or len(_sums) < _KEPT:
                row = _sum(key)
                row[:] = [old + new for old, new in zip(row, values, strict=True)]


def _add(rows: list[tuple[Key, list[float]]]) -> None:
    parameters: list[Any] = []
    for key, (times, seconds, *buckets) in rows:
        parameters += [*key, int(times), seconds, *map(int, buckets)]
    places = ", ".join([f"({', '.join(['%s'] * (3 + len(_SUMMED)))})"] * len(rows))
    added = ", ".join(f"{name} = integrations_meter.{name} + excluded.{name}" for name in _SUMMED)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO integrations_meter (name, service_id, label, {', '.join(_SUMMED)}) VALUES {places} "  # noqa: S608 - names are ours
            f"ON CONFLICT (name, service_id, label) DO UPDATE SET {added}",
            parameters,
        )


def _start_afresh() -> None:
    """A forked lane would write what its parent writes, too."""
    global _lock, _sums
    _lock, _sums = threading.Lock(), {}


os.register_at_fork(after_in_child=_start_afresh)
