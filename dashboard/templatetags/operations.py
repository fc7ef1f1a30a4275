"""The bulk bar over a list of messages."""

from __future__ import annotations

import shlex
from typing import Any

from django import template
from django.http import QueryDict
from django.template.context import Context

register = template.Library()

# A filter of the list of messages, and its word in the search.
QUALIFIERS = {
    "service": "service",
    "status": "status",
    "endpoint": "endpoint",
    "dead_reason": "reason",
    "fault": "fault",
    "status_code": "code",
    "ordering_key": "key",
}
TIMES = ("created_after", "created_before")  # they have no word


@register.inclusion_tag("operations/_bulk.html", takes_context=True)
def bulk_bar(context: Context) -> dict[str, Any]:
    """What can be done with the selected messages, or with all that the page's filters find."""
    query: QueryDict = context["request"].GET
    back = query.copy()
    for name in ("v", "rows", "first"):  # of the panel alone
        back.pop(name, None)
    return {"all_matching": as_text(query), "back": back.urlencode()}


def as_text(filters: QueryDict) -> str:
    """The filters of the list as one text of the search; empty where they have none."""
    if any(filters.get(name) for name in TIMES):
        return ""
    named = [f"{word}:{value}" for name, word in QUALIFIERS.items() if (value := filters.get(name))]
    return " ".join([*map(shlex.quote, named), filters.get("q", "")]).strip()
