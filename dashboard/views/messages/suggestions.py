"""Suggest completions for the search field of the list of messages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from integrations.search.suggestions import suggest


@viewer
@require_GET
def suggestions(request: HttpRequest) -> HttpResponse:
    """Completions of the typed search, as options of its list."""
    found = suggest(request.GET.get("q", "")[-300:])
    response = render(request, "messages/_suggestions.html", {"suggestions": found})
    response["Cache-Control"] = "no-store"
    return response
