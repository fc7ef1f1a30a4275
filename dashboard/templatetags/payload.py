"""Bodies, timings and commands in templates; what they show is decided in dashboard/payload.py."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.defaultfilters import filesizeformat

from dashboard import payload as shown

register = template.Library()


@register.filter
def pretty_body(body: bytes | memoryview | None) -> str:
    """JSON indented with every digit and key kept, else text, else a hex dump; at most 64 KB of it."""
    return shown.payload(bytes(body or b"")).text


@register.inclusion_tag("messages/_payload.html")
def payload(
    body: bytes | memoryview | None,
    name: str,
    url: str = "",
    size: int | None = None,
    truncated: bool = False,
    limit: int = shown.SHOWN,
    label: str = "Body",
) -> dict[str, Any]:
    """A body with its size, what is missing of it, copy, wrap and download. ``name`` is unique on the page."""
    laid_out = shown.payload(bytes(body or b""), limit)
    kept = laid_out.size
    return {
        "payload": laid_out,
        "name": name,
        "url": url,
        "label": label,
        "words": bytes_in_words(kept),
        "shown_words": bytes_in_words(laid_out.shown),
        "whole_words": bytes_in_words(size) if size and size > kept else "",
        "truncated": truncated,
    }


@register.filter
def bytes_in_words(size: int | None) -> str:
    """0 bytes, 812 bytes, 64 KB."""
    return str(filesizeformat(size or 0)).replace("\xa0", " ")


@register.inclusion_tag("messages/_timing.html")
def timing(timings: dict[str, float | None], name: str) -> dict[str, Any]:
    """The phases of a call as one bar, with the numbers beside it."""
    return {"phases": shown.phases(timings), "total": timings.get("total"), "name": name}


FAULTS = {
    "dns": "name not found",
    "connect": "no connection",
    "tls": "TLS failed",
    "timeout": "timed out",
    "reset": "connection reset",
    "protocol": "not valid HTTP",
    "too_large": "answer too large",
    "blocked": "address not allowed",
    "status": "refused",
    "config": "cannot be built",
    "worker_lost": "worker lost",
}
DEAD_REASONS = {
    "attempts": "All attempts are used up.",
    "status": "The service refused it with a status that is not tried again.",
    "gone": "The service answered 410 Gone.",
    "deadline": "The deadline for retries has passed.",
    "expired": "It expired before it could be delivered.",
    "worker_lost": "Workers were lost while sending it, several times in a row.",
    "blocked": "The address is not allowed by the network rules.",
    "config": "The request could not be built from the configuration.",
}


@register.filter
def fault_in_words(fault: str) -> str:
    return FAULTS.get(fault, fault)


@register.filter
def dead_reason_in_words(reason: str) -> str:
    return DEAD_REASONS.get(reason, reason)
