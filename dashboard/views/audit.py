"""The audit log: actor, action, target, changed values and reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from django.db.models import Q
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard.access import admin
from dashboard.presenters.pagination import page
from dashboard.presenters.replay_changes import Parts, edited_parts, only_changes
from integrations.models import AuditEntry, Message, MessageContent, identifiers
from integrations.search.pages import SCAN_LIMIT

VALUE_SHOWN = 120  # characters of a value in the list
LINES_SHOWN = 8  # changed lines of each part of an edited replay
BODY_COMPARED = 16 * 1024  # bytes of a body; a longer one is compared on a page of its own
FILTERS = ("target", "actor", "action")


@admin
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    filters = {name: value[:200].strip() for name in FILTERS if (value := request.GET.get(name, ""))}
    shown = page(_found(filters), request.GET.get("cursor", ""))
    edits = _edits(shown.rows)
    context = {
        "entries": [_shown(entry, edits.get(entry.pk)) for entry in shown.rows],
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
class Edit:
    """The changes of an edited replay, as long as both messages are kept; without parts where they are long."""

    replay: Message
    parts: Parts


def _shown(entry: AuditEntry, edit: Edit | None) -> tuple[AuditEntry, list[ChangedValue], Edit | None]:
    """Lines of the content stand for its hashes, which remain where retention has deleted it."""
    values = changes(entry.before, entry.after)
    return entry, [value for value in values if not (edit and value.name.endswith("_sha256"))], edit


def _edits(entries: list[AuditEntry]) -> dict[int, Edit]:
    """The changes of the edited replays among these entries, by the entry's id, in two queries."""
    edited = [entry for entry in entries if entry.action == "message.replayed" and entry.before]
    parsed = {entry.pk: identifiers.parse("msg", str(entry.after.get("replay", ""))) for entry in edited}
    ids = [found[0] for found in parsed.values() if found]
    if not ids:
        return {}
    replays = Message.objects.filter(pk__any=ids, replay_of__isnull=False).select_related("replay_of")
    found = {replay.pk: replay for replay in replays}
    both = {pk for replay in found.values() for pk in (replay.pk, replay.replay_of_id)}
    short = MessageContent.objects.annotate(size=Length("body")).filter(size__lte=BODY_COMPARED).in_bulk(both)
    parts = dict[int, Parts]()
    for replay in found.values():
        original = cast(Message, replay.replay_of)
        if original.pk in short and replay.pk in short:
            original.content, replay.content = short[original.pk], short[replay.pk]
            parts[replay.pk] = only_changes(edited_parts(original, replay), LINES_SHOWN)
    return {
        pk: Edit(found[place[0]], parts.get(place[0], []))
        for pk, place in parsed.items()
        if place and place[0] in found
    }


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
