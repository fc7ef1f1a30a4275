"""The metrics for Prometheus: access, and its own parser understands them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from integrations.delivery.claim import claim
from integrations.history import rollups
from integrations.models import (
    Attempt,
    BackupSchedule,
    Health,
    Meter,
    Result,
    Role,
    Service,
    Status,
    Tally,
    TallyDay,
    Token,
    Worker,
    meter,
    tally,
)
from integrations.workers import housekeeping
from tests.support.records import a_worker
from tests.support.signed_in import a_service, messages_of, trip

pytestmark = pytest.mark.django_db
FAR = "203.0.113.9"
LABELS = {
    "switchboard_accepted_total": "service, source",
    "switchboard_held_back_total": "service, reason",
    "switchboard_breaker_state": "service, state",
    "switchboard_database_seconds": "step",
    "switchboard_page_duration_seconds": "view",
    "switchboard_info": "version",
    **dict.fromkeys(
        [
            "switchboard_workers",
            "switchboard_failure_groups",
            "switchboard_sqlite_wal_bytes",
            "switchboard_backup_timestamp_seconds",
            "switchboard_backup_trouble",
            "switchboard_streams",
        ],
        "",
    ),
}
CALL_BUCKET = "switchboard_call_duration_seconds_bucket"


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


def test_counters_are_the_sums_of_all_days_and_of_the_last_minutes() -> None:
    """They lagged by up to 30 s, the time between two roll-ups."""
    service, now = a_service(), timezone.now().replace(second=0, microsecond=0)
    counts: dict[str, Any] = {"failures": 1, "seconds": 2.5, "within_50ms": 4, "beyond_30s": 1}
    TallyDay.objects.create(service=service, start=now - timedelta(days=40), calls=7, **counts)
    for minutes in (0, 1, 61, 25 * 60, 50 * 60):
        Tally.objects.create(service=service, start=now - timedelta(minutes=minutes), calls=5, **counts)
    for _ in range(2):
        rollups.roll()
        found = samples()
        assert found["switchboard_calls_total", "billing"] == 32
        assert found["switchboard_failures_total", "billing"] == 6
        assert found["switchboard_call_duration_seconds_sum", "billing"] == 15
        assert found["switchboard_call_duration_seconds_count", "billing"] == 30
    tally.add({service.pk: tally.Counts(calls=1)}, timezone.now())
    assert samples()["switchboard_calls_total", "billing"] == 33


def test_a_finer_bucket_that_came_later_breaks_no_histogram() -> None:
    """Calls of versions before migration 0009 are in the coarser columns alone."""
    old, new = tally.Counts(calls=2), tally.Counts(calls=2)
    old.durations[5] = 2  # within_10ms
    for seconds in (0.0015, 0.004):
        new.took(seconds)
    service = a_service()
    for counts in (old, new):
        tally.add({service.pk: counts}, timezone.now())
    found = samples()
    bounds = [float(bound.replace("+Inf", "inf")) for name, *of in found if name == CALL_BUCKET for bound in of[:1]]
    assert bounds == sorted(bounds)
    by_bound = [found[CALL_BUCKET, bound, "billing"] for bound in ("0.001", "0.002", "0.005", "0.01", "0.02", "+Inf")]
    assert by_bound == [0, 1, 2, 4, 4, 4]


@pytest.mark.django_db(transaction=True)
def test_waits_and_sources_are_measured_and_written_every_few_seconds(
    register: Any, deliver: Any, send: Any, settings: Any
) -> None:
    meter.write()  # of the tests before
    Meter.objects.all().delete()
    service = register("billing", limits={"concurrency": 1})
    send(service, 3, created_by="token program")
    send(service, 1, created_by="person ada", deliver_at=timezone.now() - timedelta(seconds=40))
    deliver(lambda request: httpx.Response(200))  # the pump writes its sums when it stops
    send(service, 2)
    for _ in range(2):  # the second finds the service full
        claim(a_worker().pk, 10, {})
    meter.write()
    found = samples()
    assert found["switchboard_accepted_total", "billing", "api"] == 3
    assert found["switchboard_accepted_total", "billing", "console"] == 1
    assert found["switchboard_queue_wait_seconds_count", "billing"] == 4
    assert found["switchboard_end_to_end_seconds_count", "billing"] == 4
    assert 0 < found["switchboard_end_to_end_seconds_sum", "billing"] < 40
    assert found["switchboard_held_back_total", "concurrency", "billing"] >= 1
    for step in ("accept", "claim", "settle"):
        assert found["switchboard_database_seconds_count", step] >= 1
    register("other")
    housekeeping.tidy()
    assert Meter.objects.filter(service_id=service.pk).exists()
    Meter.objects.filter(service_id=service.pk).update(service_id=service.pk + 1000)
    housekeeping.tidy()
    assert not Meter.objects.filter(service_id=service.pk + 1000).exists()


def test_a_meter_that_cannot_be_written_is_kept_for_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meter.write()  # of the tests before
    Meter.objects.all().delete()
    meter.observe("page", 0.2, label="overview")
    with monkeypatch.context() as broken:
        broken.setattr(meter, "_AT_ONCE", 0)  # an INSERT without rows
        with pytest.raises(DatabaseError), transaction.atomic():
            meter.write()
    meter.observe("page", 0.2, label="overview")
    meter.write()
    assert samples()["switchboard_page_duration_seconds_count", "overview"] == 2
    assert samples()["switchboard_page_duration_seconds_bucket", "0.25", "overview"] == 2


def test_pages_and_the_process_are_measured() -> None:
    Client().get("/login/")
    meter.write()
    found = samples()
    assert found["switchboard_page_duration_seconds_count", "login"] >= 1
    assert found["process_resident_memory_bytes",] > 1_000_000
    assert found["switchboard_streams",] == 0


def test_lost_calls_are_counted() -> None:
    """A worker was killed, and no number said how many calls had been lost with it."""
    service, worker = a_service(), a_worker()
    messages_of(service, Status.DELIVERING, 3, worker_id=worker.pk, claimed_at=timezone.now())
    Worker.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    housekeeping.rescue()
    rollups.roll()
    assert samples()["switchboard_lost_total", "billing"] == 3
    assert Attempt.objects.filter(outcome=Result.LOST).count() == 3


def test_each_metric_is_described() -> None:
    """docs/reference/metrics.md has a row for each, as this prints them."""
    service = a_service()
    BackupSchedule.objects.update_or_create(
        pk=BackupSchedule.objects.current().pk, defaults={"taken_at": timezone.now()}
    )
    tally.add({service.pk: tally.Counts(calls=1)}, timezone.now())
    document = (Path(__file__).resolve().parents[2] / "docs/reference/metrics.md").read_text()
    described = [line for line in document.splitlines() if line.startswith("| `switchboard_")]
    exported = list(table(Client().get("/metrics").content.decode()))
    if connection.vendor != "sqlite":
        exported += [row for row in described if row.startswith("| `switchboard_sqlite_wal_bytes`")]
    print("\n".join(sorted(exported)))
    assert described == sorted(exported)


def table(text: str) -> Iterator[str]:
    """A row for each metric of ours: name, type, labels, description."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, description in re.findall(r"^# HELP (switchboard_\S+) (.*)$", text, re.MULTILINE):
        labels = LABELS.get(name, "service")
        yield f"| `{name}` | {kinds[name]} | {labels}{' ' * bool(labels)}| {description} |"


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
