"""Small steps around every request."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

ZONE_COOKIE = "switchboard_zone"  # written by console.js with the browser's own zone


def no_nul(answer: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """PostgreSQL has no text with a NUL character, so no page can be asked or told of one. The API says so itself."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if not request.path.startswith("/api/"):
            if "%00" in request.META.get("QUERY_STRING", ""):
                raise BadRequest("The address holds a NUL character, which nothing here can be named or searched by.")
            if any("\0" in text for name, values in request.POST.lists() for text in (name, *values)):
                raise BadRequest("The form holds a NUL character, which no text here can have.")
        return answer(request)

    return middleware


def zone_of_the_viewer(answer: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Renders times in the zone that the viewer's browser named; UTC until it has."""

    def middleware(request: HttpRequest) -> HttpResponse:
        try:
            timezone.activate(ZoneInfo(request.COOKIES.get(ZONE_COOKIE, "UTC")))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            timezone.activate("UTC")
        try:
            return answer(request)
        finally:
            timezone.deactivate()

    return middleware
