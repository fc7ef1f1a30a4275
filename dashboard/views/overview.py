"""The overview: problems that need an operator, and the counters of the last hour."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.attention import with_failures
from dashboard.presenters.charts import chart, time_range_of
from dashboard.presenters.service_stats import (
    WAITING_CAP,
    WITH_REASONS,
    HourStats,
    Standing,
    add_certificates,
    standings_in_brief,
)
from integrations.models import BackupSchedule, Installation, Message, Operation, Service, Worker, storage
from integrations.operators import failures

SHOWN = 12  # services in the table; the services page has the rest
# In the list of problems; more services than that have one common cause. Their own pages have all.
LISTED, GROUPS, STOPPED = 10, 3, 3
GROUPS_READ = 200
SHOWN_OF_GROUPS = ("nonce", "title", "state", "count", "messages", "last_seen", "service__name", "endpoint__name")
DAY = timedelta(days=1)


@viewer
def overview(request: HttpRequest) -> HttpResponse:
    return render(request, "overview/overview.html", _context(request))


@viewer
def overview_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "overview/_panel.html", _context(request))


def _context(request: HttpRequest) -> dict[str, Any]:
    now = timezone.now()
    time_range = time_range_of(request.GET, now)
    found = standings_in_brief(Service.objects.all(), now, with_latency=True, columns=WITH_REASONS)
    add_certificates(found, now)
    found.sort(key=lambda standing: standing.rank)
    workers, is_quiet = Worker.objects.pulse(now)
    no_writes, wal_bytes = storage.trouble_to_show(is_quiet), storage.wal_bytes()
    waiting = min(WAITING_CAP, sum(standing.waiting for standing in found))
    new_failures = failures.needing_attention(now).new_or_regressed(now).only(*SHOWN_OF_GROUPS)[:GROUPS_READ]
    troubled, groups = with_failures([standing for standing in found if standing.rank[0] < 5], new_failures)
    clock = Installation.objects.clock()
    backups = BackupSchedule.objects.current()
    backup_trouble = backups.trouble(now)
    restored_at, held = backups.restored_at, 0
    if restored_at:
        held = Message.objects.held_by_restore(restored_at)[:WAITING_CAP].count()
    stopped = list(Operation.objects.stopped_since(now - DAY)[:STOPPED])
    return {
        "standings": found[:SHOWN],
        "service_count": len(found),
        "troubled": troubled[:LISTED],
        "services_left_out": max(0, len(troubled) - LISTED),
        "groups": groups[:GROUPS],
        "groups_left_out": max(0, len(groups) - GROUPS),
        "stopped": stopped,
        "needs": len(troubled[:LISTED])
        + len(groups[:GROUPS])
        + len(stopped)
        + (0 if workers else 1)
        + int(no_writes is not None)
        + int(wal_bytes > storage.WAL_LIMIT)
        + int(clock.is_on_hold)
        + int(bool(held))
        + int(backup_trouble is not None),
        "no_writes": no_writes,
        "wal_bytes": wal_bytes if wal_bytes > storage.WAL_LIMIT else 0,
        "clock": clock,
        "backups": backups,
        "backup_trouble": backup_trouble,
        "backup_is_being_written": backups.is_being_written(now),
        "held_by_restore": held,
        "workers": workers,
        "total": sum((standing.hour for standing in found), HourStats()),
        "waiting": waiting,
        "summary": _summary(
            found, waiting, "database takes no writes" if no_writes else "" if workers else "no workers running"
        ),
        "in_flight": sum(standing.in_flight for standing in found),
        "oldest_due": min((standing.oldest_due for standing in found if standing.oldest_due), default=None),
        "oldest_due_age": max((standing.oldest_due_age for standing in found), default=0),
        "chart": chart(time_range),
        "panel_url": f"{reverse('_overview')}?{time_range.query}",
    }


def _summary(found: list[Standing], waiting: int, trouble: str) -> str:
    """“2 of 6 services down · 45 messages waiting”; ``trouble`` comes last."""
    if not found:
        return "Problems first, then the last hour"
    counts = (
        (sum(standing.is_open or standing.is_unwell for standing in found), "down"),
        (sum(standing.is_probing for standing in found), "being probed"),
        (sum(standing.is_late for standing in found), "behind"),
        (sum(standing.service.is_paused for standing in found), "paused"),
    )
    services = f"service{'s' if len(found) != 1 else ''}"
    states = [f"{count} {state}" for count, state in counts if count]
    if states:
        count, _, state = states[0].partition(" ")
        states[0] = f"{count} of {len(found)} {services} {state}"
    else:
        states = [f"All {len(found)} services up" if len(found) != 1 else "1 service, up"]
    backlog = f"{waiting:,}{'+' if waiting == WAITING_CAP else ''} message{'s' if waiting != 1 else ''} waiting"
    return " · ".join([*states, backlog, *([trouble] if trouble else [])])
