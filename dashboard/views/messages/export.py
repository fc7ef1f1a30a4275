"""Export the messages that the list's filters find, as CSV or NDJSON."""

from __future__ import annotations

from typing import cast

from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.forms.message_filters import read
from dashboard.presenters.exports import as_csv, as_ndjson
from integrations.search.pages import SearchResults

FORMATS = {"csv": (as_csv, "text/csv; charset=utf-8"), "ndjson": (as_ndjson, "application/x-ndjson")}


@viewer
@require_GET
def export(request: HttpRequest, name: str) -> HttpResponse:
    """All that the list's filters find, as a stream. A filter that cannot be read would find too much: 400."""
    if name not in FORMATS:
        raise Http404("An export is csv or ndjson.")
    asked = read(request.GET)[1]
    if asked.problems:
        return HttpResponse(f"{'. '.join(asked.problems)}.", status=400, content_type="text/plain; charset=utf-8")
    lines, kind = FORMATS[name]
    stream = StreamingHttpResponse(
        lines(SearchResults(asked)),
        content_type=kind,
        headers={
            "Content-Disposition": f'attachment; filename="messages-{timezone.now():%Y%m%d-%H%M%S}.{name}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )
    return cast(HttpResponse, stream)
