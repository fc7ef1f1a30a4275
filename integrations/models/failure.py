"""Failure groups: failed calls by their cause, so that a thousand dead messages are one task for an operator.

    (a call fails) --> open --resolve--> resolved --a later call fails--> regressed
                        ^  |--ignore--> ignored (until a time, or forever)
                        +----------the time ends-------------/

Settlements write them: they add to the counts and never count again. They lock the rows in the order of their keys,
after the messages in flight and before runtime rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.db import connection, models
from django.db.models import Case, Count, Q, Value, When

from integrations.models import identifiers, sql
from integrations.models.service import Endpoint, Service


class FailureState(models.TextChoices):
    OPEN = "open"
    REGRESSED = "regressed"
    RESOLVED = "resolved"
    IGNORED = "ignored"


UNRESOLVED = (FailureState.OPEN, FailureState.REGRESSED)
RECENT = timedelta(days=1)
KEPT = timedelta(hours=25)  # for the counts by hour: a day, and the hour in which it began


@dataclass(frozen=True, slots=True)
class FailureUpdate:
    """One settlement's addition to one group."""

    key: str
    service_id: int
    endpoint_id: int | None
    version: int
    fault: str
    status_code: int | None
    title: str
    because: str  # JSON
    count: int
    messages: int
    first_seen: datetime
    last_seen: datetime
    sample_id: int | None
    attempt_id: int


@dataclass(frozen=True, slots=True)
class UpdatedFailure:
    """A group after the addition; ``is_news`` if it is new, came back or stopped being ignored."""

    pk: int
    public_id: str
    key: str
    service_id: int
    title: str
    state: str
    is_news: bool


COLUMNS = (*FailureUpdate.__slots__, "nonce", "state", "opened_at", "note", "assignee")
COMES_BACK = "f.state = 'resolved' AND excluded.last_seen > f.resolved_at"
WAKES = "f.state = 'ignored' AND f.ignored_until <= excluded.opened_at"
ADD = f"""INSERT INTO integrations_failure AS f ({", ".join(COLUMNS)}) VALUES {{places}}
ON CONFLICT (key) DO UPDATE SET
    count = f.count + excluded.count,
    messages = f.messages + excluded.messages,
    last_seen = CASE WHEN excluded.last_seen > f.last_seen THEN excluded.last_seen ELSE f.last_seen END,
    sample_id = COALESCE(excluded.sample_id, f.sample_id),
    attempt_id = excluded.attempt_id,
    state = CASE WHEN {COMES_BACK} THEN 'regressed' WHEN {WAKES} THEN 'open' ELSE f.state END,
    opened_at = CASE WHEN {COMES_BACK} OR {WAKES} THEN excluded.opened_at ELSE f.opened_at END,
    ignored_until = CASE WHEN {WAKES} THEN NULL ELSE f.ignored_until END
RETURNING id, nonce, key, service_id, title, state, opened_at = %s"""  # noqa: S608 - names of ours


class FailureQuerySet(models.QuerySet["Failure"]):
    def unresolved(self) -> FailureQuerySet:
        """Groups that need an operator: open or regressed."""
        return self.filter(state__in=UNRESOLVED)

    def new_or_regressed(self, now: datetime) -> FailureQuerySet:
        """Groups that came back after they were resolved, or opened in the last day."""
        return self.filter(Q(state=FailureState.REGRESSED) | Q(opened_at__gte=now - RECENT))

    def most_harmful_first(self, now: datetime) -> FailureQuerySet:
        """Groups with a failure in the last day first; among them regressed ones first, then by messages."""
        is_recent = Case(When(last_seen__gte=now - RECENT, then=Value(1)), default=Value(0))
        is_back = Case(When(state=FailureState.REGRESSED, then=Value(1)), default=Value(0))
        return self.order_by(is_recent.desc(), is_back.desc(), "-messages", "-last_seen", "-pk")

    def by_state(self) -> dict[str, int]:
        """The number of groups in each state."""
        return dict(self.order_by().values_list("state").annotate(Count("pk")))

    def by_public_id(self, text: str) -> Failure | None:
        if (parsed := identifiers.parse("fail", text)) is None:
            return None
        return self.filter(pk=parsed[0], nonce=parsed[1]).first()

    def ids_by_key(self, keys: Sequence[str]) -> dict[str, int]:
        return dict(self.filter(key__any=keys).values_list("key", "pk"))

    def kinds(self, service_ids: set[int]) -> dict[tuple[int, int | None], int]:
        """The number of groups that are not resolved, by service and endpoint."""
        return {
            (service_id, endpoint_id): count
            for service_id, endpoint_id, count in self.filter(service_id__in=service_ids)
            .exclude(state=FailureState.RESOLVED)
            .order_by()
            .values_list("service_id", "endpoint_id")
            .annotate(Count("pk"))
        }

    def add(self, seen: Sequence[FailureUpdate], now: datetime) -> list[UpdatedFailure]:
        """Add to the groups, and create the new ones, in one statement. The keys must be distinct."""
        at = sql.moment(now)
        values: list[Any] = []
        for one in sorted(seen, key=lambda one: one.key):  # two that write the same groups must not wait in a circle
            given = [getattr(one, name) for name in FailureUpdate.__slots__]
            values += [sql.moment(value) if isinstance(value, datetime) else value for value in given]
            values += [identifiers.fresh_nonce(), FailureState.OPEN.value, at, "", ""]
        places = ", ".join([f"({', '.join(['%s'] * len(COLUMNS))})"] * len(seen))
        with connection.cursor() as cursor:
            cursor.execute(ADD.format(places=places), [*values, at])
            return [
                UpdatedFailure(
                    pk, identifiers.public_id("fail", pk, nonce), key, service_id, title, state, bool(is_news)
                )
                for pk, nonce, key, service_id, title, state, is_news in cursor.fetchall()
            ]


class Failure(models.Model):
    """One group: what its calls have in common, their count and first time, and an operator's decision about it."""

    nonce = models.BigIntegerField(default=identifiers.fresh_nonce, editable=False)
    key = models.CharField(max_length=32, unique=True)  # the hash of the fingerprint, which holds service and endpoint
    version = models.PositiveSmallIntegerField()  # of the fingerprint
    service = models.ForeignKey(Service, on_delete=models.CASCADE, db_index=False, related_name="failures")
    endpoint = models.ForeignKey(Endpoint, null=True, on_delete=models.SET_NULL, db_index=False, related_name="+")
    fault = models.CharField(max_length=11)
    status_code = models.PositiveSmallIntegerField(null=True)
    title = models.CharField(max_length=200)
    because = models.JSONField(default=dict)  # what its calls have in common

    count = models.PositiveIntegerField(default=0)  # failed calls
    messages = models.PositiveIntegerField(default=0)  # how often a message came into this group; not its replays
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()  # the start of its last call
    sample_id = models.BigIntegerField(null=True)  # its last message
    attempt_id = models.BigIntegerField()  # its last call

    state = models.CharField(max_length=9, choices=FailureState.choices, default=FailureState.OPEN)
    opened_at = models.DateTimeField()  # when it was created, came back, or stopped being ignored
    resolved_at = models.DateTimeField(null=True)
    ignored_until = models.DateTimeField(null=True)  # None while ignored: forever
    note = models.TextField(blank=True)
    assignee = models.CharField(max_length=150, blank=True)

    objects: ClassVar[FailureQuerySet] = FailureQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = (
            models.Index(fields=["service", "endpoint"], name="failure_kinds", condition=~Q(state="resolved")),
            models.Index(fields=["service", "-id"], name="failure_of_service"),
            models.Index(fields=["state", "-last_seen"], name="failure_by_state"),
        )

    def __str__(self) -> str:
        return self.public_id

    @property
    def public_id(self) -> str:
        return identifiers.public_id("fail", self.pk, self.nonce)

    @property
    def is_unresolved(self) -> bool:
        return self.state in UNRESOLVED


class FailureHour(models.Model):
    """A group's failed calls in one hour; rows are kept for a day."""

    failure = models.ForeignKey(Failure, on_delete=models.CASCADE, db_index=False, related_name="hours")
    hour = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["failure", "hour"], name="failure_of_hour"),)
        indexes = (models.Index(fields=["hour"], name="failure_by_hour"),)

    def __str__(self) -> str:
        return f"{self.failure_id} {self.hour:%F %H}:00"


def add_hours(counts: dict[int, int], now: datetime) -> None:
    """Add to this hour's counts, by group. The caller has updated the groups, and so holds their locks."""
    hour = sql.moment(now.replace(minute=0, second=0, microsecond=0))
    values = [value for failure_id, count in sorted(counts.items()) for value in (failure_id, hour, count)]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO integrations_failurehour AS h (failure_id, hour, count) "  # noqa: S608 - places only
            f"VALUES {', '.join(['(%s, %s, %s)'] * len(counts))} "
            "ON CONFLICT (failure_id, hour) DO UPDATE SET count = h.count + excluded.count",
            values,
        )
