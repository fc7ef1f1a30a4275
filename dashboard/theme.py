"""The theme that a browser asked for: a cookie, which the server renders, so that no page flashes in another theme."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse

COOKIE = "switchboard_theme"  # console.js writes it, too
THEMES = ("light", "dark")  # without one, the page follows the system
LASTS = 365 * 24 * 3600  # seconds


def theme_of(request: HttpRequest) -> str:
    """The chosen theme; empty for that of the system."""
    chosen = request.COOKIES.get(COOKIE, "")
    return chosen if chosen in THEMES else ""


def remember(response: HttpResponse, theme: str) -> None:
    if theme in THEMES:
        response.set_cookie(COOKIE, theme, max_age=LASTS, samesite="Lax", secure=settings.HTTPS)
    else:
        response.delete_cookie(COOKIE, samesite="Lax")
