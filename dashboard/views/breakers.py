"""Every breaker as a tile, and the override of one."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme

from dashboard import live
from dashboard.access import actor, operator, viewer
from dashboard.forms.actions import BreakerForm
from dashboard.presenters.breaker_history import add_waiting, is_tripped, latest_open_periods, latest_openings_of
from dashboard.presenters.sentences import breaker_rules
from dashboard.presenters.service_stats import Standing, standings
from dashboard.presenters.slowdowns import slowdowns_of
from dashboard.responses import form_page, posted, see_other
from integrations.errors import Conflict
from integrations.models import Runtime, Service
from integrations.operators import traffic
from integrations.policies import breaker as breaker_policy

SHOWN = 96  # tiles, worst first; the page redraws them every few seconds, so it has to stay small


@viewer
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "breakers/breakers.html", _context())


@viewer
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "breakers/_panel.html", _context())


def _context() -> dict[str, Any]:
    now = timezone.now()
    found = sorted(standings(Service.objects.all(), now), key=lambda standing: standing.rank)
    openings = latest_openings_of(standing.service.pk for standing in found[:SHOWN] if is_tripped(standing.runtime))
    open_periods = latest_open_periods()
    add_waiting(open_periods, {standing.service.pk: standing.waiting for standing in found})
    tiles = [
        {
            "standing": standing,
            "service": standing.service,
            "breaker": breaker_policy.summary(standing.runtime.breaker, standing.service.breaker_policy, now),
            "policy": standing.service.breaker_policy,
            "rules": breaker_rules(standing.service.breaker_policy),
            "slowdowns": slowdowns_of(standing),
            "opening": openings.get(standing.service.pk),
        }
        for standing in found[:SHOWN]
    ]
    return {
        "tiles": tiles,
        "total": len(found),
        "summary": _summary(found),
        "open_periods": open_periods,
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
    target = (request.POST or request.GET).get("next", "")
    return target if target.startswith("/") and url_has_allowed_host_and_scheme(target, allowed_hosts=None) else ""
