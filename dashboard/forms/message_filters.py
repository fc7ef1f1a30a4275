"""The address of a list: its filters, which are qualifiers of the search, and its pages by cursor."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from django import forms
from django.core.signing import BadSignature, Signer
from django.db.models import QuerySet
from django.http import QueryDict

from dashboard.forms.message import LocalMoment
from integrations.models import Service, Status
from integrations.outbound.outcome import Fault
from integrations.policies.retry import DeadReason
from integrations.search import grammar
from integrations.search.grammar import Search
from integrations.search.pages import Found, Listed

PAGE = 50


# ---- the filters --------------------------------------------------------------------------------------------------
class FilterForm(forms.Form):
    """Every filter has a name in the address; what cannot be read is said and left out."""

    q = forms.CharField(required=False, max_length=2000)
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


TIMES = ("created_after", "created_before")


def filters_of(query: QueryDict) -> dict[str, str]:
    """The filters that an address gives, always in the same order."""
    return {name: value for name in FilterForm.base_fields if (value := query.get(name, ""))}


def read(query: QueryDict) -> tuple[FilterForm, Search]:
    """The filters of an address, besides those typed into the search; a service or status typed there wins."""
    form = FilterForm(query)
    form.is_valid()
    given = {name: value for name, value in form.cleaned_data.items() if value not in (None, "")}
    found = grammar.read(given.pop("q", ""))
    found.between(**{name: given.pop(name) for name in TIMES if name in given})
    for name, value in given.items():
        if name not in found.values:
            found.add(name, str(value))
    for name in form.errors:
        found.problems.append(f"The filter {name} was left out: {str(form.errors[name][0]).rstrip('.')}")
    return form, found


def plain_query(query: QueryDict, search: Search) -> QueryDict | None:
    """The address with ``service:`` and ``status:`` moved out of the search into their own fields, which the page
    shows; None where there is nothing to move."""
    text = query.get("q", "")
    named = [name for name in ("service", "status") if len(re.findall(rf"(?:^|\s){name}:\S", text)) == 1]
    named = [name for name in named if name in search.values]
    if "service" in named and not Service.objects.filter(name=search.values["service"]).exists():
        named.remove("service")  # it has no place among the names to choose from
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


# ---- pages --------------------------------------------------------------------------------------------------------
_signer = Signer(salt="switchboard.cursor")


@dataclass(slots=True)
class Page:
    """One page, newest first, and the cursors of its neighbours. ``is_cut``: it ends where enough was looked through,
    not where the list does."""

    rows: list[Any]
    newer: str = ""
    older: str = ""
    is_first: bool = True
    is_cut: bool = False
    refused: bool = False


def page(source: QuerySet[Any] | Found, cursor: str, size: int = PAGE) -> Page:
    """The page at a cursor made by this function; with another one, the first page and ``refused``."""
    rows: Found | Listed[Any] = Listed(source) if isinstance(source, QuerySet) else source
    direction, place, refused = _place(cursor)
    if direction == "newer":
        newer = rows.newer(place, size)
        if not newer.ahead and len(newer.rows) < size:  # the beginning: a whole page reads better than its rest
            return page(source, "", size)
        shown: list[Any] = newer.rows[::-1]
        return Page(
            rows=shown,
            newer=cursor_of("newer", newer.ahead),
            older=cursor_of("older", shown[-1].pk if shown else place + 1),
            is_first=not newer.ahead,
        )
    older = rows.older(place if direction else None, size)
    shown = older.rows
    return Page(
        rows=shown,
        newer=cursor_of("newer", (shown[0].pk if shown else place - 1) if direction else 0),
        older=cursor_of("older", older.ahead),
        is_first=not direction,
        is_cut=older.is_cut,
        refused=refused,
    )


def cursor_of(direction: str, place: int) -> str:
    """The signed place; empty where there is nothing that way."""
    return _signer.sign(f"{direction} {place}") if place > 0 else ""


def _place(cursor: str) -> tuple[str, int, bool]:
    if not cursor:
        return "", 0, False
    try:
        direction, _, pk = _signer.unsign(cursor).partition(" ")
        return direction, int(pk), False
    except (BadSignature, ValueError):
        return "", 0, True
