"""Workers: live lanes, and those that stopped or were lost."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from dashboard import live
from dashboard.access import viewer
from integrations import wakeup
from integrations.models import BackupSchedule, Worker, database_now, pooler, storage
from integrations.models.worker import BEATS_WITHIN

ALIVE_SHOWN = 200
RECENT = timedelta(hours=24)
RECENT_SHOWN = 20


@viewer
@require_GET
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "workers/listing.html", _context())


@viewer
@require_GET
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "workers/_panel.html", _context())


def _context() -> dict[str, Any]:
    now = database_now()
    alive = list(Worker.objects.alive(now).order_by("host", "pid", "pk")[:ALIVE_SHOWN])
    is_quiet = all(now - worker.heartbeat_at > BEATS_WITHIN for worker in alive)
    lapsed = list(Worker.objects.lapsed(now).order_by("-pk")[:RECENT_SHOWN])
    return {
        "alive": alive,
        "hosts": len({worker.host for worker in alive}),
        "in_flight": sum(worker.in_flight for worker in alive),
        "no_writes": storage.trouble_to_show(is_quiet),
        "polling": wakeup.POOLED if pooler.is_deaf() else "",
        "lapsed": lapsed,
        "gone": list(Worker.objects.filter(stopped_at__gt=now - RECENT).order_by("-stopped_at")[:RECENT_SHOWN]),
        "backups": BackupSchedule.objects.current(),
        "panel_url": reverse("_workers"),
    }
