"""The list of services: which ones, in which order, and which part of them is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlencode

from django.db.models import Q, QuerySet, TextField
from django.db.models.functions import Cast

from dashboard.presenters.pagination import NumberedPage
from dashboard.presenters.service_stats import Standing
from integrations.models import Service

PAGE = 50
TAGS = 200  # choices of the filter
STATES = {
    "": "All",
    "down": "Down",
    "half_open": "Half-open",
    "paused": "Paused",
    "up": "Up",
    "unknown": "Idle",
}


class Column(NamedTuple):
    """A column of the table. ``key`` gives the order of a first click; the second click turns it around."""

    label: str
    key: Callable[[Standing], Any] | None = None
    sort: str = ""  # its name in the address
    title: str = ""
    is_number: bool = False
    is_descending: bool = False  # the largest number comes first
    shown_from: str = ""  # the class with the width from which the column has room


def _worst_rate(standing: Standing) -> tuple[float, int]:
    rate = standing.hour.success_rate
    return (2.0 if rate is None else rate, -standing.hour.failures)


COLUMNS = (
    Column("Service", lambda standing: standing.service.name, "name"),
    Column("Address", shown_from="from-1024"),
    Column("Status"),
    Column("Breaker"),
    Column("Succeeded", _worst_rate, "failures", "In the last hour", is_number=True, shown_from="from-1024"),
    Column(
        "P95 latency",
        lambda standing: -(standing.hour.p95 or 0.0),
        "latency",
        "In the last hour, 95 of 100 calls took at most this long",
        is_number=True,
        is_descending=True,
    ),
    Column(
        "Calls per minute",
        lambda standing: (-standing.last_minute, -standing.hour.calls),
        "traffic",
        is_number=True,
        is_descending=True,
        shown_from="from-1270",
    ),
    Column("Waiting", lambda standing: -standing.waiting, "backlog", is_number=True, is_descending=True),
    Column(
        "Dead",
        lambda standing: -standing.dead,
        "dead",
        "In the last 24 h, not yet redelivered",
        is_number=True,
        is_descending=True,
    ),
)
SORTS = {column.sort: column.key for column in COLUMNS if column.key}
SORT_NAMES = {
    "": "Trouble first, then busy",
    "name": "Name",
    "traffic": "Traffic",
    "failures": "Failures",
    "latency": "Latency",
    "backlog": "Backlog",
    "dead": "Dead messages",
}


@dataclass(frozen=True, slots=True)
class ServiceFilters:
    """The filters of the list, from its address. Unknown values are left out."""

    search: str = ""
    state: str = ""
    tag: str = ""
    sort: str = ""  # the name of a column, with a minus if it is turned around

    @property
    def sorted_by(self) -> str:
        return self.sort.removeprefix("-")

    @property
    def is_empty(self) -> bool:
        return not (self.search or self.state or self.tag)

    @classmethod
    def of(cls, query: dict[str, str]) -> ServiceFilters:
        state, sort = query.get("state", ""), query.get("sort", "")
        return cls(
            search=query.get("q", "").strip()[:200],
            state=state if state in STATES else "",
            tag=query.get("tag", "").strip()[:200],
            sort=sort if sort.removeprefix("-") in SORTS else "",
        )

    def query(self, **changes: str | int) -> str:
        """The address of the list with these values changed."""
        values = {"q": self.search, "state": self.state, "tag": self.tag, "sort": self.sort, **changes}
        return urlencode({name: value for name, value in values.items() if value})


def matching(search: str) -> QuerySet[Service]:
    """The services whose name, address, owner, description or tags contain a text."""
    services = Service.objects.all()
    if not search:
        return services
    return services.annotate(tag_text=Cast("tags", TextField())).filter(
        Q(name__icontains=search)
        | Q(base_url__icontains=search)
        | Q(owner__icontains=search)
        | Q(description__icontains=search)
        | Q(tag_text__icontains=search)
    )


@dataclass(frozen=True, slots=True)
class ServiceList:
    """The services that a search found, as the page shows them."""

    page: NumberedPage[Standing]
    tabs: list[dict[str, Any]]
    columns: list[dict[str, Any]]
    tags: list[str]


def listed(found: Iterable[Standing], filters: ServiceFilters, number: int) -> ServiceList:
    """Filter, sort and cut the services that the search found. The tabs count those with the tag, in every state."""
    found = list(found)
    tags = Counter(tag for standing in found for tag in standing.service.tags)
    tagged = [standing for standing in found if not filters.tag or filters.tag in standing.service.tags]
    states = Counter(standing.state for standing in tagged)
    chosen = [standing for standing in tagged if not filters.state or standing.state == filters.state]
    return ServiceList(
        page=NumberedPage.of(_in_order(chosen, filters.sort), number, PAGE),
        tabs=[
            {
                "label": label,
                "count": states[state] if state else len(tagged),
                "url": f"?{filters.query(state=state)}",
                "is_current": state == filters.state,
            }
            for state, label in STATES.items()
        ],
        columns=[_heading(column, filters) for column in COLUMNS],
        tags=sorted(tag for tag, _ in tags.most_common(TAGS)),
    )


def _in_order(found: list[Standing], sort: str) -> list[Standing]:
    in_order = sorted(found, key=lambda standing: standing.rank)
    if key := SORTS.get(sort.removeprefix("-")):
        in_order.sort(key=key, reverse=sort.startswith("-"))
    return in_order


def _heading(column: Column, filters: ServiceFilters) -> dict[str, Any]:
    is_sorted = bool(column.sort) and filters.sorted_by == column.sort
    is_turned = filters.sort.startswith("-")
    orders = ("descending", "ascending") if column.is_descending else ("ascending", "descending")
    next_sort = f"-{column.sort}" if is_sorted and not is_turned else column.sort
    return {
        "label": column.label,
        "title": column.title,
        "is_number": column.is_number,
        "shown_from": column.shown_from,
        "url": f"?{filters.query(sort=next_sort)}" if column.sort else "",
        "order": orders[is_turned] if is_sorted else "",
    }
