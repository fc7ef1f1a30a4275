"""The filters of the list of messages, from its address."""

from __future__ import annotations

import re
from datetime import datetime

from django import forms
from django.http import QueryDict
from django.utils import timezone

from dashboard.forms.fields import LocalTimeField
from integrations.models import Service, Status
from integrations.outbound.outcome import Fault
from integrations.policies.retry import DeadReason
from integrations.search import grammar
from integrations.search.grammar import Search


class FilterForm(forms.Form):
    """Every filter has a name in the address. An invalid one is reported and left out."""

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
    created_after = LocalTimeField()
    created_before = LocalTimeField()


TIMES = ("created_after", "created_before")


def filters_of(query: QueryDict) -> dict[str, str]:
    """The filters of an address, always in the same order."""
    return {name: value for name in FilterForm.base_fields if (value := query.get(name, ""))}


def read_filters(query: QueryDict) -> tuple[FilterForm, Search]:
    """The filters of an address, added to those typed into the search. A service or status typed there wins."""
    form = FilterForm(query)
    form.is_valid()
    given = {name: value for name, value in form.cleaned_data.items() if value not in (None, "")}
    found = grammar.parse(given.pop("q", ""))
    found.between(**{name: given.pop(name) for name in TIMES if name in given})
    for name, value in given.items():
        if name not in found.values:
            found.add(name, str(value))
    for name in form.errors:
        found.problems.append(f"Filter {name} ignored: {str(form.errors[name][0]).rstrip('.')}")
    return form, found


def plain_query(query: QueryDict, search: Search) -> QueryDict | None:
    """The address with ``service:`` and ``status:`` moved out of the search into their own fields, which the page
    shows, and with a zone at each time; None if it is like that already."""
    text = _with_zone(query.get("q", ""))
    named = [name for name in ("service", "status") if len(re.findall(rf"(?:^|\s){name}:\S", text)) == 1]
    named = [name for name in named if name in search.values]
    if "service" in named and not Service.objects.filter(name=search.values["service"]).exists():
        named.remove("service")  # the page's choices do not have it
    if not named and text == query.get("q", ""):
        return None
    plain = query.copy()
    for name in named:
        text = re.sub(rf"(^|\s){name}:\S+", " ", text)
        plain[name] = search.values[name]
    plain["q"] = " ".join(text.split()) if named else text
    if not plain["q"]:
        del plain["q"]
    return plain


def _with_zone(text: str) -> str:
    """The search with the viewer's zone at times typed without one. The grammar has no viewer: it reads them in UTC,
    also when an operation or another person takes over the search."""
    return re.sub(r"(?<!\S)(after|before):(\d\S*)", _zoned, text)


def _zoned(word: re.Match[str]) -> str:
    try:
        moment = datetime.fromisoformat(word[2])
        return f"{word[1]}:{timezone.make_aware(moment).isoformat()}" if moment.tzinfo is None else word[0]
    except (ValueError, OverflowError):
        return word[0]  # the grammar says what is wrong with it
