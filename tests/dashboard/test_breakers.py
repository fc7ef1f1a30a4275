"""The breakers' tiles, and steering one by hand."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.models import AuditEntry, Event, Role, Runtime, Status
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
