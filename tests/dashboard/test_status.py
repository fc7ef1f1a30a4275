"""The page that says how well services have worked."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from integrations.models import Health, Role, TallyDay, TallyHour
from tests.support.signed_in import a_service, browser, trip, words

pytestmark = pytest.mark.django_db


def test_it_says_for_each_service_how_much_succeeded() -> None:
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    fine, broken = a_service("fine"), a_service("broken")
    a_service("fresh")
    trip(broken)
    for hours, failures in ((0, 0), (1, 0), (3, 40)):
        start = now - timedelta(hours=hours)
        TallyHour.objects.create(service=broken, start=start, calls=50, failures=failures)
    TallyHour.objects.create(service=fine, start=now, calls=30, checks=70)
    TallyDay.objects.create(service=fine, start=now.replace(hour=0), calls=900, checks=100, failed_checks=10)
    answer = browser(Role.VIEWER).get("/status/")
    page, html = words(answer), answer.content.decode()
    assert "1 of 3 services down" in page
    assert page.index("broken") < page.index("fine")  # trouble first
    assert "73.3 %" in page  # 110 of 150 in a day
    assert "100 %" in page
    assert "99 %" in page  # 990 of 1,000 in thirty days
    assert 'aria-label="1 hour with failures"' in html
    assert 'aria-label="1 day with failures"' in html
    assert 'aria-label="No calls in the last 30 days"' in html
    assert "2 hours: 100\u202f% of 100" in html  # equal hours share one bar


def test_a_service_is_up_by_its_check_alone_and_a_paused_one_is_neither() -> None:
    service = a_service(health_check={"path": "/up", "interval": 60})
    client = browser()
    assert "unknown" in words(client.get("/_p/status/"))
    Health.objects.update(state="up")
    assert ' class="badge up"' in client.get("/_p/status/").content.decode()
    Health.objects.update(state="down", changed_at=timezone.now())
    assert ' class="badge down"' in client.get("/_p/status/").content.decode()
    assert "<title>1 down" in client.get("/").content.decode()
    service.pause("their maintenance")
    assert "<title>Overview" in client.get("/").content.decode()
    assert ' class="badge paused"' in client.get("/_p/status/").content.decode()


def test_without_services_it_teaches_and_with_many_it_stays_small(django_assert_max_num_queries: Any) -> None:
    client = browser()
    assert "No services yet" in words(client.get("/status/"))
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    for number in range(60):
        service = a_service(f"service-{number:02}")
        TallyHour.objects.create(service=service, start=now, calls=5)
    with django_assert_max_num_queries(12):
        answer = client.get("/status/")
    assert len(answer.content) < 120 * 1024
