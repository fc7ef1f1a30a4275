"""The page about workers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from integrations.models import Worker


def worker(pid: int, **fields: Any) -> Worker:
    now = timezone.now()
    times = {"started_at": now, "heartbeat_at": now, "lease_until": now + timedelta(seconds=20)}
    return Worker.objects.create(cluster="up-1", host="web-1", pid=pid, **{**times, **fields})


def test_without_workers_the_page_says_how_to_start_one(viewer: Client, db: None) -> None:
    page = viewer.get("/workers/").content.decode()
    assert "No worker is running" in page
    assert "manage.py up" in page


def test_live_silent_stopped_and_lost_workers_are_told_apart(viewer: Client, db: None) -> None:
    now = timezone.now()
    worker(1, in_flight=3, delivered=12_400)
    worker(2, lease_until=now - timedelta(seconds=1))
    worker(3, stopped_at=now, lost=True)
    worker(4, stopped_at=now)
    worker(5, stopped_at=now - timedelta(days=3))
    page = viewer.get("/workers/").content.decode()
    live, silent, gone = page.index("web-1:1<"), page.index("web-1:2<"), page.index("web-1:3<")
    assert live < page.index(">Silent<") < silent < page.index("Stopped in the last 24 h") < gone
    assert "12,400" in page
    assert "3 calls in flight" in page
    assert page.count('class="badge lost"') == 2
    assert 'class="badge stopped"' in page
    assert "web-1:5<" not in page


def test_the_panel_is_sent_only_when_something_changed(viewer: Client, db: None) -> None:
    import re

    lane = worker(1)
    panel = viewer.get("/_p/workers/").content.decode()
    version = re.search(r'"v": "(\w+)"', panel)[1]
    assert viewer.get(f"/_p/workers/?v={version}").status_code == 204
    Worker.objects.filter(pk=lane.pk).update(in_flight=1)
    assert viewer.get(f"/_p/workers/?v={version}").status_code == 200


def test_the_polled_panel_stays_within_twelve_queries(viewer: Client, db: None) -> None:
    for pid in range(1, 30):
        worker(pid)
    with CaptureQueriesContext(connection) as queries:
        assert viewer.get("/_p/workers/").status_code == 200
    assert len(queries) <= 12
