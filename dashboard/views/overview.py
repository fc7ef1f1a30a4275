"""What needs a person now, and how the last hour went."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.charts import chart, time_range_named
from dashboard.presenters.service_stats import WAITING_CAP, HourStats, Standing, see_certificates, standings
from integrations.models import Operation, Service, Worker
from integrations.operators import failures

SHOWN = 12  # services in the table; the rest are on their own page
GROUPS = 5  # failure groups, and stopped operations, among what needs attention; all are on their own pages
DAY = timedelta(days=1)
LISTED = 25  # services among what needs attention: more than that is one cause, not many


@viewer
def overview(request: HttpRequest) -> HttpResponse:
    return render(request, "overview/overview.html", _context(request))


@viewer
def overview_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "overview/_panel.html", _context(request))


def _context(request: HttpRequest) -> dict[str, Any]:
    now, time_range = timezone.now(), time_range_named(request.GET.get("span"))
    found = standings(Service.objects.all(), now)
    see_certificates(found, now)
    found.sort(key=lambda standing: standing.rank)
    workers = Worker.objects.alive(now).count()
    waiting = min(WAITING_CAP, sum(standing.waiting for standing in found))
    attention = [standing for standing in found if standing.rank[0] < 5]
    stopped = list(Operation.objects.stopped_since(now - DAY)[:GROUPS])
    groups = list(failures.needing_attention(now).new_or_regressed(now)[: GROUPS + 1])
    return {
        "standings": found[:SHOWN],
        "service_count": len(found),
        "attention": attention[:LISTED],
        "attention_left_out": max(0, len(attention) - LISTED),
        "groups": groups[:GROUPS],
        "groups_left_out": len(groups) > GROUPS,
        "stopped": stopped,
        "needs": sum(standing.lines for standing in attention)
        + len(groups[:GROUPS])
        + len(stopped)
        + (0 if workers else 1),
        "workers": workers,
        "total": sum((standing.hour for standing in found), HourStats()),
        "waiting": waiting,
        "summary": _summary(found, workers, waiting),
        "in_flight": sum(standing.in_flight for standing in found),
        "oldest_due": min((standing.oldest_due for standing in found if standing.oldest_due), default=None),
        "oldest_due_age": max((standing.oldest_due_age for standing in found), default=0),
        "chart": chart(now, time_range),
        "panel_url": f"{reverse('_overview')}?span={time_range.name}",
    }


def _summary(found: list[Standing], workers: int, waiting: int) -> str:
    """The one line on what is going on."""
    if not found:
        return "What needs you first, then how the last hour went."
    counts = (
        (sum(standing.is_open or standing.is_unwell for standing in found), "down"),
        (sum(standing.is_probing for standing in found), "being probed"),
        (sum(standing.is_late for standing in found), "behind"),
        (sum(standing.service.is_paused for standing in found), "paused"),
    )
    parts = [f"{count} {word}" for count, word in counts if count]
    services = f"{len(found)} service{'s' if len(found) != 1 else ''}"
    state = f"Of {services}, {', '.join(parts)}" if parts else f"{services.capitalize()}, all up"
    waits = f"{waiting:,}{'+' if waiting == WAITING_CAP else ''} message{'s' if waiting != 1 else ''} waiting"
    return f"{state}; {waits}{'' if workers else '; no worker is running'}."
