"""The metrics for Prometheus: access, and its own parser understands them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from integrations.history import rollups
from integrations.models import Attempt, Health, Result, Role, Service, Status, TallyDay, Token, Worker
from integrations.workers import housekeeping
from tests.support.records import a_worker
from tests.support.signed_in import a_service, messages_of, trip

pytestmark = pytest.mark.django_db
FAR = "203.0.113.9"


def samples(client: Client | None = None) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels in their order."""
    answer = (client or Client()).get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
    }


def test_it_says_how_services_stand() -> None:
    down, fine = a_service("down"), a_service("fine", health_check={"interval": 60})
    trip(down)
    Health.objects.filter(service=fine).update(state="up")
    messages_of(down, Status.PENDING, 3, due_at=timezone.now() - timedelta(seconds=90))
    messages_of(fine, Status.DEAD, 2)
    found = samples()
    assert found["switchboard_workers",] == 0
    assert found["switchboard_waiting", "down"] == 3
    assert 89 < found["switchboard_oldest_due_age_seconds", "down"] < 120
    assert found["switchboard_oldest_due_age_seconds", "fine"] == 0
    assert (found["switchboard_up", "down"], found["switchboard_up", "fine"]) == (0, 1)
    assert found["switchboard_dead_unanswered", "fine"] == 2
    states = [found["switchboard_breaker_state", "down", state] for state in ("closed", "open", "half_open")]
    assert states == [0, 1, 0]
    Health.objects.filter(service=fine).update(state="down")
    assert samples()["switchboard_up", "fine"] == 0
    fine.pause("their maintenance")
    assert ("switchboard_up", "fine") not in samples()  # unchecked


def test_counters_are_the_sums_of_all_days() -> None:
    service, today = a_service(), timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    for days, calls in ((0, 5), (40, 7)):
        start = today - timedelta(days=days)
        TallyDay.objects.create(
            service=service, start=start, calls=calls, failures=1, seconds=2.5, within_50ms=calls - 1, beyond_30s=1
        )
    found = samples()
    assert found["switchboard_calls_total", "billing"] == 12
    assert found["switchboard_failures_total", "billing"] == 2
    assert found["switchboard_call_duration_seconds_sum", "billing"] == 5
    buckets = {key[1]: value for key, value in found.items() if key[0] == "switchboard_call_duration_seconds_bucket"}
    assert (buckets["0.02"], buckets["0.05"], buckets["30.0"], buckets["+Inf"]) == (0, 10, 10, 12)
    assert found["switchboard_call_duration_seconds_count", "billing"] == 12


def test_lost_calls_are_counted() -> None:
    """A worker was killed, and no number said how many calls had been lost with it."""
    service, worker = a_service(), a_worker()
    messages_of(service, Status.DELIVERING, 3, worker_id=worker.pk, claimed_at=timezone.now())
    Worker.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    housekeeping.rescue()
    rollups.roll()
    assert samples()["switchboard_lost_total", "billing"] == 3
    assert Attempt.objects.filter(outcome=Result.LOST).count() == 3


@pytest.mark.parametrize("size", [0, 70 * 1024**2])
def test_the_write_ahead_log_of_sqlite_has_a_size(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("integrations.models.storage.wal_bytes", lambda: size)
    found = samples()
    if connection.vendor == "sqlite":
        assert found["switchboard_sqlite_wal_bytes",] == size
    else:
        assert ("switchboard_sqlite_wal_bytes",) not in found


def test_from_afar_it_needs_a_token(settings: Any) -> None:
    client = Client(REMOTE_ADDR=FAR)
    refused = client.get("/metrics")
    assert (refused.status_code, refused["Content-Type"]) == (401, "application/problem+json")
    assert client.get("/metrics", headers={"Authorization": "Bearer sb_nobody"}).status_code == 401
    _, secret = Token.objects.issue("prometheus", Role.VIEWER, None)
    assert client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    settings.METRICS_ALLOW = "203.0.113.0/24"
    assert client.get("/metrics").status_code == 200
    assert Client(REMOTE_ADDR="::ffff:203.0.113.7").get("/metrics").status_code == 200
    assert Client(REMOTE_ADDR="127.0.0.1").get("/metrics").status_code == 401
    settings.METRICS_ALLOW = ""
    assert Client(REMOTE_ADDR="127.0.0.1").get("/metrics").status_code == 401
    assert Client(REMOTE_ADDR="").get("/metrics").status_code == 401


def test_metrics_were_public_behind_a_local_proxy_that_nobody_declared(settings: Any) -> None:
    """The proxy's own address is on the loopback, from which /metrics needs no token."""
    client = Client(REMOTE_ADDR="127.0.0.1", headers={"X-Forwarded-For": FAR})
    assert client.get("/metrics").status_code == 401
    settings.TRUSTED_PROXIES = "127.0.0.1"  # then the server has put the client's address into REMOTE_ADDR
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "a_b.evil.example", "127.0.0.1.evil.example", "["]
)
def test_a_page_of_another_site_read_the_metrics_on_this_machine(host: str, settings: Any) -> None:
    """Its name resolved to 127.0.0.1 once the page was loaded, and loopback needs no token."""
    settings.ALLOWED_HOSTS = ["console.example.com"]
    client = Client(REMOTE_ADDR="127.0.0.1", headers={"Host": host})
    refused = client.get("/metrics")
    assert refused.status_code == 401
    assert "SWITCHBOARD_ALLOWED_HOSTS" in refused.json()["detail"]
    _, secret = Token.objects.issue("prometheus", Role.VIEWER, None)
    assert client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "10.1.2.3", "[fe80::1]:8000", "console.example.com", ""])
def test_an_address_or_an_allowed_name_needs_no_token(host: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["console.example.com"]
    assert Client(REMOTE_ADDR="127.0.0.1", headers={"Host": host}).get("/metrics").status_code == 200


def test_it_asks_the_same_few_questions_for_any_number_of_services(django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        a_service(f"service-{number}")
    with django_assert_max_num_queries(12):
        assert len([key for key in samples() if key[0] == "switchboard_waiting"]) == 20
    assert Service.objects.count() == 20
