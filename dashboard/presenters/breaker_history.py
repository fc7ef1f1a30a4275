"""A breaker's history: its events paired into open periods, each with its cause, duration and held messages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import OuterRef, Prefetch, Subquery, prefetch_related_objects
from django.urls import reverse

from dashboard.presenters.sentences import cause
from integrations.models import Attempt, Event, Runtime, Service, identifiers

OPENED, CLOSED = "breaker.opened", "breaker.closed"
CHANGES_READ = 200  # a dead service that is probed every minute makes that many in three hours
SHOWN = 12
LINKED = 5  # calls of one opening


@dataclass(frozen=True, slots=True)
class LinkedCall:
    """One of the failed calls that opened a breaker, and its page."""

    url: str
    at: datetime
    status_code: int | None
    fault: str


@dataclass(slots=True)
class BreakerOpening:
    """One opening or reopening: its cause and the failed calls."""

    event: int  # primary key of the event: the row's id on a page
    at: datetime
    cause: str
    attempts: list[str]  # public ids
    calls: list[LinkedCall] = field(default_factory=list)

    @classmethod
    def of(cls, event: Event) -> BreakerOpening:
        facts = event.facts
        return cls(event.pk, event.at, cause(facts.get("cause", ""), facts.get("by", "")), facts.get("attempts", []))

    @property
    def more(self) -> int:
        """Number of calls without a link."""
        return len(self.attempts) - len(self.calls)


@dataclass(slots=True)
class OpenPeriod:
    """From an opening to the closing, including the reopenings after failed probes."""

    service: Service
    first: BreakerOpening
    last: BreakerOpening
    observed: bool
    reopened: int = 0
    closed_at: datetime | None = None
    held: int | None = None  # messages, at the event when most waited; None if not recorded
    began_earlier: bool = False  # the opening is older than the events read

    @property
    def is_ongoing(self) -> bool:
        """Not closed yet. An override can end an observed period without a closing event, so the state counts too."""
        return self.closed_at is None and is_tripped(self.service.runtime)

    @property
    def seconds(self) -> float | None:
        return (self.closed_at - self.first.at).total_seconds() if self.closed_at else None


def is_tripped(runtime: Runtime) -> bool:
    """Whether the breaker is open or half-open, or would be if it did more than observe."""
    return runtime.state != "closed" or runtime.observed_open


def open_periods_of(service: Service) -> list[OpenPeriod]:
    """The latest open periods of one service, newest first, with links to the failed calls."""
    periods = _history(service)[:SHOWN]
    _link([period.first for period in periods] + [period.last for period in periods[:1]])
    return periods


def open_periods_since(service: Service, since: datetime) -> list[OpenPeriod]:
    """The open periods of a service that ended after ``since`` or are ongoing, newest first, without observed ones."""
    return [
        period
        for period in _history(service)
        if not period.observed and (period.closed_at is None or period.closed_at > since)
    ]


def add_waiting(periods: Iterable[OpenPeriod], waiting: dict[int, int]) -> None:
    """Count the messages that wait now, by service, as held by the ongoing periods."""
    for period in periods:
        if period.is_ongoing and not period.observed:
            period.held = max(waiting.get(period.service.pk, 0), period.held or 0)


def latest_open_periods() -> list[OpenPeriod]:
    """The latest open periods of all services, newest first."""
    services = Prefetch("service", Service.objects.select_related("runtime").defer("secrets"))
    changes: list[Event] = []
    oldest = 0
    for type_ in (OPENED, CLOSED):  # one index lookup each; older events than the shorter result are dropped
        newest = list(Event.objects.filter(type=type_).order_by("-pk")[:CHANGES_READ])
        if len(newest) == CHANGES_READ:
            oldest = max(oldest, newest[-1].pk)
        changes += newest
    changes = sorted((change for change in changes if change.pk >= oldest), key=lambda change: change.pk)
    prefetch_related_objects(changes, services)
    return paired(changes, is_whole=oldest == 0)[:SHOWN]


def latest_openings_of(service_ids: Iterable[int]) -> dict[int, BreakerOpening]:
    """The latest opening of each of these services' breakers, with links to the failed calls."""
    newest = Event.objects.filter(service=OuterRef("pk"), type=OPENED).order_by("-pk").values("pk")[:1]
    pks = Service.objects.order_by().filter(pk__in=list(service_ids)).values_list(Subquery(newest))
    openings = {event.service_id: BreakerOpening.of(event) for event in Event.objects.filter(pk__in=pks)}
    _link(openings.values())
    return {pk: opening for pk, opening in openings.items() if pk is not None}


def paired(changes: list[Event], is_whole: bool = True) -> list[OpenPeriod]:
    """Pair openings with closings. ``changes``: events, oldest first; ``is_whole`` is False if earlier ones exist.
    Returns open periods, newest first."""
    periods: list[OpenPeriod] = []
    latest: dict[tuple[int | None, bool], OpenPeriod | None] = {}  # observed changes are a history of their own
    for event in changes:
        key = (event.service_id, bool(event.facts.get("observed")))
        period = latest.get(key)
        if event.type == CLOSED:
            latest[key] = None
            if period is not None:
                period.closed_at = event.at
        elif period is None and event.service is not None:
            opening = BreakerOpening.of(event)
            period = OpenPeriod(
                event.service, opening, opening, key[1], began_earlier=not is_whole and key not in latest
            )
            periods.append(period)
            latest[key] = period
        elif period is not None:
            period.last, period.reopened = BreakerOpening.of(event), period.reopened + 1
        if period is not None and (held := event.facts.get("held")) is not None:
            period.held = max(held, period.held or 0)
    return periods[::-1]


def _history(service: Service) -> list[OpenPeriod]:
    newest = list(service.events.filter(type__in=(OPENED, CLOSED)).order_by("-pk")[:CHANGES_READ])
    return paired(newest[::-1], is_whole=len(newest) < CHANGES_READ)


def _link(openings: Iterable[BreakerOpening]) -> None:
    """Load the calls that the openings name, in one query."""
    openings = list(openings)
    wanted = {
        parsed[0]
        for opening in openings
        for name in opening.attempts[-LINKED:]
        if (parsed := identifiers.parse("att", name))
    }
    rows = Attempt.objects.filter(pk__in=wanted, message__isnull=False) if wanted else Attempt.objects.none()
    columns = ("pk", "nonce", "message_id", "message__nonce", "number", "started_at", "status_code", "fault")
    calls = {}
    for pk, nonce, message, message_nonce, number, started_at, status_code, fault in rows.values_list(*columns):
        page = reverse("message", args=[identifiers.public_id("msg", message, message_nonce)])
        calls[identifiers.public_id("att", pk, nonce)] = LinkedCall(
            f"{page}#attempt-{number}", started_at, status_code, fault
        )
    for opening in openings:
        opening.calls = [calls[name] for name in opening.attempts[-LINKED:] if name in calls]
