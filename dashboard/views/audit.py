"""The audit log: actor, action, target, changed values and reason."""

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
    """Entries by target come from an index; actor and action are searched in the newest entries only."""
    found = AuditEntry.objects.all()
    if target := filters.get("target"):
        found = found.filter(Q(target=target) | Q(target__startswith=f"{target}/"))
    if not filters.get("actor") and not filters.get("action"):
        return found
    newest = AuditEntry.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    found = found.filter(pk__gt=newest - SCAN_LIMIT)
    if actor := filters.get("actor"):
        found = found.filter(actor__icontains=actor)
    if action := filters.get("action"):
        found = found.filter(action__icontains=action)
    return found


@dataclass(frozen=True, slots=True)
class ChangedValue:
    """A value that was changed, set or removed. None means no value."""

    name: str
    before: str | None
    after: str | None


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[ChangedValue]:
    """The changed values by full name: ``retry.max_attempts`` from 10 to 5."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        ChangedValue(name, was, became)
        for name in dict.fromkeys([*old, *new])
        if (was := _text(old.get(name))) != (became := _text(new.get(name)))
        or (was is not None and old.get(name) != new.get(name))  # equal only because the text was cut
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _text(value: Any) -> str | None:
    if value in (None, "", [], {}):
        return None
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}…"
