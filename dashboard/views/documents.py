"""The documentation of this version, its pictures, and the search grammar for the help dialog."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.presenters import documents
from dashboard.responses import ExplainedNotFound
from integrations.search.grammar import QUALIFIERS, TIMES


@viewer
@require_GET
def document(request: HttpRequest, name: str = documents.INDEX) -> HttpResponse:
    if (shown := documents.document(name)) is None:
        raise ExplainedNotFound("The documentation has no such page.")
    return render(request, "docs/document.html", {"document": shown, "index": documents.INDEX})


@viewer
@require_GET
def picture(request: HttpRequest, name: str, kind: str) -> HttpResponse:
    if (path := documents.pictures().get(f"{name}.{kind}")) is None:
        raise Http404
    headers = {"Cache-Control": "private, max-age=3600"}
    return HttpResponse(path.read_bytes(), content_type=documents.PICTURE_TYPES[path.suffix], headers=headers)


@viewer
@require_GET
def search_help(request: HttpRequest) -> HttpResponse:
    """The search grammar, fetched when the help dialog opens."""
    keys = [(name, each.description, each.values) for name, each in QUALIFIERS.items()]
    keys += [(name, each.description, ()) for name, each in TIMES.items()]
    return render(request, "help/_search.html", {"keys": keys})
