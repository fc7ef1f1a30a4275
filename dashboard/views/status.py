"""Status: the state of each service, and its uptime over a day and over 30 days."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.charts import latest
from dashboard.presenters.service_stats import Standing, standings_in_brief
from dashboard.presenters.uptime import uptimes
from integrations.models import Service

SHOWN = 100  # services, worst first


@viewer
@require_GET
def status(request: HttpRequest) -> HttpResponse:
    return render(request, "status/status.html", _context())


@viewer
@require_GET
def status_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "status/_panel.html", _context())


def _context() -> dict[str, Any]:
    now = timezone.now()
    found = sorted(standings_in_brief(Service.objects.all(), now), key=lambda standing: standing.rank)
    shown = found[:SHOWN]
    days, months = (
        uptimes([standing.service.pk for standing in shown], latest(name, now)) for name in ("day", "month")
    )
    down = sum(standing.state == "down" for standing in found)
    return {
        "rows": [(standing, days[standing.service.pk], months[standing.service.pk]) for standing in shown],
        "left_out": len(found) - len(shown),
        "summary": _summary(found, down),
    }


def _summary(found: list[Standing], down: int) -> str:
    if not found:
        return "Uptime of each service by its calls and health checks"
    return f"{down} of {len(found)} service{'s' if len(found) != 1 else ''} down"
