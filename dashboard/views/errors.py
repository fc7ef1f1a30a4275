"""Error pages in the console's look. Each says what to do next."""

from __future__ import annotations

from django.conf import settings
from django.core.exceptions import BadRequest, DisallowedHost, RequestDataTooBig, TooManyFieldsSent, TooManyFilesSent
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
    HttpResponseNotFound,
    HttpResponseServerError,
)
from django.template.loader import render_to_string

from dashboard.responses import ExplainedNotFound
from integrations.api.problems import Problem


def malformed(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """400, rendered without context processors: the untrusted part may be the host that they build addresses from."""
    message = str(exception) if isinstance(exception, BadRequest) else ""
    if isinstance(exception, TooManyFilesSent):
        message = "The form contains a file. No form of this console accepts one, so the file was not stored."
    elif isinstance(exception, (TooManyFieldsSent, RequestDataTooBig)):
        message = "The request is larger than any form of this console, so it was not read."
    context = {"message": message, "is_of_another_host": isinstance(exception, DisallowedHost)}
    return HttpResponseBadRequest(render_to_string("errors/malformed.html", context))


def unread(problem: Problem) -> HttpResponse:
    """A form whose body was refused before Django saw the request."""
    content = render_to_string("errors/unread.html", {"detail": problem.detail})
    return HttpResponse(content, status=problem.status, headers=problem.headers)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    context = {"layout": _layout(request), "message": str(exception or "") or "You do not have access to this page."}
    return HttpResponseForbidden(render_to_string("errors/forbidden.html", context, request))


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    message = str(exception) if isinstance(exception, ExplainedNotFound) else ""
    context = {"layout": _layout(request), "message": message}
    return HttpResponseNotFound(render_to_string("errors/not_found.html", context, request))


def broken(request: HttpRequest) -> HttpResponse:
    """500, rendered without the request, so that no context processor reads the database, which may be down."""
    return HttpResponseServerError(render_to_string("errors/broken.html", {"program": settings.PROGRAM}))


def csrf_refused(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's CSRF_FAILURE_VIEW. The usual cause is a form that was open while its session ended."""
    message = "This form has expired or was sent from another site. Go back, reload the page and send it again."
    context = {"layout": _layout(request), "message": message}
    return HttpResponseForbidden(render_to_string("errors/forbidden.html", context, request))


def _layout(request: HttpRequest) -> str:
    is_signed_in = hasattr(request, "user") and request.user.is_authenticated
    return "base.html" if is_signed_in else "bare.html"
