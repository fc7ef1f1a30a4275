"""Find the messages of a search in pages, bounded where no index helps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

from django.db.models import Count, Max, Min, Model, Q, QuerySet, TextField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast

from integrations.models import (
    UNFINISHED,
    Message,
    Service,
    Status,
)
from integrations.models.message import MessageQuerySet
from integrations.search.grammar import Field, Search, negated

COUNT_LIMIT = 10_000
SEARCHED = 100_000  # messages looked through where no index helps
PROBES = 500  # row numbers looked at in one step of the search for a point in time
CLOSE = 20_000  # rows that may be read in vain for a point in time
SLACK = 1_000  # row numbers and acceptance times are in the same order, but for transactions side by side
Row = TypeVar("Row", bound=Model)


class Slice(NamedTuple, Generic[Row]):
    """Some rows of a list, and the row number where it goes on (0 at its end)."""

    rows: list[Row]
    ahead: int = 0
    is_cut: bool = False  # it goes on, and only because no more could be looked through at once


@dataclass(frozen=True, slots=True)
class Listed(Generic[Row]):
    """The rows of a queryset as slices, which an index gives in their order."""

    rows: QuerySet[Row]

    def older(self, place: int | None, size: int) -> Slice[Row]:
        """The next ``size`` rows below a row number, newest first; without one, from the newest on."""
        rows = self.rows if place is None else self.rows.filter(pk__lt=place)
        return _sliced(list(rows.order_by("-pk")[: size + 1]), size)

    def newer(self, place: int, size: int) -> Slice[Row]:
        """The next ``size`` rows above a row number, oldest first."""
        return _sliced(list(self.rows.filter(pk__gt=place).order_by("pk")[: size + 1]), size)


def _sliced(rows: list[Row], size: int) -> Slice[Row]:
    return Slice(rows[:size], rows[size - 1].pk if len(rows) > size else 0)


@dataclass
class Found:
    """The messages of a search."""

    search: Search

    @cached_property
    def services(self) -> dict[str, Service]:
        """All services by name, once: for the filter, its choices and the names in the rows."""
        return {service.name: service for service in Service.objects.only("name")}

    @cached_property
    def newest(self) -> int:
        return Message.objects.aggregate(newest=Max("pk"))["newest"] or 0

    @cached_property
    def service_id(self) -> int | None:
        """The number of the service that is asked for; 0, which finds nothing, where the name is not registered."""
        name = self.search.values.get("service")
        return None if not name else self.services[name].pk if name in self.services else 0

    # ---- as querysets ----------------------------------------------------------------------------------------------
    @cached_property
    def messages(self) -> MessageQuerySet:
        """All that is found. Whoever reads it keeps to a window of row numbers, or uses ``older`` and ``newer``."""
        status = self.search.values.get("status")
        if not status:
            return self.everything
        found = self.unfinished if status in UNFINISHED else self.everything
        if status == Status.DEAD and self.service_id is None and self._has_few_dead:
            # So few lie far apart: by each service's index and not by a walk through all of history.
            found = found.filter(service_id__in=[service.pk for service in self.services.values()])
        return found.filter(status=status)

    @property
    def everything(self) -> MessageQuerySet:
        """All that is found, but for the status: the tabs count each."""
        return self._conditioned if self.service_id is None else self._conditioned.filter(service_id=self.service_id)

    @property
    def unfinished(self) -> MessageQuerySet:
        """Those that are pending or delivering."""
        found = self._conditioned
        return found.unfinished() if self.service_id is None else found.unfinished_for(self.service_id)

    @cached_property
    def _conditioned(self) -> MessageQuerySet:
        """By everything but service, status and fields of the body."""
        found, values = _matching(self.search), self.search.values
        if after := values.get("created_after"):
            found = found.filter(created_at__gte=after, pk__gt=self._low)
        if before := values.get("created_before"):
            found = found.filter(created_at__lt=before, pk__lt=self._high)
        return found

    @cached_property
    def _low(self) -> int:
        """A row number below all that is found."""
        after = self.search.values.get("created_after")
        if after:
            return max(0, rows_around(after, self.newest)[0] - SLACK)
        return (Message.objects.aggregate(oldest=Min("pk"))["oldest"] or 1) - 1

    @cached_property
    def _high(self) -> int:
        """A row number above all that is found."""
        before = self.search.values.get("created_before")
        return (rows_around(before, self.newest)[1] + SLACK if before else self.newest) + 1

    # ---- as slices -------------------------------------------------------------------------------------------------
    def older(self, place: int | None, size: int) -> Slice[Message]:
        """The next ``size`` messages below a row number, newest first: fewer where that is all that was found among
        those looked through."""
        if not self._needs_a_bound:
            return Listed(listed(self.messages)).older(place, size)
        start = self._high if place is None else min(place, self._high)
        edge = self._edge_below(start)
        rows = Listed(listed(self._window(edge, start))).older(start, size)
        return rows if rows.ahead or edge <= self._low + 1 else Slice(rows.rows, edge, is_cut=True)

    def newer(self, place: int, size: int) -> Slice[Message]:
        """The next ``size`` messages above a row number, oldest first."""
        if not self._needs_a_bound:
            return Listed(listed(self.messages)).newer(place, size)
        start = max(place, self._low)
        edge = self._edge_above(start)
        rows = Listed(listed(self._window(start + 1, edge + 1))).newer(start, size)
        return rows if rows.ahead or edge >= self._high - 1 else Slice(rows.rows, edge, is_cut=True)

    def count_above(self, place: int, limit: int) -> int:
        """How many there are above a row number, up to ``limit`` and among the newest."""
        if not self._needs_a_bound:
            return self.messages.filter(pk__gt=place).order_by()[:limit].count()
        first = max(place + 1, self.newest - SEARCHED)
        return self._window(first, self.newest + 1).order_by()[:limit].count()

    def _window(self, first: int, end: int) -> MessageQuerySet:
        """What is found from a row number on and before another."""
        found = self.messages.filter(pk__gte=first, pk__lt=end)
        bounds = {"message__gte": first, "message__lt": end}  # or a database looks at the values of all of history
        for one in self.search.fields:
            leads = one is self._leading
            found = found.filter(Q(pk__in=one.values(**bounds).values("message")) if leads else one.holds(**bounds))
        return found

    @cached_property
    def _leading(self) -> Field | None:
        """The field whose index gives the messages; the others are looked for in each of them."""
        return next((one for one in self.search.fields if one.is_indexed), None)

    @cached_property
    def _needs_a_bound(self) -> bool:
        if self.search.needs_a_bound:
            return True
        # Dead messages of all services have no index; but see ``messages`` for few of them.
        is_dead = self.search.values.get("status") == Status.DEAD
        return is_dead and self.service_id is None and not self._has_few_dead

    @cached_property
    def _looked_through(self) -> tuple[QuerySet[Any], str] | None:
        """What one index gives for the search, and its column with the message's key; None where no index helps."""
        if self._leading:
            return self._leading.values(), "message_id"
        found = Message.objects.all()
        if self.search.indexed:
            found = found.filter(self.search.indexed[0])
        elif self.search.values.get("status") in UNFINISHED:
            found = found.unfinished()
        elif self.service_id is not None:
            found = found.filter(service_id=self.service_id)
            found = found.dead() if self.search.values.get("status") == Status.DEAD else found
        else:
            return None
        return found, "pk"

    def _edge_below(self, start: int) -> int:
        """The last row number to look at on the way down."""
        if self._looked_through is None:
            return max(1, start - SEARCHED)
        rows, key = self._looked_through
        below = rows.filter(**{f"{key}__lt": start}).order_by(f"-{key}").values_list(key, flat=True)
        return next(iter(below[SEARCHED - 1 : SEARCHED]), 1)

    def _edge_above(self, start: int) -> int:
        """The last row number to look at on the way up."""
        if self._looked_through is None:
            return start + SEARCHED
        rows, key = self._looked_through
        above = rows.filter(**{f"{key}__gt": start}).order_by(key).values_list(key, flat=True)
        return next(iter(above[SEARCHED - 1 : SEARCHED]), self._high)

    # ---- counts ----------------------------------------------------------------------------------------------------
    @cached_property
    def counts(self) -> dict[str, int]:
        """How many there are of the statuses that an index knows; counting stops at COUNT_LIMIT."""
        if self.search.has_conditions:
            return {}
        counts: dict[str, int] = self.unfinished.order_by()[:COUNT_LIMIT].aggregate(
            **{status.value: Count("pk", filter=Q(status=status)) for status in UNFINISHED}
        )
        return {**counts, Status.DEAD: self._dead}

    @cached_property
    def _dead(self) -> int:
        return self.everything.dead().order_by()[:COUNT_LIMIT].count()

    @property
    def _has_few_dead(self) -> bool:
        return not self.search.has_conditions and self._dead < COUNT_LIMIT


def selection(search: Search) -> MessageQuerySet:
    """All that a search finds, for who goes through history in windows of his own."""
    names = {"service": "service__name", "created_after": "created_at__gte", "created_before": "created_at__lt"}
    fields = [one.holds() for one in search.fields]
    return _matching(search).filter(*fields, **{names.get(name, name): value for name, value in search.values.items()})


def _matching(search: Search) -> MessageQuerySet:
    """What fits all but ``values`` and ``fields``."""
    found = Message.objects.filter(*search.indexed, *search.others)
    for place, (label, is_negated) in enumerate(search.labels):
        found = _labelled(found, label, is_negated, f"_label{place}")
    return found


def listed(found: MessageQuerySet) -> MessageQuerySet:
    """With what a list shows of each one's endpoint."""
    return found.select_related("endpoint").defer(
        "endpoint__body", "endpoint__description", "endpoint__headers", "endpoint__query"
    )


def _labelled(found: MessageQuerySet, label: str, is_negated: bool, alias: str) -> MessageQuerySet:
    name, equals, value = label.partition("=")
    if not equals:
        has = Q(**{f"{alias}__icontains": f'"{label}"'})
        return found.alias(**{alias: Cast("tags", TextField())}).filter(negated(has, is_negated))
    found = found.alias(**{alias: KeyTransform(name, "tags")})
    if not is_negated:
        return found.filter(**{alias: value})
    # A message without the label has not got this one: NULL would be neither equal nor different.
    return found.filter(Q(**{f"{alias}__isnull": True}) | ~Q(**{alias: value}))


def rows_around(moment: datetime, newest: int) -> tuple[int, int]:
    """Row numbers with the first message accepted since ``moment`` between them, at most CLOSE apart.

    Acceptance times have no index, but row numbers grow with them. So a look at rows spread over the whole range
    closes in on the moment: one query at five million messages, wherever it lies.
    """
    low, high = 0, newest + 1
    while high - low > CLOSE:
        spread = range(low, high, max(1, (high - low) // PROBES))
        seen = Message.objects.filter(pk__in=spread).order_by("pk").values_list("pk", "created_at")
        before = (low, high)
        for pk, created_at in seen:
            if created_at >= moment:
                high = pk
                break
            low = pk
        if (low, high) == before:
            break  # what was between is pruned
    return low, high
