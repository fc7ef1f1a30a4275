"""Impact: the messages of a search, a service or a failure group by their tags, fields, endpoints and statuses."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.forms.message_filters import filters_of, read_filters
from dashboard.presenters.breakdowns import sentence, shown_parts
from integrations.search.breakdown import Breakdown, break_down
from integrations.search.pages import SearchResults


@viewer
@require_GET
def breakdown(request: HttpRequest) -> HttpResponse:
    return render(request, "messages/breakdown.html", _context(request))


@viewer
@require_GET
def breakdown_panel(request: HttpRequest) -> HttpResponse:
    """The part of other pages, fetched once they are shown: they stay as fast as they are."""
    return render(request, "messages/_breakdown.html", _context(request))


def _context(request: HttpRequest) -> dict[str, Any]:
    filters, search = filters_of(request.GET), read_filters(request.GET)[1]
    # An invalid filter would find too much.
    found = Breakdown(0, False, []) if search.problems else break_down(SearchResults(search))
    return {
        "breakdown": found,
        "sentence": sentence(found),
        "parts": shown_parts(found, filters),
        "problems": search.problems,
        "messages_url": f"{reverse('messages')}?{urlencode(filters)}",
        "text": filters.get("q", ""),
    }
