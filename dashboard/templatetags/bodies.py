"""Bodies, timings and faults in templates; dashboard/presenters/bodies.py decides how a body is laid out."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import template
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from dashboard.presenters import bodies as shown
from dashboard.presenters import call_timing
from dashboard.presenters.highlighting import highlighted
from dashboard.presenters.sentences import FAULTS, dead_reason, replay_question
from dashboard.templatetags.console import ago
from integrations.outbound.redaction import MASK

register = template.Library()

KINDS = {"json": " of JSON", "xml": " of XML", "form": " of form fields", "hex": ", binary"}


@register.inclusion_tag("messages/_payload.html")
def payload(
    body: bytes | memoryview | None,
    name: str,
    url: str = "",
    size: int | None = None,
    truncated: bool = False,
    limit: int = shown.SHOWN,
    label: str = "Body",
    view: str = "pretty",
) -> dict[str, Any]:
    """A body with its size, the missing part, copy, wrap and download. ``name`` is unique on the page."""
    laid_out = shown.payload(bytes(body or b""), limit, view=view)
    stored = laid_out.size
    first, rest = highlighted(laid_out.text, laid_out.kind, laid_out.fold)
    return {
        "payload": laid_out,
        "kind": KINDS.get(laid_out.kind, ""),
        "first": first,
        "rest": rest,
        "lines_left": laid_out.text.count("\n", laid_out.fold) + 1,
        "name": name,
        "url": url,
        "label": label,
        "size": byte_size(stored),
        "shown_size": byte_size(laid_out.shown),
        "whole_size": byte_size(size) if size and size > stored else "",
        "truncated": truncated,
    }


@register.filter
def byte_size(size: int | None) -> str:
    """“0 bytes”, “812 bytes”, “64 KB”."""
    return str(filesizeformat(size or 0)).replace("\xa0", " ").replace(".0 ", " ")


@register.inclusion_tag("messages/_timing.html")
def timing(timings: dict[str, float | None], name: str) -> dict[str, Any]:
    """The phases of a call as one bar, with their durations."""
    return {"phases": call_timing.phases(timings), "total": timings.get("total"), "name": name}


@register.filter
def is_masked(value: str) -> bool:
    """Whether a part of this header's value was masked before it was stored."""
    return MASK in value


@register.filter
def due(moment: datetime | None) -> SafeString:
    """“in 4 min”, or “due” once the time has come; the message's own page then explains what it waits for."""
    if moment is None or moment > timezone.now():
        return ago(moment)
    return format_html(
        '<span title="since {}">due</span>', timezone.localtime(moment).strftime("%-d %b %Y, %H:%M:%S %Z")
    )


@register.filter
def fault_label(fault: str) -> str:
    return FAULTS.get(fault, fault)


register.filter(dead_reason)
register.filter(replay_question)
