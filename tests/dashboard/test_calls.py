"""Recent calls of a service, by kind; a call without a message, and calls in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from integrations.delivery.unqueued_call import UNFINISHED
from integrations.models import Attempt, Message, Result, Runtime, Service, Trigger
from tests.support.signed_in import a_service, words


def a_call(service: Service, path: str, **given: Any) -> Attempt:
    fields: dict[str, Any] = {
        "trigger": Trigger.PROCESS,
        "started_at": timezone.now(),
        "duration": 0.08,
        "outcome": Result.SUCCEEDED,
        "status_code": 200,
        "method": "GET",
        "url": f"{service.base_url}{path}",
        "actor": "token ci",
    }
    return Attempt.objects.create(service=service, **fields | given)


def test_all_calls_of_a_service_are_listed_by_kind(
    viewer: Client, billing: Service, queue: Callable[..., Message]
) -> None:
    message = queue()
    a_call(billing, "/now")
    a_call(billing, "/up", trigger=Trigger.HEALTH, actor="")
    a_call(billing, "/of-a-message", trigger=Trigger.RETRY, number=2, message=message)
    a_call(a_service("another"), "/elsewhere")
    assert b'href="/services/billing/calls/"' in viewer.get("/services/billing/").content

    def shown(kind: str) -> set[str]:
        page = words(viewer.get(f"/services/billing/calls/?trigger={kind}"))
        return {path for path in ("/now", "/up", "/of-a-message", "/elsewhere") if f"{path} " in page}

    assert shown("") == shown("nonsense") == {"/now", "/up", "/of-a-message"}
    assert shown("message") == {"/of-a-message"}
    assert shown("process") == {"/now"}
    assert shown("health") == {"/up"}
    assert "No call of this kind" in words(viewer.get("/services/billing/calls/?trigger=lab"))
    assert "token ci" in words(viewer.get("/services/billing/calls/"))
    assert viewer.get("/services/nobody/calls/").status_code == 404


def test_a_call_for_a_message_is_on_the_messages_page(
    viewer: Client, billing: Service, queue: Callable[..., Message]
) -> None:
    message = queue()
    call = a_call(billing, "/of-a-message", trigger=Trigger.FIRST, message=message)
    place = f"/messages/{message.public_id}/#attempt-1"
    assert f'href="{place}"' in viewer.get("/services/billing/calls/").content.decode()
    assert viewer.get(f"/services/billing/calls/{call.public_id}/")["Location"] == place


def test_a_kind_is_searched_among_the_newest_calls_only(
    viewer: Client, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.views.services.calls.SCAN_LIMIT", 2)
    for path in ("/first", "/second", "/third"):
        a_call(billing, path)
    page = words(viewer.get("/services/billing/calls/?trigger=process"))
    assert "/third" in page
    assert "/second" in page
    assert "/first" not in page
    assert "None is among the newest 2 calls" in words(viewer.get("/services/billing/calls/?trigger=lab"))
    assert "/first" in words(viewer.get("/services/billing/calls/"))


def test_there_are_pages_of_them(viewer: Client, billing: Service) -> None:
    for number in range(51):
        a_call(billing, f"/n{number}-")
    first = viewer.get("/services/billing/calls/")
    assert "/n0-" not in words(first)
    assert "/n0-" in words(viewer.get(f"/services/billing/calls/?cursor={first.context['page'].older}"))


def test_a_call_shows_what_was_sent_and_what_came_back(viewer: Client, billing: Service) -> None:
    call = a_call(
        billing,
        "/now",
        status_code=422,
        outcome=Result.FAILED,
        fault="status",
        request_body=b'{"ask": 1}',
        response_body=b'{"error": "<b>no</b>"}',
        response_headers=[["X-Told", "yes"]],
    )
    page = viewer.get(f"/services/billing/calls/{call.public_id}/")
    shown = words(page)
    for text in ("422", "token ci", '"ask": 1', "X-Told", "<b>no</b>"):
        assert text in shown
    assert b"<b>no</b>" not in page.content
    a_service("another")
    assert viewer.get(f"/services/another/calls/{call.public_id}/").status_code == 404
    assert viewer.get("/services/billing/calls/att_1_x/").status_code == 404


def test_a_call_under_way_is_not_shown_as_lost(viewer: Client, billing: Service) -> None:
    lost = {"outcome": Result.LOST, "fault": "worker_lost", "detail": UNFINISHED, "status_code": None, "duration": None}
    call = a_call(billing, "/now", **lost)
    address = f"/services/billing/calls/{call.public_id}/"
    assert UNFINISHED in words(viewer.get(address))
    runtime = Runtime.objects.get(service=billing)
    runtime.lease(call.pk, None, timezone.now(), 30)
    runtime.save()
    assert "in flight" in words(viewer.get("/services/billing/calls/"))
    assert "In flight" in words(viewer.get(address))
    assert UNFINISHED not in words(viewer.get(address))
