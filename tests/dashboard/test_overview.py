"""The overview: problems first, then the last hour."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django.utils.html import strip_tags

from dashboard.templatetags import console
from integrations.models import (
    AuditEntry,
    Failure,
    Health,
    Installation,
    Message,
    Operation,
    Role,
    Runtime,
    Service,
    Status,
    Tally,
)
from integrations.outbound.exchange import PeerCertificate
from integrations.workers import housekeeping
from tests.support.records import a_worker
from tests.support.signed_in import a_service, browser, messages_of, trip, words

pytestmark = pytest.mark.django_db


def test_without_services_it_teaches_the_first_step() -> None:
    assert "Register your first service" in words(browser().get("/"))
    assert "Ask an operator to register one" in words(browser(Role.VIEWER).get("/"))


def test_when_all_is_well_it_says_so() -> None:
    a_service()
    a_worker()
    page = words(browser().get("/"))
    assert "Nothing needs attention" in page
    assert "Every breaker is closed" in page


def test_an_open_breaker_comes_first_with_its_cause_and_what_it_holds() -> None:
    a_worker()
    paused = a_service("paused-one")
    paused.pause("Contract ends")
    down = a_service("down-one")
    trip(down, "5 calls in a row failed")
    messages_of(down, Status.PENDING, 4)
    page = words(browser().get("/"))
    since = strip_tags(console.at(down.runtime.opened_at, "minute"))
    assert f"down-one down since {since} 4 held 5 calls in a row failed next probe" in page
    assert page.index("down-one down since") < page.index("paused-one paused Contract ends")


def test_a_service_has_one_row_with_all_its_reasons_and_its_failures_are_in_it() -> None:
    a_worker()
    down = a_service("billing")
    trip(down)
    messages_of(down, Status.PENDING, 30)
    messages_of(down, Status.DEAD, 20)
    a_failure(down, "503 of billing")
    a_failure(down, "504 of billing", state="regressed")
    a_failure(a_service("crm"), "422 of crm")
    response = browser().get("/")
    rows = re.findall(r'<li id="needs-[^"]+".*?</li>', response.content.decode(), re.DOTALL)
    assert len(rows) == 2
    assert ">30 held<" in rows[0]
    assert ">20 dead<" in rows[0]
    assert ">1 regressed failure<" in rows[0]
    assert ">1 new failure<" in rows[0]
    assert 'href="/failures/?service=billing">Investigate' in rows[0]
    assert "422 of crm" in rows[1]
    assert "503 of billing" not in words(response)
    assert "Needs attention 2" in words(response)


def test_the_count_beside_the_heading_equals_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboard.views.overview.LISTED", 2)
    monkeypatch.setattr("dashboard.views.overview.GROUPS", 1)
    for number in range(4):
        trip(a_service(f"down-{number}"))
        a_failure(a_service(f"fails-{number}"), f"50{number}")
    response = browser().get("/")
    page = response.content.decode()
    counted = re.search(r'id="attention">Needs attention</h2><span class="muted">(\d+)</span>', page)
    assert counted is not None
    assert int(counted[1]) == page.count('<li id="needs-') == 4, "with a row for the missing workers"
    assert "And 2 more services , 3 more failures" in words(response)


def a_failure(service: Service, title: str, **given: Any) -> Failure:
    now = timezone.now()
    fields = {
        "version": 1, "fault": "status", "attempt_id": 1, "count": 7, "messages": 3, "opened_at": now,
        "first_seen": now - timedelta(days=9), "last_seen": now, **given,
    }  # fmt: skip
    return Failure.objects.create(key=title, title=title, service=service, **fields)


def test_new_and_regressed_kinds_of_failure_are_among_what_needs_attention() -> None:
    a_worker()
    service, long_ago = a_service(), timezone.now() - timedelta(days=9)
    a_failure(service, "503 new")
    a_failure(service, "503 old", opened_at=long_ago)
    a_failure(service, "503 back", opened_at=long_ago, state="regressed")
    page = words(browser().get("/"))
    assert "503 new new, billing: 7 calls, 3 messages" in page
    assert "503 back regressed, billing" in page
    assert "503 old" not in page  # known for long, and on its own page


def test_a_certificate_that_ends_soon_is_named_before_it_stops_deliveries() -> None:
    a_worker()
    a_service("billing", base_url="https://Billing.example.com/v1")
    a_service("crm", base_url="https://crm.example.com:8443")
    a_service("plain", base_url="http://plain.example.com")
    now = timezone.now()
    lives = {
        "billing.example.com:443": 13,
        "crm.example.com:8443": 15,
        "plain.example.com:80": 1,
        "other.example:443": 1,
    }
    shown = [
        PeerCertificate(address, "An Authority", now + timedelta(days=days, hours=1)) for address, days in lives.items()
    ]
    housekeeping.tidy(shown)
    client = browser()
    page = words(client.get("/"))
    assert "Needs attention 1" in page
    assert "billing certificate expires on" in page
    assert "billing.example.com:443" in page
    assert "crm certificate" not in page
    assert "( in 15 d ) , from An Authority; seen now" in words(client.get("/services/crm/"))
    housekeeping.tidy([shown[0]._replace(ends_at=now + timedelta(days=90))])  # it was renewed
    assert "Nothing needs attention" in words(client.get("/"))


def test_a_stopped_operation_is_named_for_a_day() -> None:
    a_worker()
    a_service()
    operation = Operation.objects.create(
        kind="replay", filter="status:dead", rate=1, created_by="person ada", state="stopped",
        note="A step failed with DataError.", finished_at=timezone.now() - timedelta(hours=23),
    )  # fmt: skip
    client = browser()
    page = words(client.get("/"))
    assert "An operation of ada was stopped Replay of status:dead , 23 h ago : A step failed with DataError." in page
    assert f"/operations/{operation.public_id}/" in client.get("/").content.decode()
    Operation.objects.update(finished_at=timezone.now() - timedelta(hours=25))
    assert "Nothing needs attention" in words(client.get("/"))


def test_missing_workers_are_reported_before_all_else() -> None:
    trip(a_service())
    page = words(browser().get("/"))
    assert page.index("No worker is running") < page.index("billing down since")


def test_a_backlog_is_late_only_when_nothing_else_explains_it() -> None:
    a_worker()
    long_ago = timezone.now() - timedelta(minutes=10)
    late, down = a_service("late-one"), a_service("down-one")
    trip(down)
    for service in (late, down):
        messages_of(service, Status.PENDING, 2, due_at=long_ago)
    page = words(browser().get("/"))
    due = strip_tags(console.at(long_ago, "minute"))
    assert f"late-one behind, oldest due at {due} 2 waiting" in page
    assert "down-one behind" not in page


def test_a_service_that_asked_to_wait_says_so_and_can_be_called_again() -> None:
    a_worker()
    service = a_service("billing")
    messages_of(service, Status.PENDING, 1)
    now = timezone.now()
    Message.objects.update(due_at=now - timedelta(minutes=5))
    Runtime.objects.update(throttled_until=now + timedelta(hours=23, minutes=1))
    client = browser()
    page = words(client.get("/"))
    assert "billing behind, oldest due at" in page
    assert "the service asked for a pause until" in page
    assert "Resume calls…" in page
    form = client.get("/services/billing/breaker/").content.decode()
    assert '<option value="close" selected>' in form
    client.post("/services/billing/breaker/", {"action": "close", "reason": "It answers again"})
    assert Runtime.objects.get().throttled_until is None
    assert "asked_to_wait_until" in AuditEntry.objects.get(action="breaker.close").before
    assert "It asked us to wait" not in words(client.get("/"))


def test_a_breaker_that_is_switched_off_by_hand_stays_in_sight() -> None:
    a_worker()
    a_service("billing")
    client = browser()
    client.post("/services/billing/breaker/", {"action": "disable", "reason": "A test of theirs"})
    page = words(client.get("/"))
    assert "billing breaker switched off A test of theirs Override…" in page
    client.post("/services/billing/breaker/", {"action": "auto", "reason": "Done"})
    assert "Nothing needs attention" in words(client.get("/"))


def test_dead_messages_count_until_they_are_answered() -> None:
    a_worker()
    service = a_service()
    first, second = messages_of(service, Status.DEAD, 2)
    messages_of(service, Status.DEAD, 1, finished_at=timezone.now() - timedelta(days=2))
    client = browser()
    assert "billing 2 dead" in words(client.get("/"))
    messages_of(service, Status.DELIVERED, replay_of=first)
    Message.objects.complete_lineages()
    assert "billing 1 dead" in words(client.get("/"))
    messages_of(service, Status.DELIVERED, replay_of=second)
    Message.objects.complete_lineages()
    assert "Nothing needs attention" in words(client.get("/"))


def test_the_last_hour_comes_from_the_counters() -> None:
    service = a_service()
    this_minute = timezone.now().replace(second=0, microsecond=0)
    Tally.objects.create(
        service=service, start=this_minute, calls=30, failures=10, delivered=20, dead=1, within_200ms=30
    )
    Tally.objects.create(service=service, start=this_minute - timedelta(hours=2), calls=999, failures=999)
    page = words(browser().get("/"))
    assert "Delivered, last hour 20" in page
    assert "Failed calls, last hour 10 of 30" in page
    assert "Dead, last hour 1" in page
    assert "66.7 %" in page
    assert "198 ms" in page


def test_it_stays_within_its_queries_however_many_services(django_assert_max_num_queries: Any) -> None:
    a_worker()  # without one, the page also tries a small write, every few seconds
    for number in range(15):
        service = a_service(f"service-{number}")
        messages_of(service, Status.PENDING, 3)
        messages_of(service, Status.DEAD, 3)
        if number % 3 == 0:
            trip(service)
    client = browser()
    for path in ("/", "/_p/overview/"):
        with django_assert_max_num_queries(12):
            client.get(path)


def test_a_leap_of_the_clock_is_among_the_problems() -> None:
    a_service()
    now = timezone.now()
    Installation.objects.look_at_clock(now - timedelta(days=100))
    Installation.objects.look_at_clock(now)
    page = words(browser().get("/"))
    assert "The clock went ahead by 3 months, 1 week" in page.replace("\xa0", " ")
    assert "manage.py doctor --accept-clock" in page


def test_the_summary_goes_with_its_panel() -> None:
    trip(a_service("billing"))
    a_service("crm")
    client = browser()
    line = "1 of 2 services down · 0 messages waiting · no workers running"
    assert line in words(client.get("/"))
    assert f'id="summary" hx-swap-oob="true">{line}</p>' in client.get("/_p/overview/").content.decode()


def test_title_and_icon_carry_the_state() -> None:
    trip(a_service())
    page = browser().get("/").content.decode()
    assert "<title>1 down · Overview · Switchboard</title>" in page
    assert 'href="/static/favicon-red.svg"' in page


def test_a_count_ends_at_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    from dashboard.presenters import service_stats

    monkeypatch.setattr(service_stats, "WAITING_CAP", 5)
    service = a_service()
    messages_of(service, Status.PENDING, 9)
    [standing] = service_stats.standings(type(service)._default_manager.all(), timezone.now())
    assert standing.waiting == 5
    assert Message.objects.count() == 9


def test_pages_carry_no_inline_script_or_style() -> None:
    trip(a_service())
    client = browser(Role.ADMIN)
    for path in ("/", "/services/", "/services/billing/", "/services/new/", "/breakers/", "/settings/"):
        answer = client.get(path)
        page = answer.content.decode()
        assert " style=" not in page
        assert "<style" not in page
        assert " onclick=" not in page
        assert page.count("<script") == page.count("<script src=")
        assert "script-src 'self'" in answer["Content-Security-Policy"]


def test_a_service_found_down_by_its_check_is_among_what_needs_attention() -> None:
    a_worker()
    a_service("billing", health_check={"path": "/up", "interval": 60, "expect": "2xx"})
    now = timezone.now()
    Health.objects.update(state="down", checked_at=now, changed_at=now, detail="answered 503")
    client = browser()
    page = words(client.get("/"))
    assert "1 of 1 service down" in page
    assert "billing failing its health check since" in page
    assert "answered 503" in page
    assert "<title>1 down" in client.get("/").content.decode()
    assert "Health check failing since" in words(client.get("/services/billing/"))
    assert client.get("/lab/?service=billing&method=GET&path=/up").status_code == 200
