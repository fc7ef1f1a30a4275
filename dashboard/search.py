"""Finding messages: filters in the address, a few qualifiers in the search box, pages by cursor.

Nothing here may get slow with history. What an index answers is asked of all of it; anything else looks at the
newest messages only, and the page says so.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from django import forms
from django.core.signing import BadSignature, Signer
from django.db.models import Count, Max, Q, TextField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast
from django.http import QueryDict

from dashboard.message_forms import LocalMoment
from integrations.models import UNFINISHED, Message, Service, Status
from integrations.models.message import MessageQuerySet
from integrations.outcome import Fault
from integrations.policies.retry import DeadReason

PAGE = 50
COUNT_LIMIT = 10_000
SEARCHED = 100_000  # messages looked through where no index helps
PROBES = 500  # row numbers looked at in one step of the search for a point in time
CLOSE = 20_000  # rows that may be read in vain for a point in time
SLACK = 1_000  # row numbers and acceptance times are in the same order, but for transactions side by side


# ---- the filters --------------------------------------------------------------------------------------------------
class FilterForm(forms.Form):
    """Every filter has a name in the address; what cannot be read is said and left out."""

    q = forms.CharField(required=False, max_length=300)
    service = forms.CharField(required=False, max_length=63)
    endpoint = forms.CharField(required=False, max_length=63)
    status = forms.ChoiceField(required=False, choices=[("", "Any status"), *Status.choices])
    dead_reason = forms.ChoiceField(
        required=False, choices=[("", "Any"), *((reason.value, reason.value) for reason in DeadReason)]
    )
    fault = forms.ChoiceField(required=False, choices=[("", "Any"), *((fault.value, fault.value) for fault in Fault)])
    status_code = forms.IntegerField(required=False, min_value=100, max_value=599)
    ordering_key = forms.CharField(required=False, max_length=200)
    created_after = LocalMoment()
    created_before = LocalMoment()


QUALIFIERS = {
    "service": "service",
    "endpoint": "endpoint",
    "status": "status",
    "reason": "dead_reason",
    "dead_reason": "dead_reason",
    "fault": "fault",
    "code": "status_code",
    "status_code": "status_code",
    "key": "ordering_key",
    "ordering_key": "ordering_key",
}


@dataclass(slots=True)
class Search:
    """What is looked for: the filters' values, free words, labels, and what could not be understood."""

    values: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.values or self.words or self.tags)

    @property
    def needs_a_bound(self) -> bool:
        """Whether something is asked for that no index answers."""
        others = set(self.values) - {"service", "status", "created_after", "created_before"}
        return bool(others or self.words or self.tags or self.values.get("status") == Status.CANCELLED)


def read(query: QueryDict) -> tuple[FilterForm, Search]:
    """The filters of an address. Qualifiers in ``q`` win over the fields."""
    form = FilterForm(query)
    form.is_valid()
    search = Search({name: value for name, value in form.cleaned_data.items() if value not in (None, "")})
    for name in form.errors:
        search.problems.append(f"The filter {name} was left out: {form.errors[name][0]}")
    _read_text(search, str(search.values.pop("q", "")))
    return form, search


def _read_text(search: Search, text: str) -> None:
    given: dict[str, str] = {}
    for part in _parts(text):
        name, colon, value = part.partition(":")
        if colon and name == "tag" and value:
            search.tags.append(value)
        elif colon and name in QUALIFIERS and value:
            given[QUALIFIERS[name]] = value
        elif colon and re.fullmatch(r"[a-z_.]+", name) and value and not value.startswith("/"):
            search.problems.append(f"“{name}:” is not a qualifier; use {', '.join(QUALIFIERS)} or tag.")
        else:
            search.words.append(part)
    if given:
        form = FilterForm(given)
        form.is_valid()
        search.values |= {name: form.cleaned_data[name] for name in given if name in form.cleaned_data}
        search.problems += [f"{name}:{given[name]}: {errors[0]}" for name, errors in form.errors.items()]


def _parts(text: str) -> list[str]:
    try:
        return shlex.split(text, posix=True)
    except ValueError:  # a quote without its end
        return text.split()


def plain_query(query: QueryDict, search: Search) -> QueryDict | None:
    """The address with ``service:`` and ``status:`` moved out of the search into their own fields, which the page
    shows; None where there is nothing to move."""
    text = query.get("q", "")
    names = [name for name in ("service", "status") if name in search.values]
    named = [name for name in names if re.search(rf"(^|\s){name}:\S", text)]
    if not named:
        return None
    plain = query.copy()
    for name in named:
        text = re.sub(rf"(^|\s){name}:\S+", " ", text)
        plain[name] = search.values[name]
    plain["q"] = " ".join(text.split())
    if not plain["q"]:
        del plain["q"]
    return plain


# ---- the messages -------------------------------------------------------------------------------------------------
@dataclass
class Found:
    """A search over the messages. ``is_bounded`` says that only the newest were looked through."""

    search: Search
    is_bounded: bool = False

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

    @property
    def everything(self) -> MessageQuerySet:
        """All that is found, but for the status: the tabs count each."""
        return self._others if self.service_id is None else self._others.filter(service_id=self.service_id)

    @property
    def unfinished(self) -> MessageQuerySet:
        """Those that are pending or delivering."""
        return unfinished(self._others, self.service_id)

    @cached_property
    def _others(self) -> MessageQuerySet:
        """By every filter but service and status."""
        values, search = self.search.values, self.search
        found = Message.objects.all()
        for name in ("dead_reason", "ordering_key"):
            if name in values:
                found = found.filter(**{name: values[name]})
        if "endpoint" in values:
            found = found.filter(endpoint__name=values["endpoint"])
        if "fault" in values:
            found = found.filter(last_fault=values["fault"])
        if "status_code" in values:
            found = found.filter(last_status_code=values["status_code"])
        for word in search.words:
            found = found.filter(path__icontains=word) | found.filter(method__iexact=word)
        for tag in search.tags:
            found = _tagged(found, tag)
        return self._within(found)

    @cached_property
    def messages(self) -> MessageQuerySet:
        status = self.search.values.get("status")
        if not status:
            return self.everything
        found = self.unfinished if status in UNFINISHED else self.everything
        if status == Status.DEAD and self.service_id is None and self.counts.get(Status.DEAD, 0) < COUNT_LIMIT:
            # So few lie far apart: by each service's index and not by a walk through all of history.
            found = found.filter(service_id__in=[service.pk for service in self.services.values()])
        return found.filter(status=status)

    def _within(self, found: MessageQuerySet) -> MessageQuerySet:
        """Only the rows between the times asked for, and no more of them than can be looked through."""
        after, before = self.search.values.get("created_after"), self.search.values.get("created_before")
        last = self.newest if before or after or self.search.needs_a_bound else 0
        if after:
            found = found.filter(created_at__gte=after, pk__gt=rows_around(after, last)[0] - SLACK)
        if before:
            last = min(last, rows_around(before, last)[1] + SLACK)
            found = found.filter(created_at__lt=before, pk__lte=last)
        if self.search.needs_a_bound and last > SEARCHED:
            self.is_bounded = True
            found = found.filter(pk__gt=last - SEARCHED)
        return found

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many there are of the statuses that an index knows; counting stops at COUNT_LIMIT."""
        if self.search.needs_a_bound:
            return {}
        counts: dict[str, int] = self.unfinished.order_by()[:COUNT_LIMIT].aggregate(
            **{status.value: Count("pk", filter=Q(status=status)) for status in UNFINISHED}
        )
        return {**counts, Status.DEAD: self.everything.dead().order_by()[:COUNT_LIMIT].count()}


def unfinished(found: MessageQuerySet, service_id: int | None) -> MessageQuerySet:
    """The pending and delivering ones, by the index of the unfinished ones.

    SQLite would rather walk through all of a service's history if the service were asked for by its column alone.
    """
    found = found.unfinished()
    if service_id is None:
        return found
    return cast(MessageQuerySet, found.extra(where=["+integrations_message.service_id = %s"], params=[service_id]))


def _tagged(found: MessageQuerySet, tag: str) -> MessageQuerySet:
    name, equals, value = tag.partition("=")
    if equals:
        return found.annotate(_tag=KeyTransform(name, "tags")).filter(_tag=value)
    return found.annotate(_tags=Cast("tags", TextField())).filter(_tags__icontains=f'"{tag}"')


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


# ---- pages --------------------------------------------------------------------------------------------------------
_signer = Signer(salt="switchboard.cursor")


@dataclass(slots=True)
class Page:
    """One page, newest first, and the cursors of its neighbours."""

    rows: list[Any]
    newer: str = ""
    older: str = ""
    is_first: bool = True
    refused: bool = False


def page(queryset: Any, cursor: str, size: int = PAGE) -> Page:
    """The page at a cursor made by this function; with another one, the first page and ``refused``."""
    direction, pk, refused = _place(cursor)
    if direction == "newer":
        rows = list(queryset.filter(pk__gt=pk).order_by("pk")[: size + 1])
        is_first, rows = len(rows) <= size, rows[:size][::-1]
        if is_first and len(rows) < size:  # the beginning: a whole page reads better than its rest
            return page(queryset, "", size)
        has_older = True
    else:
        older = queryset.filter(pk__lt=pk) if direction else queryset
        rows = list(older.order_by("-pk")[: size + 1])
        is_first, has_older, rows = not direction, len(rows) > size, rows[:size]
    return Page(
        rows=rows,
        newer=_signer.sign(f"newer {rows[0].pk}") if rows and not is_first else "",
        older=_signer.sign(f"older {rows[-1].pk}") if rows and has_older else "",
        is_first=is_first,
        refused=refused,
    )


def _place(cursor: str) -> tuple[str, int, bool]:
    if not cursor:
        return "", 0, False
    try:
        direction, _, pk = _signer.unsign(cursor).partition(" ")
        return direction, int(pk), False
    except (BadSignature, ValueError):
        return "", 0, True
