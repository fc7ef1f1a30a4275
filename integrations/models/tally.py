"""Counters per service and minute, kept by the engine: charts and rates never count history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import Any

from django.db import connection, models

from integrations.models.rows import prepared
from integrations.models.service import Service


@dataclass(slots=True)
class Counts:
    """What one settlement adds to one service's minute."""

    calls: int = 0
    failures: int = 0
    retries: int = 0
    delivered: int = 0
    dead: int = 0
    seconds: float = 0.0  # of all calls together


class Tally(models.Model):
    """One service's minute."""

    service = models.ForeignKey(Service, on_delete=models.CASCADE, db_index=False, related_name="tallies")
    minute = models.DateTimeField()
    calls = models.PositiveIntegerField(default=0)
    failures = models.PositiveIntegerField(default=0)
    retries = models.PositiveIntegerField(default=0)
    delivered = models.PositiveIntegerField(default=0)
    dead = models.PositiveIntegerField(default=0)
    seconds = models.FloatField(default=0)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["service", "minute"], name="tally_of_minute"),)
        indexes = (models.Index(fields=["minute"], name="tally_by_minute"),)

    def __str__(self) -> str:
        return f"{self.service_id} {self.minute:%F %H:%M}"


def add(counts: dict[int, Counts], now: datetime) -> None:
    """Adds to this minute's counters in one statement (the ORM's upsert can set a column, but not add to it)."""
    if not counts:
        return
    minute = connection.ops.adapt_datetimefield_value(now.replace(second=0, microsecond=0))
    rows: list[Sequence[Any]] = [(service_id, minute, *astuple(counted)) for service_id, counted in counts.items()]
    places = ", ".join(["(%s, %s, %s, %s, %s, %s, %s, %s)"] * len(rows))
    added = ", ".join(f"{name} = integrations_tally.{name} + excluded.{name}" for name in Counts.__slots__)
    with prepared() as cursor:
        cursor.execute(
            f"INSERT INTO integrations_tally (service_id, minute, {', '.join(Counts.__slots__)}) VALUES {places} "  # noqa: S608 - names are ours
            f"ON CONFLICT (service_id, minute) DO UPDATE SET {added}",
            [value for row in rows for value in row],
        )
