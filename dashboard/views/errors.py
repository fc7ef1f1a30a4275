"""Pages for what went wrong, in the console's look. They say what to do next."""

from __future__ import annotations

from django.core.exceptions import (
    BadRequest,
    DisallowedHost,
    RequestDataTooBig,
    TooManyFieldsSent,
    TooManyFilesSent,
)
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
    HttpResponseNotFound,
    HttpResponseServerError,
)
from django.template.loader import render_to_string

from dashboard.responses import NotThere


def malformed(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Without context processors: what cannot be trusted may be the very host that they would build addresses of."""
    words = str(exception) if isinstance(exception, BadRequest) else ""
    if isinstance(exception, (TooManyFieldsSent, TooManyFilesSent, RequestDataTooBig)):
        words = "It is larger than anything that a form here sends, so nothing of it was read."
    context = {"words": words, "is_of_another_host": isinstance(exception, DisallowedHost)}
    return HttpResponseBadRequest(render_to_string("errors/malformed.html", context))


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    context = {"layout": _layout(request), "words": str(exception or "") or "You may not open this page."}
    return HttpResponseForbidden(render_to_string("errors/forbidden.html", context, request))


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    words = str(exception) if isinstance(exception, NotThere) else ""
    context = {"layout": _layout(request), "words": words}
    return HttpResponseNotFound(render_to_string("errors/not_found.html", context, request))


def broken(request: HttpRequest) -> HttpResponse:
    """Asks nothing of the database, which may be what is broken: no request, so no context processor runs."""
    return HttpResponseServerError(render_to_string("errors/broken.html"))


def csrf_refused(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW: most often a form that was open while its session ended."""
    words = "This form was open for too long, or was sent from elsewhere. Go back, reload the page and send it again."
    context = {"layout": _layout(request), "words": words}
    return HttpResponseForbidden(render_to_string("errors/forbidden.html", context, request))


def _layout(request: HttpRequest) -> str:
    is_signed_in = hasattr(request, "user") and request.user.is_authenticated
    return "base.html" if is_signed_in else "bare.html"
