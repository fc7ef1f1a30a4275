"""Suggest completions for the search field of the list of messages."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard.access import person, viewer
from integrations.models import SavedView
from integrations.search.suggestions import suggest

VIEWS = 8


@viewer
@require_GET
def suggestions(request: HttpRequest) -> HttpResponse:
    """Completions of the typed search, and the saved views with the typed text in their name, as options."""
    text = request.GET.get("q", "")[-300:]
    views = SavedView.objects.shown_to(person(request)).filter(name__icontains=text.replace("\0", ""))
    context = {"suggestions": suggest(text), "views": views[:VIEWS]}
    response = render(request, "messages/_suggestions.html", context)
    response["Cache-Control"] = "no-store"
    return response
