"""Panels that reload themselves: the server sends a fragment only if its content has changed.

A page includes its panel with ``{% panel "screen/_panel.html" %}``, whose root element has an id and
``{% live some_url %}``; the fragment's own view returns ``live.panel(request, "screen/_panel.html", context)``.
A ``summary`` in the context is the page's summary line, if it changes with the panel. Page and view render the same
template, so they cannot differ. static/live.js reloads the panel after an event on the event stream, and
morphs the response into the page, so that focus, selection and typed text stay.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.cache import patch_vary_headers
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from dashboard.context import trouble

VERSION = "~version~"  # placeholder in a rendered fragment for its own hash

# console.js keeps times such as "3 min ago" current, and each rendering masks the CSRF token differently: neither is a
# change of the content.
_VOLATILE = re.compile(r"(<time\b[^>]*>)[^<]*|(name=\"csrfmiddlewaretoken\" value=\")[^\"]*")


def panel(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """The fragment, or 204 if the page already has this version (htmx swaps nothing on a 204)."""
    html, version = versioned(render_to_string(template, context, request))
    if "summary" in context:
        # The page's summary line is outside the panel, so it is sent along (out-of-band swap).
        html += format_html('<p class="summary" id="summary" hx-swap-oob="true">{}</p>', context["summary"])
    response = HttpResponse(status=204) if request.GET.get("v") == version else HttpResponse(html)
    response["Cache-Control"] = "no-store"
    response["X-Switchboard-Trouble"] = str(trouble())
    patch_vary_headers(response, ["HX-Request"])
    return response


def versioned(html: str) -> tuple[SafeString, str]:
    """A rendered panel with its version filled in, and that version."""
    content = _VOLATILE.sub(r"\1\2", html)
    version = blake2s(content.encode(), digest_size=8).hexdigest()
    return mark_safe(html.replace(VERSION, version)), version  # noqa: S308 - it was rendered by a template
