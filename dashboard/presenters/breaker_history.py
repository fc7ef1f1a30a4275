"""A breaker's history: its changes put together into trips, each with its cause, its length and what it held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import OuterRef, Prefetch, Subquery, prefetch_related_objects
from django.urls import reverse

from dashboard.presenters.sentences import cause
from integrations.models import Attempt, Event, Runtime, Service, identifiers

OPENED, CLOSED = "breaker.opened", "breaker.closed"
CHANGES_READ = 200  # a dead service that is probed every minute makes as many in three hours
SHOWN = 12
LINKED = 5  # calls of one opening


@dataclass(frozen=True, slots=True)
class FailedCall:
    """One call that helped to open a breaker, and where to look at it."""

    url: str
    at: datetime
    status_code: int | None
    fault: str


@dataclass(slots=True)
class Opening:
    """One opening or reopening: its cause and the calls that brought it about."""

    at: datetime
    cause: str
    attempts: list[str]  # public ids
    calls: list[FailedCall] = field(default_factory=list)

    @classmethod
    def of(cls, event: Event) -> Opening:
        facts = event.facts
        why = cause(facts.get("cause", ""), facts.get("by", ""))
        return cls(event.at, why, facts.get("attempts", []))

    @property
    def more(self) -> int:
        """Calls that are not linked."""
        return len(self.attempts) - len(self.calls)


@dataclass(slots=True)
class Trip:
    """From an opening to the closing; the reopenings after failed probes belong to it."""

    service: Service
    first: Opening
    last: Opening
    observed: bool
    reopened: int = 0
    closed_at: datetime | None = None
    held: int | None = None  # messages, at the change when most waited; None where that was not recorded
    began_earlier: bool = False  # than what was read

    @property
    def is_under_way(self) -> bool:
        """A mode that is changed by hand can end an observed one without a closing."""
        return self.closed_at is None and is_tripped(self.service.runtime)

    @property
    def seconds(self) -> float | None:
        return (self.closed_at - self.first.at).total_seconds() if self.closed_at else None


def is_tripped(runtime: Runtime) -> bool:
    """Whether the breaker is open or half-open, or would be by what it observes."""
    return runtime.state != "closed" or runtime.observed_open


def trips_of(service: Service) -> list[Trip]:
    """The latest trips of one service, newest first, with links to the calls that caused each."""
    trips = _history(service)[:SHOWN]
    _link([trip.first for trip in trips] + [trip.last for trip in trips[:1]])
    return trips


def trips_since(service: Service, since: datetime) -> list[Trip]:
    """The openings of one service that were not over by ``since``, newest first; without what was only observed."""
    return [
        trip for trip in _history(service) if not trip.observed and (trip.closed_at is None or trip.closed_at > since)
    ]


def hold(trips: Iterable[Trip], waiting: dict[int, int]) -> None:
    """What waits now, by service, is held by the trips that are under way."""
    for trip in trips:
        if trip.is_under_way and not trip.observed:
            trip.held = max(waiting.get(trip.service.pk, 0), trip.held or 0)


def latest_trips() -> list[Trip]:
    """The latest trips of all services, newest first."""
    services = Prefetch("service", Service.objects.select_related("runtime").defer("secrets"))
    changes: list[Event] = []
    oldest = 0
    for type_ in (OPENED, CLOSED):  # one look into the index each; both are read as far back as the shorter one reaches
        newest = list(Event.objects.filter(type=type_).order_by("-pk")[:CHANGES_READ])
        if len(newest) == CHANGES_READ:
            oldest = max(oldest, newest[-1].pk)
        changes += newest
    changes = sorted((change for change in changes if change.pk >= oldest), key=lambda change: change.pk)
    prefetch_related_objects(changes, services)
    return together(changes, is_whole=oldest == 0)[:SHOWN]


def latest_openings(service_ids: Iterable[int]) -> dict[int, Opening]:
    """What opened each of these services' breakers last, with links to the calls that caused it."""
    newest = Event.objects.filter(service=OuterRef("pk"), type=OPENED).order_by("-pk").values("pk")[:1]
    pks = Service.objects.order_by().filter(pk__in=list(service_ids)).values_list(Subquery(newest))
    openings = {event.service_id: Opening.of(event) for event in Event.objects.filter(pk__in=pks)}
    _link(openings.values())
    return {pk: opening for pk, opening in openings.items() if pk is not None}


def together(changes: list[Event], is_whole: bool = True) -> list[Trip]:
    """Trips, newest first, from openings and closings, oldest first; not ``is_whole``: there were earlier ones."""
    trips: list[Trip] = []
    latest: dict[tuple[int | None, bool], Trip | None] = {}  # what a service is observed to do is a history apart
    for event in changes:
        key = (event.service_id, bool(event.facts.get("observed")))
        trip = latest.get(key)
        if event.type == CLOSED:
            latest[key] = None
            if trip is not None:
                trip.closed_at = event.at
        elif trip is None and event.service is not None:
            opening = Opening.of(event)
            trip = Trip(event.service, opening, opening, key[1], began_earlier=not is_whole and key not in latest)
            trips.append(trip)
            latest[key] = trip
        elif trip is not None:
            trip.last, trip.reopened = Opening.of(event), trip.reopened + 1
        if trip is not None and (held := event.facts.get("held")) is not None:
            trip.held = max(held, trip.held or 0)
    return trips[::-1]


def _history(service: Service) -> list[Trip]:
    newest = list(service.events.filter(type__in=(OPENED, CLOSED)).order_by("-pk")[:CHANGES_READ])
    return together(newest[::-1], is_whole=len(newest) < CHANGES_READ)


def _link(openings: Iterable[Opening]) -> None:
    """Looks up the calls that openings name: one query for all."""
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
        calls[identifiers.public_id("att", pk, nonce)] = FailedCall(
            f"{page}#attempt-{number}", started_at, status_code, fault
        )
    for opening in openings:
        opening.calls = [calls[name] for name in opening.attempts[-LINKED:] if name in calls]
