"""The state of a service that all processes share: breaker, rate, recovery. One small row, locked for each decision.

It is apart from the service that operators edit, so that a form never overwrites the workers' counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar

from django.db import connection, models

from integrations.models import sql
from integrations.policies.breaker import BreakerState


class RuntimeQuerySet(models.QuerySet["Runtime"]):
    def locked(self, service_ids: Iterable[int], *, skip_locked: bool = False) -> list[Runtime]:
        """Lock the rows and wait for them, in one order, so that two settlements cannot lock each other out."""
        return _lock(service_ids, order="r.service_id", skip=skip_locked)

    def free(
        self, service_ids: Sequence[int], *, worker_id: int, now: datetime, may_wait: bool = True
    ) -> list[Runtime]:
        """Lock the rows that no other process holds, the least recently served first, for a worker whose lease
        stands. If all are taken, wait for the first, some milliseconds: a lane that came back later would leave the
        service idle until then."""
        lease = (worker_id, now)
        free = _lock(service_ids, order="r.turn", skip=True, lease=lease)
        return free if free or not may_wait else _lock(service_ids[:1], order="r.turn", lease=lease)

    def serving(self, now: datetime) -> RuntimeQuerySet:
        """Services that are not paused and not throttled, with a breaker that is not open or is due to probe."""
        return (
            self.filter(service__status="active")
            .exclude(state="open", retry_at__isnull=True)
            .exclude(state="open", retry_at__gt=now)
            .exclude(throttled_until__gt=now)
        )

    def time_dependent(self) -> RuntimeQuerySet:
        """Rows whose breaker may change by time alone or by a changed setting: a handful."""
        return self.exclude(state="closed", mode="auto")

    def save_decided(self, runtimes: Sequence[Runtime]) -> None:
        """Save the decisions made under the rows' locks.

        By hand: one CASE for each column took 45 µs of CPU per delivered message, twice; this takes 3.
        """
        if not runtimes:
            return
        fields = [field for field in Runtime._meta.concrete_fields if field.name in DECIDED_FIELDS]
        columns = ", ".join(f"{connection.ops.quote_name(str(field.column))} = %s" for field in fields)
        values = [
            [*(field.get_db_prep_save(getattr(runtime, field.attname), connection) for field in fields), runtime.pk]
            for runtime in runtimes
        ]
        statement = f"UPDATE integrations_runtime SET {columns} WHERE service_id = %s"  # noqa: S608 - names of ours
        with sql.prepared() as cursor:
            if len(values) == 1:  # setting up executemany costs more than the statement
                cursor.execute(statement, values[0])
            else:
                cursor.executemany(statement, values)


# A worker that stalled and was rescued in between must not claim: no worker would take those claims back. The lock
# makes a rescue wait until the claim has committed.
HAS_LEASE = """WITH lease AS MATERIALIZED (
    SELECT id FROM integrations_worker WHERE id = %s AND stopped_at IS NULL AND lease_until > %s {share}
) """
LOCK = """SELECT {columns} FROM integrations_runtime r JOIN integrations_service s ON s.id = r.service_id
WHERE {among} ORDER BY {order} {update}"""


def _lock(
    service_ids: Iterable[int], *, order: str, skip: bool = False, lease: tuple[int, datetime] | None = None
) -> list[Runtime]:
    """By hand: the ORM took a millisecond of CPU to build the statement, for every claim and every settlement."""
    # SQLite has no row locks: the transaction itself, begun IMMEDIATE, is the lock.
    locks = connection.features.has_select_for_update
    update = ("FOR UPDATE OF r" + " SKIP LOCKED" * skip) * locks
    among, parameters = sql.is_any("r.service_id"), [sql.array(service_ids)]
    statement = LOCK
    if lease is not None:
        worker_id, now = lease
        statement = HAS_LEASE + LOCK
        among += " AND EXISTS (SELECT 1 FROM lease)"
        parameters = [worker_id, sql.moment(now), *parameters]
    with sql.prepared() as cursor:
        cursor.execute(
            statement.format(
                columns=_reader().columns, among=among, order=order, update=update, share="FOR SHARE" * locks
            ),
            parameters,
        )
        return [_read(row) for row in cursor.fetchall()]


@cache
def _reader() -> sql.RowReader:
    return sql.RowReader(
        ("r", Runtime, [field.attname for field in Runtime._meta.concrete_fields]),
        ("s", Runtime.service.field.related_model, ["updated_at"]),
    )


def _read(row: Sequence[Any]) -> Runtime:
    *values, configured_at = _reader().read(row)
    runtime = Runtime.from_db(connection.alias, _reader().names[:-1], values)
    runtime.configured_at = configured_at
    return runtime


class Runtime(models.Model):
    """The state of a service's breaker and limits, as all processes see it."""

    service = models.OneToOneField(
        "integrations.Service", on_delete=models.CASCADE, primary_key=True, related_name="runtime"
    )

    state = models.CharField(max_length=9, default="closed")
    mode = models.CharField(max_length=11, default="auto")
    mode_until = models.DateTimeField(null=True)
    reason = models.CharField(max_length=500, blank=True)
    opened_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    reopenings = models.PositiveIntegerField(default=0)
    generation = models.PositiveIntegerField(default=0)
    consecutive = models.PositiveIntegerField(default=0)
    window = models.JSONField(default=str, blank=True)
    probes_succeeded = models.PositiveIntegerField(default=0)
    ramp = models.PositiveIntegerField(null=True)
    observed_open = models.BooleanField(default=False)
    evidence = models.JSONField(default=list)  # the attempts that the next transition will name

    next_slot = models.DateTimeField(null=True)  # the next free send slot under limits.rate
    careful_until = models.DateTimeField(null=True)  # bulk calls leave the breaker room: an operation finds its pace
    throttled_until = models.DateTimeField(null=True)  # a 429 or 503 response asked to wait
    recent = models.JSONField(default=list)  # calls and retries of the last minute, for the retry budget
    # Direct calls in flight: [[attempt, the probe's generation or null, epoch second after which it is surely over]]
    leases = models.JSONField(default=list)
    turn = models.PositiveBigIntegerField(default=0)  # services take turns: the least recently served is first

    # Counted from claims and leases when the row is locked for a decision, never stored: a crash leaks no permit.
    in_flight: int = 0
    probes_in_flight: int = 0
    configured_at: datetime  # the service's last edit, read with the lock

    objects: ClassVar[RuntimeQuerySet] = RuntimeQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"runtime of {self.service_id}"

    @property
    def breaker(self) -> BreakerState:
        """The breaker's part of the row, as the input of its policy."""
        return BreakerState.from_json({name: getattr(self, name) for name in BREAKER_FIELDS})

    @breaker.setter
    def breaker(self, state: BreakerState) -> None:
        for name, value in state.as_json().items():
            setattr(self, name, value)

    def leased(self, now: datetime) -> list[int | None]:
        """The direct calls in flight, each as the breaker generation that it probes for, else None."""
        return [generation for _, generation, until in self.leases if until > now.timestamp()]

    def lease(self, attempt_id: int, generation: int | None, now: datetime, seconds: float) -> None:
        """Count a direct call as in flight until ``end_lease``, or for so many seconds if its process dies."""
        standing = [row for row in self.leases if row[2] > now.timestamp()]
        self.leases = [*standing, [attempt_id, generation, now.timestamp() + seconds]]

    def end_lease(self, attempt_id: int) -> None:
        self.leases = [row for row in self.leases if row[0] != attempt_id]

    def is_throttled(self, now: datetime) -> bool:
        return self.throttled_until is not None and self.throttled_until > now

    def save_decided(self) -> None:
        """Save the decisions made under the row's lock."""
        self.save(update_fields=DECIDED_FIELDS)


BREAKER_FIELDS = (
    "state",
    "mode",
    "mode_until",
    "reason",
    "opened_at",
    "retry_at",
    "reopenings",
    "generation",
    "consecutive",
    "window",
    "probes_succeeded",
    "ramp",
    "observed_open",
    "evidence",
)
DECIDED_FIELDS = (*BREAKER_FIELDS, "next_slot", "throttled_until", "recent", "leases", "turn")


def as_recent(value: list[list[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((int(bucket), int(calls), int(retries)) for bucket, calls, retries in value)
