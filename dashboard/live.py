"""Panels that keep themselves current: a fragment is sent only when something in it has changed.

A page includes its panel with ``{% panel "screen/_panel.html" %}``, whose root element has an id and
``{% live some_url %}``; the fragment's own view answers with ``live.panel(request, "screen/_panel.html", context)``.
A ``summary`` in the context is the page's summary line, where it changes with the panel. Both render the same
template, so they cannot drift apart. static/live.js asks when the event stream says that something has changed, and
static/morph.js puts the answer in place so that nobody who reads or types there is disturbed.
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

VERSION = "~version~"  # stands in a rendered fragment where its own hash will be

# Words such as "3 min ago" are kept by console.js, and each rendering masks the CSRF token anew: no news, either.
_NOT_NEWS = re.compile(r"(<time\b[^>]*>)[^<]*|(name=\"csrfmiddlewaretoken\" value=\")[^\"]*")


def panel(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    """The fragment, or 204 when the page has this version already (htmx swaps nothing on a 204)."""
    html, version = versioned(render_to_string(template, context, request))
    if "summary" in context:
        # The page's one line on what is going on stands outside the panel, and goes with it (out-of-band swap).
        html += format_html('<p class="summary" id="summary" hx-swap-oob="true">{}</p>', context["summary"])
    response = HttpResponse(status=204) if request.GET.get("v") == version else HttpResponse(html)
    response["Cache-Control"] = "no-store"
    response["X-Switchboard-Trouble"] = str(trouble())
    patch_vary_headers(response, ["HX-Request"])
    return response


def versioned(html: str) -> tuple[SafeString, str]:
    """A rendered panel with its version put in place, and that version."""
    news = _NOT_NEWS.sub(r"\1\2", html)
    version = blake2s(news.encode(), digest_size=8).hexdigest()
    return mark_safe(html.replace(VERSION, version)), version  # noqa: S308 - it was rendered by a template
