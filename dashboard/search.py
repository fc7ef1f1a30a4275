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
from typing import Any

from django import forms
from django.core.signing import BadSignature, Signer
from django.db.models import Max, Min, TextField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast
from django.http import QueryDict

from dashboard.message_forms import LocalMoment
from integrations.models import Message, Service, Status
from integrations.models.message import MessageQuerySet
from integrations.outcome import Fault
from integrations.policies.retry import DeadReason

PAGE = 50
COUNT_LIMIT = 10_000
SEARCHED = 200_000  # messages looked through where no index helps
PROBES = 64  # row numbers looked at in one step of the search for a point in time
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


RARE = ("endpoint", "dead_reason", "fault", "status_code", "ordering_key", "created_after", "created_before")
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
        others = set(self.values) - {"service", "status", "created_after"}
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


# ---- the messages -------------------------------------------------------------------------------------------------
@dataclass
class Found:
    """A search over the messages. ``is_bounded`` says that only the newest were looked through."""

    search: Search
    is_bounded: bool = False

    @cached_property
    def newest(self) -> int:
        return Message.objects.aggregate(newest=Max("pk"))["newest"] or 0

    @cached_property
    def everything(self) -> MessageQuerySet:
        """All that is found, but for the status: the tabs count each."""
        values, search = self.search.values, self.search
        found = Message.objects.all()
        if name := values.get("service"):
            # By its number, which the index has; a name that is not registered finds nothing.
            service_id = Service.objects.filter(name=name).values_list("pk", flat=True).first()
            found = found.filter(service_id=service_id or 0)
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
        return self._bounded(self._in_time(found))

    @cached_property
    def messages(self) -> MessageQuerySet:
        status = self.search.values.get("status")
        return self.everything.filter(status=status) if status else self.everything

    def _in_time(self, found: MessageQuerySet) -> MessageQuerySet:
        after, before = self.search.values.get("created_after"), self.search.values.get("created_before")
        if after:
            found = found.filter(created_at__gte=after, pk__gte=first_since(after) - SLACK)
        if before:
            found = found.filter(created_at__lt=before, pk__lte=first_since(before) + SLACK)
        return found

    def _bounded(self, found: MessageQuerySet) -> MessageQuerySet:
        if not self.search.needs_a_bound:
            return found
        before = self.search.values.get("created_before")
        newest = min(self.newest, first_since(before) + SLACK) if before else self.newest
        self.is_bounded = newest > SEARCHED
        return found.filter(pk__gt=newest - SEARCHED) if self.is_bounded else found

    def counts(self) -> dict[str, int]:
        """How many there are of the statuses that an index knows; counting stops at COUNT_LIMIT."""
        return {
            status: self.everything.filter(status=status).order_by()[:COUNT_LIMIT].count()
            for status in (Status.PENDING, Status.DELIVERING, Status.DEAD)
        }


def _tagged(found: MessageQuerySet, tag: str) -> MessageQuerySet:
    name, equals, value = tag.partition("=")
    if equals:
        return found.annotate(_tag=KeyTransform(name, "tags")).filter(_tag=value)
    return found.annotate(_tags=Cast("tags", TextField())).filter(_tags__icontains=f'"{tag}"')


def first_since(moment: datetime) -> int:
    """The number of about the first message accepted at or after ``moment``.

    Acceptance times have no index; row numbers grow with them, so a few looks at rows spread over the range close in
    on it: three or four queries at five million messages, wherever the moment lies.
    """
    ends = Message.objects.aggregate(low=Min("pk"), high=Max("pk"))
    low, high = ends["low"] or 1, (ends["high"] or 0) + 1
    while high - low > SLACK:
        step = max(1, (high - low) // PROBES)
        seen = Message.objects.filter(pk__in=range(low, high, step)).order_by("pk").values_list("pk", "created_at")
        new_low, new_high = low, high
        for pk, created_at in seen:
            if created_at < moment:
                new_low = pk
            else:
                new_high = pk
                break
        if (new_low, new_high) == (low, high):
            break  # the rows between were pruned
        low, high = new_low, new_high
    return high if high - low <= 1 else low


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
