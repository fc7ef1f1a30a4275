"""Middleware: monitoring by any Host, no NUL characters, and the viewer's time zone."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

ZONE_COOKIE = "switchboard_zone"  # written by console.js with the browser's own zone

MONITORING = ("/healthz", "/readyz", "/metrics")  # read by load balancers and Prometheus


def any_host_for_monitoring(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Accept any Host header for monitoring: a load balancer sends the address that it probes.

    These responses contain no link, so an untrusted host does no harm.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path in MONITORING:
            vars(request)["get_host"] = lambda: request.META.get("HTTP_HOST", "")
        return get_response(request)

    return middleware


def no_nul(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Reject NUL characters, which PostgreSQL cannot store in text. The API has its own check."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if not request.path.startswith("/api/"):
            if "%00" in request.META.get("QUERY_STRING", ""):
                raise BadRequest("The address contains a NUL character. Remove it and try again.")
            if any("\0" in text for name, values in request.POST.lists() for text in (name, *values)):
                raise BadRequest("The form contains a NUL character. Remove it and send the form again.")
        return get_response(request)

    return middleware


def viewer_time_zone(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Render times in the time zone of the viewer's browser; UTC until its cookie is set."""

    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            timezone.activate(ZoneInfo(request.COOKIES.get(ZONE_COOKIE, "UTC")))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            timezone.activate("UTC")
        try:
            return get_response(request)
        finally:
            timezone.deactivate()

    return middleware
