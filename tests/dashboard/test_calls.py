"""The page of calls without a message: the list, the facts of each, and calls in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def test_a_services_calls_without_a_message_are_listed(
    viewer: Client, billing: Service, queue: Callable[..., Message]
) -> None:
    a_call(billing, "/now")
    a_call(billing, "/up", trigger=Trigger.HEALTH, actor="")
    a_call(billing, "/of-a-message", trigger=Trigger.FIRST, message=queue())
    a_call(a_service("another"), "/elsewhere")
    assert b'href="/services/billing/calls/"' in viewer.get("/services/billing/").content
    shown = words(viewer.get("/services/billing/calls/"))
    assert "/now" in shown
    assert "/up" in shown
    assert "token ci" in shown
    assert "/of-a-message" not in shown
    assert "/elsewhere" not in shown
    only = words(viewer.get("/services/billing/calls/?trigger=health"))
    assert "/up" in only
    assert "/now" not in only
    assert "No calls yet" in words(viewer.get("/services/billing/calls/?trigger=lab"))
    assert viewer.get("/services/nobody/calls/").status_code == 404


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
