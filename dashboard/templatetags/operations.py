"""The bulk bar over a list of messages, and the result of an operation."""

from __future__ import annotations

import shlex
from typing import Any

from django import template
from django.http import QueryDict
from django.template.context import Context

from dashboard.presenters.operation_results import result_parts
from integrations.models import Operation
from integrations.operators.replay_results import ReplayResult

register = template.Library()

# A filter of the list of messages, and its qualifier in the search.
QUALIFIERS = {
    "service": "service",
    "status": "status",
    "endpoint": "endpoint",
    "dead_reason": "reason",
    "fault": "fault",
    "status_code": "code",
    "ordering_key": "key",
}
TIMES = ("created_after", "created_before")  # they have no qualifier


@register.inclusion_tag("operations/_bulk.html", takes_context=True)
def bulk_bar(context: Context) -> dict[str, Any]:
    """The actions on the selected messages, or on all that the page's filters find."""
    query: QueryDict = context["request"].GET
    back = query.copy()
    for name in ("v", "rows", "first"):  # parameters of the panel
        back.pop(name, None)
    return {"all_matching": as_text(query), "back": back.urlencode()}


def as_text(filters: QueryDict) -> str:
    """The filters of the list as one search text; empty if a filter has no qualifier."""
    if any(filters.get(name) for name in TIMES):
        return ""
    named = [f"{qualifier}:{value}" for name, qualifier in QUALIFIERS.items() if (value := filters.get(name))]
    return " ".join([*map(shlex.quote, named), filters.get("q", "")]).strip()


@register.inclusion_tag("operations/_result.html")
def operation_result(operation: Operation, results: dict[int, ReplayResult]) -> dict[str, Any]:
    """The result of an operation so far; ``results`` has those of replays by their row ids."""
    return {"parts": result_parts(operation, results.get(operation.pk))}
