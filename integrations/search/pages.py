"""Read the results of a search in pages; without an index, a page scans a limited number of messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

from django.db.models import Count, Max, Min, Model, Q, QuerySet, TextField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast

from integrations.models import UNFINISHED, Message, Service, Status
from integrations.models.message import MessageQuerySet
from integrations.search.grammar import FieldCondition, Search, negated

COUNT_LIMIT = 10_000
SCAN_LIMIT = 100_000  # messages that a page reads if no index serves the search
PROBES = 500  # row ids read in one step of the search for a point in time
ROUNDS = 2  # such steps: for five billion rows; between deleted rows, where more would help, nothing is read in vain
CLOSE = 20_000  # rows that may be read in vain to find a point in time
SLACK = 1_000  # row ids and acceptance times have the same order, except for concurrent transactions
Row = TypeVar("Row", bound=Model)


class RowPage(NamedTuple, Generic[Row]):
    """Rows of a list, and the row id where the list continues (0 at its end)."""

    rows: list[Row]
    next_id: int = 0
    is_cut: bool = False  # the scan limit ended the page, so the list continues


@dataclass(frozen=True, slots=True)
class RowPages(Generic[Row]):
    """The rows of a queryset in pages, for querysets whose order an index gives."""

    rows: QuerySet[Row]

    def older(self, row_id: int | None, size: int) -> RowPage[Row]:
        """The next ``size`` rows below a row id, newest first; from the newest on without an id."""
        rows = self.rows if row_id is None else self.rows.filter(pk__lt=row_id)
        return _row_page(list(rows.order_by("-pk")[: size + 1]), size)

    def newer(self, row_id: int, size: int) -> RowPage[Row]:
        """The next ``size`` rows above a row id, oldest first."""
        return _row_page(list(self.rows.filter(pk__gt=row_id).order_by("pk")[: size + 1]), size)


def _row_page(rows: list[Row], size: int) -> RowPage[Row]:
    return RowPage(rows[:size], rows[size - 1].pk if len(rows) > size else 0)


@dataclass
class SearchResults:
    """The messages that a search finds."""

    search: Search

    @property
    def services(self) -> dict[str, Service]:
        return self.search.services

    @cached_property
    def newest(self) -> int:
        return Message.objects.aggregate(newest=Max("pk"))["newest"] or 0

    @cached_property
    def service_id(self) -> int | None:
        """The id of the search's service; 0, which finds nothing, if the name is not registered."""
        name = self.search.values.get("service")
        return None if not name else self.services[name].pk if name in self.services else 0

    # ---- as querysets ----------------------------------------------------------------------------------------------
    @cached_property
    def messages(self) -> MessageQuerySet:
        """All results. Callers read a window of row ids, or use ``older`` and ``newer``."""
        status = self.search.values.get("status")
        if not status:
            return self.everything
        found = self.unfinished if status in UNFINISHED else self.everything
        if status == Status.DEAD and self.service_id is None and self._has_few_dead:
            # So few lie far apart: read them by each service's index, not by a walk through all of history.
            found = found.filter(service_id__in=[service.pk for service in self.services.values()])
        return found.filter(status=status)

    @property
    def everything(self) -> MessageQuerySet:
        """All results in any status: the tabs count each."""
        return self._conditioned if self.service_id is None else self._conditioned.filter(service_id=self.service_id)

    @property
    def unfinished(self) -> MessageQuerySet:
        """The results that are pending or delivering."""
        found = self._conditioned
        return found.unfinished() if self.service_id is None else found.unfinished_for(self.service_id)

    @cached_property
    def _conditioned(self) -> MessageQuerySet:
        """Filtered by everything but service, status and fields of the body."""
        found, values = _matching(self.search), self.search.values
        if after := values.get("created_after"):
            found = found.filter(created_at__gte=after, pk__gt=self._low)
        if before := values.get("created_before"):
            found = found.filter(created_at__lt=before, pk__lt=self._high)
        return found

    @cached_property
    def _low(self) -> int:
        """A row id below all results."""
        after = self.search.values.get("created_after")
        if after:
            return max(0, rows_around(after, self.newest)[0] - SLACK)
        return (Message.objects.aggregate(oldest=Min("pk"))["oldest"] or 1) - 1

    @cached_property
    def _high(self) -> int:
        """A row id above all results."""
        before = self.search.values.get("created_before")
        return (rows_around(before, self.newest)[1] + SLACK if before else self.newest) + 1

    # ---- as pages --------------------------------------------------------------------------------------------------
    def older(self, row_id: int | None, size: int) -> RowPage[Message]:
        """The next ``size`` messages below a row id, newest first; fewer if the scan limit ends the page."""
        if not self._needs_scan:
            return RowPages(with_endpoints(self.messages)).older(row_id, size)
        start = self._high if row_id is None else min(row_id, self._high)
        end = self._scan_end_below(start)
        rows = RowPages(with_endpoints(self._window(end, start))).older(start, size)
        return rows if rows.next_id or end <= self._low + 1 else RowPage(rows.rows, end, is_cut=True)

    def newer(self, row_id: int, size: int) -> RowPage[Message]:
        """The next ``size`` messages above a row id, oldest first."""
        if not self._needs_scan:
            return RowPages(with_endpoints(self.messages)).newer(row_id, size)
        start = max(row_id, self._low)
        end = self._scan_end_above(start)
        rows = RowPages(with_endpoints(self._window(start + 1, end + 1))).newer(start, size)
        return rows if rows.next_id or end >= self._high - 1 else RowPage(rows.rows, end, is_cut=True)

    def newest_rows(self, size: int, *columns: str) -> tuple[list[tuple[Any, ...]], bool]:
        """The newest results as tuples, up to ``size`` or the scan limit, and whether there may be more."""
        if not self._needs_scan:
            found, is_cut = self.messages, False
        else:
            end = self._scan_end_below(self._high)
            found, is_cut = self._window(end, self._high), end > self._low + 1
        rows = list(found.order_by("-pk").values_list(*columns)[: size + 1])
        return rows[:size], is_cut or len(rows) > size

    def count_above(self, row_id: int, limit: int) -> int:
        """The number of results above a row id, up to ``limit``; a scan counts only among the newest."""
        if not self._needs_scan:
            return self.messages.filter(pk__gt=row_id).order_by()[:limit].count()
        first = max(row_id + 1, self.newest - SCAN_LIMIT)
        return self._window(first, self.newest + 1).order_by()[:limit].count()

    def _window(self, first: int, end: int) -> MessageQuerySet:
        """The results with row ids from ``first`` to before ``end``."""
        found = self.messages.filter(pk__gte=first, pk__lt=end)
        bounds = {"message__gte": first, "message__lt": end}  # else a database reads the values of all of history
        for field in self.search.fields:
            leads = field is self._leading
            found = found.filter(Q(pk__in=field.values(**bounds).values("message")) if leads else field.holds(**bounds))
        return found.filter(*(word.holds(**bounds) for word in self.search.words))

    @cached_property
    def _leading(self) -> FieldCondition | None:
        """The field whose index gives the messages; the other fields are checked for each of them."""
        return next((field for field in self.search.fields if field.is_indexed), None)

    @cached_property
    def _needs_scan(self) -> bool:
        if self.search.needs_scan:
            return True
        # Dead messages of all services have no index; see ``messages`` for the case of few.
        is_dead = self.search.values.get("status") == Status.DEAD
        return is_dead and self.service_id is None and not self._has_few_dead

    @cached_property
    def _scanned(self) -> tuple[QuerySet[Any], str] | None:
        """The rows that one index gives for the search, and their column with the message's id, or None."""
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

    def _scan_end_below(self, start: int) -> int:
        """The last row id that a scan downwards reads."""
        if self._scanned is None:
            return max(1, start - SCAN_LIMIT)
        rows, key = self._scanned
        below = rows.filter(**{f"{key}__lt": start}).order_by(f"-{key}").values_list(key, flat=True)
        return next(iter(below[SCAN_LIMIT - 1 : SCAN_LIMIT]), 1)

    def _scan_end_above(self, start: int) -> int:
        """The last row id that a scan upwards reads."""
        if self._scanned is None:
            return start + SCAN_LIMIT
        rows, key = self._scanned
        above = rows.filter(**{f"{key}__gt": start}).order_by(key).values_list(key, flat=True)
        return next(iter(above[SCAN_LIMIT - 1 : SCAN_LIMIT]), self._high)

    # ---- counts ----------------------------------------------------------------------------------------------------
    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of results in each status that has an index; counting stops at COUNT_LIMIT."""
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
    """All messages that a search finds, for callers that walk through history in windows of their own."""
    names = {"service": "service__name", "created_after": "created_at__gte", "created_before": "created_at__lt"}
    conditions = [*(field.holds() for field in search.fields), *(word.holds() for word in search.words)]
    return _matching(search).filter(
        *conditions, **{names.get(name, name): value for name, value in search.values.items()}
    )


def _matching(search: Search) -> MessageQuerySet:
    """The messages that match everything except ``values``, ``fields`` and ``words``."""
    found = Message.objects.filter(*search.indexed, *search.others)
    if search.words:
        found = found.alias(_tags_text=Cast("tags", TextField()))
    for number, (tag, is_negated) in enumerate(search.tags):
        found = _tagged(found, tag, is_negated, f"_tag{number}")
    return found


def with_endpoints(found: MessageQuerySet) -> MessageQuerySet:
    """Add the endpoints' columns that a list shows."""
    return found.select_related("endpoint").defer(
        "endpoint__body", "endpoint__description", "endpoint__headers", "endpoint__query"
    )


def _tagged(found: MessageQuerySet, tag: str, is_negated: bool, alias: str) -> MessageQuerySet:
    name, equals, value = tag.partition("=")
    if not equals:
        has = Q(**{f"{alias}__icontains": f'"{tag}"'})
        return found.alias(**{alias: Cast("tags", TextField())}).filter(negated(has, is_negated))
    found = found.alias(**{alias: KeyTransform(name, "tags")})
    if not is_negated:
        return found.filter(**{alias: value})
    # A message without the tag matches its negation, but NULL is neither equal nor different.
    return found.filter(Q(**{f"{alias}__isnull": True}) | ~Q(**{alias: value}))


def rows_around(moment: datetime, newest: int) -> tuple[int, int]:
    """Two row ids, at most CLOSE apart, with the first message accepted since ``moment`` between them.

    Acceptance times have no index, but row ids grow with them. So reading rows spread over the whole range narrows down
    the moment: with five million messages in one query, wherever the moment lies.
    """
    low, high = 0, newest + 1
    for _ in range(ROUNDS):
        if high - low <= CLOSE:
            break
        spread = range(low, high, max(1, (high - low) // PROBES))
        seen = Message.objects.filter(pk__in=spread).order_by("pk").values_list("pk", "created_at")
        before = (low, high)
        for pk, created_at in seen:
            if created_at >= moment:
                high = pk
                break
            low = pk
        if (low, high) == before:
            break  # the rows in between are pruned
    return low, high
