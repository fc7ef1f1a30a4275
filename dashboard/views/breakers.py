"""The breakers: open ones as tiles, closed ones in a table; and the override of one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone

from dashboard import live
from dashboard.access import actor, operator, viewer
from dashboard.forms.actions import BreakerForm
from dashboard.presenters.breaker_history import add_waiting, is_tripped, latest_open_periods, latest_openings_of
from dashboard.presenters.pagination import NumberedPage, page_number
from dashboard.presenters.sentences import breaker_rules
from dashboard.presenters.service_list import ServiceFilters, matching
from dashboard.presenters.service_stats import Standing, standings, standings_in_brief
from dashboard.presenters.slowdowns import slowdowns_of
from dashboard.responses import form_page, own_page, posted, see_other
from integrations.errors import Conflict
from integrations.models import Runtime, Service
from integrations.operators import traffic
from integrations.policies import breaker as breaker_policy

TILES = 48  # worst first; the page redraws them every few seconds, so it has to stay small
PAGE = 50  # rows of closed breakers


@viewer
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "breakers/breakers.html", _context(request))


@viewer
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "breakers/_panel.html", _context(request))


def _context(request: HttpRequest) -> dict[str, Any]:
    """Breakers to look at as tiles; the closed ones in a table, in pages."""
    now = timezone.now()
    filters = ServiceFilters.of({"q": request.GET.get("q", "")})
    found = sorted(standings_in_brief(matching(filters.search), now), key=lambda standing: standing.rank)
    notable = [standing for standing in found if _is_notable(standing)]
    page = NumberedPage.of([standing for standing in found if not _is_notable(standing)], page_number(request), PAGE)
    shown = {standing.service.pk: standing for standing in _complete([*notable[:TILES], *page.rows], now)}
    tiles = [shown[standing.service.pk] for standing in notable[:TILES]]
    openings = latest_openings_of(standing.service.pk for standing in tiles if is_tripped(standing.runtime))
    open_periods = latest_open_periods()
    add_waiting(open_periods, {standing.service.pk: standing.waiting for standing in found})
    query = filters.query(page=page.number if page.previous else "")
    return {
        "filters": filters,
        "panel_url": reverse("_breakers") + (f"?{query}" if query else ""),
        "tiles": [{**_row(standing, now), "opening": openings.get(standing.service.pk)} for standing in tiles],
        "notable": len(notable),
        "rows": [_row(shown[standing.service.pk], now) for standing in page.rows if standing.service.pk in shown],
        "page": page,
        "previous_url": f"?{filters.query(page=page.previous)}",
        "next_url": f"?{filters.query(page=page.next)}",
        "total": len(found),
        "summary": _summary(found),
        "open_periods": open_periods,
    }


def _complete(found: list[Standing], now: datetime) -> list[Standing]:
    """The standings of those that are shown, with their policies."""
    return standings(Service.objects.filter(pk__in=[standing.service.pk for standing in found]), now)


def _is_notable(standing: Standing) -> bool:
    """Whether it is not closed, or overridden, or lets fewer calls through than the service allows."""
    runtime = standing.runtime
    is_slowed = runtime.ramp is not None or standing.is_throttled
    return runtime.state != "closed" or runtime.mode != "auto" or is_slowed


def _row(standing: Standing, now: datetime) -> dict[str, Any]:
    policy = standing.service.breaker_policy
    return {
        "standing": standing,
        "service": standing.service,
        "breaker": breaker_policy.summary(standing.runtime.breaker, policy, now),
        "policy": policy,
        "rules": breaker_rules(policy),
        "slowdowns": slowdowns_of(standing),
    }


def _summary(found: list[Standing]) -> str:
    if not found:
        return "Each service has a circuit breaker"
    is_open = sum(standing.is_open for standing in found)
    probing = sum(standing.is_probing for standing in found)
    parts = [f"{is_open} of {len(found)} breaker{'s' if len(found) != 1 else ''} open"]
    if probing:
        parts.append(f"{probing} half-open")
    if is_open:
        parts.append("held messages are delivered once a probe succeeds")
    return " · ".join(parts)


@operator
def override(request: HttpRequest, name: str) -> HttpResponse:
    """Override a breaker. The service's page has the form, too; a form with errors gets its own page."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    form = BreakerForm(posted(request), runtime=service.runtime)
    if form.is_valid():
        try:
            runtime = traffic.override_breaker(service, form.value, actor=actor(request))
        except Conflict as conflict:
            form.refuse([(("action",), str(conflict))])
        else:
            messages.success(request, f"Breaker of {service.name}: {_state(runtime)}.")
            return see_other(_next(request) or reverse("service", args=[service.name]))
    context = {"form": form, "service": service, "runtime": service.runtime, "next": _next(request)}
    return form_page(request, "breakers/override.html", context, is_refused=form.is_bound)


def _state(runtime: Runtime) -> str:
    mode = {"auto": "automatic", "forced_open": "override"}.get(runtime.mode, runtime.mode)
    until = f" until {timezone.localtime(runtime.mode_until):%-d %b %H:%M}" if runtime.mode_until else ""
    return f"{runtime.state.replace('_', '-')} ({mode}{until})"


def _next(request: HttpRequest) -> str:
    return own_page((request.POST or request.GET).get("next", ""))
