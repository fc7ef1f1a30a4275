"""The breakers' tiles and rows, and steering one by hand."""

from __future__ import annotations

import re
from typing import Any

import pytest

from integrations.models import AuditEntry, Event, Role, Runtime, Service, Status
from tests.support.signed_in import a_service, browser, messages_of, trip, words

pytestmark = pytest.mark.django_db


def test_without_services_the_page_says_what_a_breaker_is() -> None:
    assert "Every service has a circuit breaker" in words(browser().get("/breakers/"))


def test_an_open_tile_says_why_since_when_and_what_is_held() -> None:
    service = a_service()
    trip(service, "a probe failed")
    messages_of(service, Status.PENDING, 7)
    page = words(browser().get("/breakers/"))
    assert "1 of 1 breaker open" in page
    assert "A probe failed. Nothing is sent." in page
    assert "Opened 3 min ago" in page
    assert "Held 7" in page


def test_closed_breakers_are_rows_and_the_others_tiles() -> None:
    trip(a_service("down"))
    watched = a_service("watched")
    watched.runtime.mode = "observe"
    watched.runtime.save()
    a_service("calm")
    page = browser().get("/breakers/").content.decode()
    assert re.findall('id="tile-([^"]*)"', page) == ["down", "watched"]
    assert len(re.findall('<tr id="closed-', page)) == 1
    assert 'aria-label="Override the breaker of calm"' in page


def test_a_thousand_breakers_have_pages_and_a_search() -> None:
    Service.objects.bulk_create(Service(name=f"service-{number:04}") for number in range(120))
    Runtime.objects.bulk_create(Runtime(service=service) for service in Service.objects.all())
    Runtime.objects.filter(service__name__lt="service-0060").update(state="open")
    client = browser()
    page = client.get("/breakers/", {"page": "2"})
    assert "60 of 120 breakers open" in words(page)
    assert "First 48 of 60" in words(page)
    assert "51 to 60 of 60 closed breakers" in words(page)
    assert 'hx-get="/_p/breakers/?page=2"' in page.content.decode()
    assert len(re.findall('<tr id="closed-', client.get("/breakers/", {"q": "0111"}).content.decode())) == 1
    assert "No service like “nothing”" in words(client.get("/breakers/", {"q": "nothing"}))


def test_an_operator_opens_a_breaker_with_a_reason() -> None:
    a_service()
    answer = browser().post(
        "/services/billing/breaker/", {"action": "open", "reason": "Maintenance", "next": "/breakers/"}
    )
    assert (answer.status_code, answer["Location"]) == (303, "/breakers/")
    runtime = Runtime.objects.get()
    assert (runtime.state, runtime.mode, runtime.reason) == ("open", "forced_open", "Maintenance")
    assert AuditEntry.objects.get(action="breaker.open").reason == "Maintenance"
    assert Event.objects.filter(type="breaker.opened").exists()


def test_steering_needs_a_reason_and_keeps_what_was_chosen() -> None:
    a_service()
    answer = browser().post("/services/billing/breaker/", {"action": "observe", "reason": ""})
    assert answer.status_code == 422
    assert 'id="id_reason_error"' in answer.content.decode()
    assert '<option value="observe" selected>' in answer.content.decode()


def test_a_closed_breaker_cannot_be_probed() -> None:
    a_service()
    answer = browser().post("/services/billing/breaker/", {"action": "half_open", "reason": "try"})
    assert answer.status_code == 422
    assert "only an open breaker can be half-opened" in words(answer).lower()


def test_steering_never_leads_to_another_site() -> None:
    a_service()
    for target in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        answer = browser(name=target[:9]).post(
            "/services/billing/breaker/", {"action": "reset", "reason": "x", "next": target}
        )
        assert answer["Location"] == "/services/billing/"


def test_a_viewer_sees_the_tiles_and_cannot_steer() -> None:
    a_service()
    client = browser(Role.VIEWER)
    assert "Override" not in words(client.get("/breakers/"))
    assert client.post("/services/billing/breaker/", {"action": "open", "reason": "x"}).status_code == 403
    assert Runtime.objects.get().state == "closed"


def test_the_tiles_stay_within_their_queries(django_assert_max_num_queries: Any) -> None:
    for number in range(15):
        trip(a_service(f"service-{number}"))
    client = browser()
    for path in ("/breakers/", "/_p/breakers/"):
        with django_assert_max_num_queries(12):
            client.get(path)
