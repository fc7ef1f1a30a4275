"""The list of messages: search, tabs, paging and its live panel."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render, resolve_url
from django.urls import reverse
from django.views.decorators.http import require_GET

from dashboard import live
from dashboard.access import person, viewer
from dashboard.forms.message_filters import filters_of, plain_query, read_filters
from dashboard.presenters.pagination import CursorPage, page
from integrations.models import Attempt, Failure, Message, Operation, SavedView, Status
from integrations.search.alternatives import alternatives
from integrations.search.grammar import Search
from integrations.search.pages import SCAN_LIMIT, SearchResults, with_endpoints

NEW_LIMIT = 100  # shown as “99+ new”
ON_SCREEN = 100  # rows that a panel reloads


@viewer
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    if target := _page_of_id(request.GET.get("q", "").strip()):
        return HttpResponseRedirect(target)
    form, search = read_filters(request.GET)
    if plain := plain_query(request.GET, search):
        return HttpResponseRedirect(f"?{plain.urlencode()}")
    found = SearchResults(search)
    _check_service(search, found)
    # An invalid filter would find too much, and the page has buttons that act on all messages found.
    shown = CursorPage(rows=[]) if search.problems else page(found, request.GET.get("cursor", ""))
    _complete(shown.rows, found)
    if shown.refused:
        search.problems.append("That page no longer exists; showing the first page")
    is_empty = not shown.rows and shown.is_first
    context = {
        **_listing_context(request, found, shown),
        "alternatives": alternatives(found) if (is_empty and not search.is_empty) or search.problems else None,
        "declared": search.declared,
        "form": form,
        "search": search,
        "searched": f"{SCAN_LIMIT:,}",
        "views": SavedView.objects.shown_to(person(request)),
        "service_names": list(found.services),
        "has_any": bool(shown.rows or found.newest),
        "more_filters": any(name in search.values for name in MORE_FILTERS),
    }
    return render(request, "messages/listing.html", context)


MORE_FILTERS = ("dead_reason", "fault", "status_code", "ordering_key", "created_after", "created_before", "endpoint")


@viewer
@require_GET
def listing_panel(request: HttpRequest) -> HttpResponse:
    """The current state of the rows on the screen, and the number of newer messages. No row ever moves."""
    found = SearchResults(read_filters(request.GET)[1])
    ids = [
        int(part) for part in request.GET.get("rows", "").split("-")[:ON_SCREEN] if part.isdecimal() and len(part) < 19
    ]
    rows = list(with_endpoints(Message.objects.filter(pk__in=ids)).newest_first())
    _complete(rows, found)
    shown = CursorPage(rows=rows, is_first="first" in request.GET)
    return live.panel(request, "messages/_rows.html", _listing_context(request, found, shown))


def _complete(rows: list[Message], found: SearchResults) -> None:
    """Set the message that stands for each replayed row, and each row's service, from the services already read: a join
    would read a service's configuration per row."""
    Message.objects.add_standing(rows)
    by_number = {service.pk: service for service in found.services.values()}
    for row in rows:
        row.service = by_number[row.service_id]


def _listing_context(request: HttpRequest, found: SearchResults, shown: CursorPage) -> dict[str, Any]:
    filters = filters_of(request.GET)
    counts = found.counts
    first, new = shown.rows[0].pk if shown.rows else 0, 0
    if shown.is_first and request.GET.get("first", "").isdecimal():  # not of a new page: it begins with the newest
        first = int(request.GET["first"][:18])
        new = found.count_above(first, NEW_LIMIT) if first else 0
    state = {**filters, "rows": "-".join(str(row.pk) for row in shown.rows)}
    if shown.is_first:
        state["first"] = str(first)
    return {
        "rows": shown.rows,
        "page": shown,
        "tabs": _tabs(filters, counts),
        "new": new,
        "new_url": f"?{urlencode(filters)}",
        "panel_url": f"{reverse('_messages')}?{urlencode(state)}",
        "filters": urlencode(filters),
        "older_url": f"?{urlencode({**filters, 'cursor': shown.older})}",
        "newer_url": f"?{urlencode({**filters, 'cursor': shown.newer})}",
    }


def _tabs(filters: dict[str, str], counts: dict[str, int]) -> list[dict[str, Any]]:
    others = {name: value for name, value in filters.items() if name != "status"}
    current = filters.get("status", "")
    return [
        {
            "label": status.capitalize() or "All",
            "count": counts.get(status),
            "url": f"?{urlencode({**others, **({'status': status} if status else {})})}",
            "is_current": status == current,
        }
        for status in ("", *Status.values)
    ]


def _page_of_id(text: str) -> str | None:
    """The page of a public ID typed into the search; None for other text."""
    text = text.lower()
    if message := Message.objects.by_public_id(text):
        return resolve_url("message", message.public_id)
    if attempt := Attempt.objects.select_related("message").by_public_id(text):
        if attempt.message is None:
            return resolve_url("lab-result", attempt.public_id)
        return f"{resolve_url('message', attempt.message.public_id)}#attempt-{attempt.number}"
    if group := Failure.objects.by_public_id(text):
        return resolve_url("failure", group.public_id)
    if operation := Operation.objects.by_public_id(text):
        return resolve_url("operation", operation.public_id)
    return None


def _check_service(search: Search, found: SearchResults) -> None:
    name = search.values.get("service")
    if name and name not in found.services:
        near = get_close_matches(name, found.services, 1)
        hint = f"; the closest name is {near[0]}" if near else ""
        search.problems.append(f"No service is named “{name[:80]}”{hint}")
