"""What every page of the console shows besides its own content."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from dashboard.access import person
from integrations.models import Failure, Role, Runtime

FAILING_CAP = 100
# The rail's word for an address that does not begin with it.
SECTIONS = {"": "overview", "attempts": "messages"}


def console(request: HttpRequest) -> dict[str, Any]:
    """``trouble`` (services that are down), ``failing`` (failure groups that somebody should see to), the
    rail's ``section``, and what this person may do."""
    if not hasattr(request, "user") or not request.user.is_authenticated:
        return {}
    first = request.path.strip("/").split("/")[0]
    section = "person" if request.path == "/settings/password/" else SECTIONS.get(first, first)
    return {
        "trouble": SimpleLazyObject(trouble),
        "failing": SimpleLazyObject(failing),
        "section": section,
        "may_operate": person(request).may(Role.OPERATOR),
        "may_administer": person(request).may(Role.ADMIN),
    }


def trouble() -> int:
    """How many services are down. One small row per service is read, so it is cheaper than a cache would be."""
    return Runtime.objects.filter(Q(state="open") | Q(service__health__state="down", service__status="active")).count()


def failing() -> int:
    """How many failure groups are open or regressed; counting stops where the rail does."""
    return Failure.objects.unresolved().order_by()[:FAILING_CAP].count()
