"""Numbers about services, each from a cheap source: counters per minute, capped counts, the ends of an index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Q, QuerySet, Sum

from integrations.models import Certificate, Health, Message, Priority, Runtime, Service, Status, Tally
from integrations.models.backlog import BACKLOG_CAP, CountOf, earliest
from integrations.models.certificate import address_of
from integrations.models.tally import DURATIONS, quantile

WAITING_CAP = BACKLOG_CAP
DEAD_CAP = 100
DEAD_LOOKED_AT = 500  # the newest dead messages of a service; those not yet redelivered are counted
BACKLOG_IS_LATE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
FEW = 100
SUMMED = ("calls", "failures", "delivered", "dead", "seconds")
# The columns that a standing and a row of the list read.
BRIEF = (
    *("name", "base_url", "status", "tags", "health__state"),
    *("runtime__state", "runtime__mode", "runtime__retry_at", "runtime__throttled_until", "runtime__ramp"),
)
# Those and the ones that the reasons of a service in trouble read.
WITH_REASONS = (
    *BRIEF,
    *("paused_reason", "paused_until", "health_check", "health__detail", "health__changed_at"),
    *("runtime__reason", "runtime__mode_until", "runtime__opened_at"),
)


@dataclass(slots=True)
class HourStats:
    """The counters of the last hour."""

    calls: int = 0
    failures: int = 0
    delivered: int = 0
    dead: int = 0
    seconds: float = 0.0
    durations: list[int] = field(default_factory=lambda: [0] * len(DURATIONS))

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> HourStats:
        """From the sums of the counters."""
        sums = {name: row[f"whole_{name}"] for name in SUMMED}
        return cls(**sums, durations=[row.get(f"whole_{name}", 0) for name in DURATIONS])

    @property
    def success_rate(self) -> float | None:
        return 1 - self.failures / self.calls if self.calls else None

    @property
    def average(self) -> float | None:
        """Average duration of a call in seconds."""
        return self.seconds / self.calls if self.calls else None

    @property
    def p95(self) -> float | None:
        """95th percentile of the call duration in seconds."""
        return quantile(0.95, self.durations)

    def __add__(self, other: HourStats) -> HourStats:
        sums = {name: getattr(self, name) + getattr(other, name) for name in SUMMED}
        durations = [ours + theirs for ours, theirs in zip(self.durations, other.durations, strict=True)]
        return HourStats(**sums, durations=durations)


@dataclass(slots=True)
class Standing:
    """The current state of one service."""

    service: Service
    runtime: Runtime
    waiting: int  # capped
    in_flight: int
    dead: int  # in the last day, not yet redelivered; capped
    oldest_due: datetime | None
    now: datetime
    hour: HourStats = field(default_factory=HourStats)
    last_minute: int = 0  # calls of the last whole minute
    certificate: Certificate | None = None  # if it expires soon; set by add_certificates

    @property
    def check(self) -> Health | None:
        """The result of its health checks, if it has any."""
        return getattr(self.service, "health", None)

    @property
    def is_unwell(self) -> bool:
        """Marked down by its health check while its breaker lets calls through. A paused service is not checked."""
        is_checked = not (self.service.is_paused or self.service.is_being_deleted)
        is_down = self.check is not None and self.check.state == "down" and is_checked
        return is_down and not (self.is_open or self.is_probing)

    @property
    def is_open(self) -> bool:
        return self.runtime.state == "open"

    @property
    def state(self) -> str:
        """``paused``, ``down``, ``half_open`` (being probed), ``up`` or ``unknown``."""
        if self.service.is_paused:
            return "paused"
        if self.is_open or self.is_unwell:
            return "down"
        if self.is_probing:
            return "half_open"
        is_up = (self.check is not None and self.check.state == "up") or self.hour.calls > self.hour.failures
        return "up" if is_up else "unknown"

    @property
    def is_probing(self) -> bool:
        return self.runtime.state == "half_open"

    @property
    def oldest_due_age(self) -> float:
        return max(0.0, (self.now - self.oldest_due).total_seconds()) if self.oldest_due else 0.0

    @property
    def is_throttled(self) -> bool:
        return self.runtime.is_throttled(self.now)

    @property
    def is_unguarded(self) -> bool:
        """An override makes its breaker let every call through."""
        return self.runtime.mode in ("disabled", "observe")

    @property
    def probe_is_due(self) -> bool:
        return self.runtime.retry_at is not None and self.runtime.retry_at <= self.now

    @property
    def is_late(self) -> bool:
        """A message has been due for more than a minute, and neither breaker nor pause explains it."""
        explained = self.is_open or self.is_probing or self.service.is_paused or self.service.is_being_deleted
        return not explained and self.oldest_due_age > BACKLOG_IS_LATE.total_seconds()

    @property
    def rank(self) -> tuple[int, float, str]:
        """Sort key, worst first: the kind of problem, then messages waiting times the age of the oldest. Services
        without a problem: the busy ones first, by powers of two, so that a live list does not move with each call."""
        kind = (
            0 if self.is_open or self.is_unwell else 1 if self.is_probing else 2 if self.is_late
            else 3 if self.service.is_paused else 4 if self.dead or self.is_unguarded or self.certificate else 5
        )  # fmt: skip
        harm = (self.waiting or 0) * max(1.0, self.oldest_due_age) if kind < 5 else self.hour.calls.bit_length()
        return kind, -harm, self.service.name

    @property
    def tone(self) -> str:
        return "red" if self.is_open or self.is_unwell else "amber" if self.is_probing or self.service.is_paused else ""


def standings(services: QuerySet[Service], now: datetime, *, with_secrets: bool = False) -> list[Standing]:
    """The current state of services and the counters of their last hour, in two queries for any number of services."""
    rows = services.select_related("runtime", "health")
    if not with_secrets:
        rows = rows.defer("secrets")  # decrypting each would cost more
    found = _standings(rows, now)
    add_hours(found, now)
    return found


def standings_in_brief(
    services: QuerySet[Service], now: datetime, *, with_latency: bool = False, columns: Iterable[str] = BRIEF
) -> list[Standing]:
    """The standings of any number of services, with the columns that sort a list and fill its rows.

    Of 1,000 services, the JSON of their registrations and the counts of their durations took 300 ms. ``add_hours``
    completes those that are shown.
    """
    found = _standings(services.select_related("runtime", "health").only(*columns), now)
    add_hours(found, now, columns=(*SUMMED, *DURATIONS) if with_latency else SUMMED)
    return found


def add_hours(found: list[Standing], now: datetime, columns: Iterable[str] = (*SUMMED, *DURATIONS)) -> None:
    """Set the counters of the last hour."""
    hours = hours_by_service(now, [standing.service.pk for standing in found], columns)
    for standing in found:
        standing.hour, standing.last_minute = hours.get(standing.service.pk, (HourStats(), 0))


def _standings(rows: QuerySet[Service], now: datetime) -> list[Standing]:
    return [
        Standing(
            service=service,
            runtime=service.runtime,
            oldest_due=min(filter(None, (getattr(service, f"due_{priority}") for priority in Priority)), default=None),
            **{name: getattr(service, name) for name in ("waiting", "in_flight", "dead")},
            now=now,
        )
        for service in _annotated(rows, now)
    ]


def add_certificates(found: list[Standing], now: datetime) -> None:
    """Set the certificate of each service whose certificate expires soon."""
    ending = {certificate.address: certificate for certificate in Certificate.objects.ending(now)}
    for standing in found:
        if ending and standing.service.base_url.startswith("https:"):
            standing.certificate = ending.get(address_of(standing.service.base_url))


def _annotated(services: QuerySet[Service], now: datetime) -> QuerySet[Service]:
    mine = Message.objects.filter(service=OuterRef("pk"))
    # Through the index of due messages. Its rows have a due_at, so it holds no held or parked messages.
    due = mine.filter(status=Status.PENDING, due_at__isnull=False)
    newest_dead = (
        Message.objects.filter(service=OuterRef(OuterRef("pk")), status=Status.DEAD)
        .order_by("-pk")
        .values("pk")[:DEAD_LOOKED_AT]
    )
    dead = Message.objects.filter(pk__in=newest_dead, finished_at__gte=now - timedelta(days=1)).unreplayed()
    return services.annotate(
        waiting=CountOf(due.values("pk")[:WAITING_CAP]),
        in_flight=CountOf(mine.filter(status=Status.DELIVERING).values("pk")[:WAITING_CAP]),
        dead=CountOf(dead.values("pk")[:DEAD_CAP]),
        **earliest(now),
    )


def count_waiting(service: Service) -> int:
    """Messages of a service that wait for any reason, including held and parked ones; capped."""
    return count_unfinished(Message.objects.for_service(service).pending())


def count_unfinished(messages: QuerySet[Message]) -> int:
    """Number of a service's messages that are not finished; capped."""
    # Ordered like the index of unfinished messages: without an order the planner may read the whole table.
    unfinished = messages.filter(finished_at=None).order_by("ordering_key", "pk")
    return unfinished.values("pk")[:WAITING_CAP].count()


def count_messages(service: Service) -> int:
    """Number of a service's messages of any status; capped."""
    return Message.objects.for_service(service).order_by("-pk").values("pk")[:WAITING_CAP].count()


def oldest_due(now: datetime) -> datetime | None:
    """The due time of the oldest due message over all services."""
    names = [f"due_{priority}" for priority in Priority]
    rows = Service.objects.order_by().annotate(**earliest(now)).values_list(*names)
    return min((moment for row in rows for moment in row if moment), default=None)


def hours_by_service(
    now: datetime, service_ids: list[int], columns: Iterable[str] = (*SUMMED, *DURATIONS)
) -> dict[int, tuple[HourStats, int]]:
    """The counters of the last hour per service with calls, and the calls of its last whole minute."""
    last_minute = now.replace(second=0, microsecond=0) - timedelta(minutes=1)
    # For a page of services the index by service is faster, for all services the one by minute.
    narrowed = {"service__in": service_ids} if len(service_ids) <= FEW else {}
    rows = (
        Tally.objects.filter(start__gt=now - HOUR, **narrowed)
        .order_by()
        .values("service_id")
        .annotate(
            **{f"whole_{name}": Sum(name) for name in columns},
            last=Sum("calls", filter=Q(start=last_minute), default=0),
        )
    )
    return {row["service_id"]: (HourStats.of(row), row["last"]) for row in rows}
