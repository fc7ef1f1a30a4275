"""Middleware: monitoring by any Host, what browsers may do with a response, no NUL characters, the viewer's zone."""

from __future__ import annotations

import time
from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from integrations.models import meter

ZONE_COOKIE = "switchboard_zone"  # written by console.js with the browser's own zone

MONITORING = ("/healthz", "/readyz", "/metrics")  # read by load balancers and Prometheus


def any_host_for_monitoring(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Accept any Host header for monitoring: a load balancer sends the address that it probes.

    These responses contain no link, so an untrusted host does no harm; `/metrics` has a rule of its own.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path in MONITORING:
            vars(request)["get_host"] = lambda: request.META.get("HTTP_HOST", "")
        return get_response(request)

    return middleware


def timed_pages(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Measure how long each view takes, by its name, for `/metrics`."""

    def middleware(request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        try:
            return get_response(request)
        finally:
            if (match := request.resolver_match) is not None and request.path not in MONITORING:
                meter.observe("page", time.perf_counter() - began, label=match.view_name)

    return middleware


# What no page uses. The clipboard is left out, because the copy buttons write to it.
PERMISSIONS_POLICY = (
    "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), hid=(), magnetometer=(), "
    "microphone=(), midi=(), payment=(), publickey-credentials-get=(), screen-wake-lock=(), serial=(), usb=()"
)


def browser_restrictions(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Keep responses out of caches and out of other sites' pages, unless a view says otherwise.

    Pages show payloads, headers and new secrets, so the next user of a browser must not find them in its cache or with
    its Back button. Static files have a Cache-Control of their own.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        return response

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
