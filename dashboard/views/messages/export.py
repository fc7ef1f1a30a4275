"""Export the messages that the list's filters find, as CSV or NDJSON."""

from __future__ import annotations

from typing import cast

from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard.access import actor, viewer
from dashboard.forms.message_filters import filters_of, read_filters
from dashboard.presenters.exports import as_csv, as_ndjson
from integrations.models import AuditEntry
from integrations.search.pages import SearchResults

FORMATS = {"csv": (as_csv, "text/csv; charset=utf-8"), "ndjson": (as_ndjson, "application/x-ndjson")}


@viewer
@require_GET
def export(request: HttpRequest, name: str) -> HttpResponse:
    """Stream all messages that the list's filters find. 400 for an invalid filter, which would export too much."""
    if name not in FORMATS:
        raise Http404("Unknown format. Use csv or ndjson.")
    search = read_filters(request.GET)[1]
    if search.problems:
        return HttpResponse(f"{'. '.join(search.problems)}.", status=400, content_type="text/plain; charset=utf-8")
    lines, kind = FORMATS[name]
    AuditEntry.objects.record(
        actor(request), "messages.exported", "messages", after={"format": name, "filters": filters_of(request.GET)}
    )
    stream = StreamingHttpResponse(
        lines(SearchResults(search)),
        content_type=kind,
        headers={
            "Content-Disposition": f'attachment; filename="messages-{timezone.now():%Y%m%d-%H%M%S}.{name}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )
    return cast(HttpResponse, stream)
