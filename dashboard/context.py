"""Context of every page: the theme, the sidebar's counts and section, and the permissions of the account."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.conf import settings
from django.db.models import Q, QuerySet, Value
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from dashboard.access import person
from dashboard.presenters.documents import Place, place_of_page
from dashboard.theme import theme_of
from integrations.models import Failure, Role, Runtime

FAILING_CAP = 100
# The sidebar's section for addresses that do not begin with its name.
SECTIONS = {"": "overview", "start": "overview", "attempts": "messages"}


def console(request: HttpRequest) -> dict[str, Any]:
    """``theme`` and ``program``, the name of the command line; for people who signed in ``trouble`` (services that are
    down), ``failing`` (open failure groups), the sidebar's ``section``, and the account's permissions."""
    if not hasattr(request, "user") or not request.user.is_authenticated:
        return {"theme": theme_of(request), "program": settings.PROGRAM}
    first = request.path.strip("/").split("/")[0]
    section = "person" if request.path == "/settings/password/" else SECTIONS.get(first, first)
    counts: Any = SimpleLazyObject(needs_attention)
    return {
        "theme": theme_of(request),
        "program": settings.PROGRAM,
        "trouble": SimpleLazyObject(lambda: counts["trouble"]),
        "failing": SimpleLazyObject(lambda: counts["failing"]),
        "section": section,
        "help_place": _help_place(request),
        "may_operate": person(request).may(Role.OPERATOR),
        "may_administer": person(request).may(Role.ADMIN),
    }


def _help_place(request: HttpRequest) -> Place | None:
    """The part of the documentation about this page."""
    route = request.resolver_match.url_name if request.resolver_match else None
    return place_of_page(route) if route else None


def trouble() -> int:
    """The number of services that are down. It reads one small row per service, which is cheaper than a cache."""
    return _down().count()


def needs_attention() -> Counter[str]:
    """``trouble``, and ``failing``: open or regressed failure groups, counted up to the sidebar's maximum. One query,
    since each page asks."""
    unresolved = Failure.objects.unresolved().order_by().values("pk")[:FAILING_CAP]
    groups = Failure.objects.filter(pk__in=unresolved).order_by().values_list(Value("failing"))
    return Counter(kind for (kind,) in _down().values_list(Value("trouble")).union(groups, all=True))


def _down() -> QuerySet[Runtime]:
    return Runtime.objects.filter(Q(state="open") | Q(service__health__state="down", service__status="active"))
