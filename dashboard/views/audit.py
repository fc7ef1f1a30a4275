"""The audit trail: who changed what, from what to what, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard.access import admin
from dashboard.presenters.pagination import page
from integrations.models import AuditEntry
from integrations.search.pages import SCAN_LIMIT

VALUE_SHOWN = 120  # characters of a value in the list
FILTERS = ("target", "actor", "action")


@admin
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    filters = {name: value[:200].strip() for name in FILTERS if (value := request.GET.get(name, ""))}
    shown = page(_found(filters), request.GET.get("cursor", ""))
    context = {
        "entries": [(entry, changes(entry.before, entry.after)) for entry in shown.rows],
        "page": shown,
        "filters": filters,
        "older_url": f"?{urlencode({**filters, 'cursor': shown.older})}",
        "newer_url": f"?{urlencode({**filters, 'cursor': shown.newer})}",
    }
    return render(request, "audit/listing.html", context)


def _found(filters: dict[str, str]) -> Any:
    """A target is looked up by its index; who and what are looked for in the newest entries."""
    found = AuditEntry.objects.all()
    if target := filters.get("target"):
        found = found.filter(Q(target=target) | Q(target__startswith=f"{target}/"))
    if not filters.get("actor") and not filters.get("action"):
        return found
    newest = AuditEntry.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    found = found.filter(pk__gt=newest - SCAN_LIMIT)
    if who := filters.get("actor"):
        found = found.filter(actor__icontains=who)
    if what := filters.get("action"):
        found = found.filter(action__icontains=what)
    return found


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """One value that was changed, set or removed; None stands for nothing."""

    name: str
    before: str | None
    after: str | None


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[ChangedValue]:
    """What differs, by the full name of each value: ``retry.max_attempts`` from 10 to 5."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        ChangedValue(name, was, became)
        for name in dict.fromkeys([*old, *new])
        if (was := _words(old.get(name))) != (became := _words(new.get(name)))
        or (was is not None and old.get(name) != new.get(name))  # alike only because the words were cut
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _words(value: Any) -> str | None:
    if value in (None, "", [], {}):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}…"
