"""A breaker's history: its changes put together into periods, each with its cause, its length and what it held."""

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
class BreakerOpening:
    """One opening or reopening: its cause and the calls that brought it about."""

    event: int  # primary key of the event: the row's id on a page
    at: datetime
    cause: str
    attempts: list[str]  # public ids
    calls: list[FailedCall] = field(default_factory=list)

    @classmethod
    def of(cls, event: Event) -> BreakerOpening:
        facts = event.facts
        why = cause(facts.get("cause", ""), facts.get("by", ""))
        return cls(event.pk, event.at, why, facts.get("attempts", []))

    @property
    def more(self) -> int:
        """Calls that are not linked."""
        return len(self.attempts) - len(self.calls)


@dataclass(slots=True)
class OpenPeriod:
    """From an opening to the closing; the reopenings after failed probes belong to it."""

    service: Service
    first: BreakerOpening
    last: BreakerOpening
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


def open_periods_of(service: Service) -> list[OpenPeriod]:
    """The latest periods of one service, newest first, with links to the calls that caused each."""
    periods = _history(service)[:SHOWN]
    _link([period.first for period in periods] + [period.last for period in periods[:1]])
    return periods


def open_periods_since(service: Service, since: datetime) -> list[OpenPeriod]:
    """The openings of one service that were not over by ``since``, newest first; without what was only observed."""
    return [
        period
        for period in _history(service)
        if not period.observed and (period.closed_at is None or period.closed_at > since)
    ]


def add_waiting(periods: Iterable[OpenPeriod], waiting: dict[int, int]) -> None:
    """What waits now, by service, is held by the periods that are under way."""
    for period in periods:
        if period.is_under_way and not period.observed:
            period.held = max(waiting.get(period.service.pk, 0), period.held or 0)


def latest_open_periods() -> list[OpenPeriod]:
    """The latest periods of all services, newest first."""
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
    return paired(changes, is_whole=oldest == 0)[:SHOWN]


def latest_openings_of(service_ids: Iterable[int]) -> dict[int, BreakerOpening]:
    """What opened each of these services' breakers last, with links to the calls that caused it."""
    newest = Event.objects.filter(service=OuterRef("pk"), type=OPENED).order_by("-pk").values("pk")[:1]
    pks = Service.objects.order_by().filter(pk__in=list(service_ids)).values_list(Subquery(newest))
    openings = {event.service_id: BreakerOpening.of(event) for event in Event.objects.filter(pk__in=pks)}
    _link(openings.values())
    return {pk: opening for pk, opening in openings.items() if pk is not None}


def paired(changes: list[Event], is_whole: bool = True) -> list[OpenPeriod]:
    """Trips, newest first, from openings and closings, oldest first; not ``is_whole``: there were earlier ones."""
    periods: list[OpenPeriod] = []
    latest: dict[tuple[int | None, bool], OpenPeriod | None] = {}  # what a service is observed to do is a history apart
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
