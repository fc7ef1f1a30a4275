"""Export the messages that the list's filters find, as CSV or NDJSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import export_slots
from dashboard.access import actor, person, viewer
from dashboard.export_slots import Slot
from dashboard.forms.message_filters import filters_of, read_filters
from dashboard.presenters.exports import as_csv, as_ndjson
from integrations.api.problems import Problem
from integrations.models import AuditEntry
from integrations.search.pages import SearchResults

FORMATS = {"csv": (as_csv, "text/csv; charset=utf-8"), "ndjson": (as_ndjson, "application/x-ndjson")}


@viewer
@require_GET
def export(request: HttpRequest, name: str) -> HttpResponse:
    """Stream all messages that the list's filters find. 400 for an invalid filter, which would export too much.

    `dashboard/asgi.py` sends the stream from the event loop, where a client that does not read holds no thread.
    """
    if name not in FORMATS:
        raise Http404("Unknown format. Use csv or ndjson.")
    search = read_filters(request.GET)[1]
    if search.problems:
        return HttpResponse(f"{'. '.join(search.problems)}.", status=400, content_type="text/plain; charset=utf-8")
    try:
        slot = export_slots.slots.take(person(request).pk)
    except Problem as problem:
        return _refused(request, problem)
    with ExitStack() as on_error:
        on_error.callback(slot.release)
        facts = {"format": name, "filters": filters_of(request.GET)}
        AuditEntry.objects.record(actor(request), "messages.exported", "messages", after=facts)
        lines, kind = FORMATS[name]
        stream = StreamingHttpResponse(
            _Parts(lines(SearchResults(search)), slot),
            content_type=kind,
            headers={
                "Content-Disposition": f'attachment; filename="messages-{timezone.now():%Y%m%d-%H%M%S}.{name}"',
                "X-Content-Type-Options": "nosniff",
                "Cache-Control": "no-store",
            },
        )
        on_error.pop_all()
    return cast(HttpResponse, stream)


class _Parts:
    """The parts of a file. It occupies a slot until the response is closed, or lost because middleware failed."""

    def __init__(self, parts: Iterator[bytes], slot: Slot) -> None:
        self._parts, self._slot = parts, slot

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        self._slot.release()

    __del__ = close


def _refused(request: HttpRequest, problem: Problem) -> HttpResponse:
    context = {"detail": problem.detail, "filters": request.GET.urlencode()}
    page = render(request, "messages/export_refused.html", context, status=problem.status)
    for name, value in problem.headers.items():
        page[name] = value
    return page
