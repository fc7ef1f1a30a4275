"""Every action of an operator leaves its values before and after in the audit log, with times in one form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from integrations.models import AuditEntry, Message, Role, Service, Status
from tests.support.calling import Api
from tests.support.signed_in import browser

UNTIL = "2040-01-01T00:00:00+00:00"


def latest(action: str) -> AuditEntry:
    return AuditEntry.objects.filter(action=action).latest("pk")


def test_a_pause_and_its_end_have_before_and_after(operator: Api, billing: Service) -> None:
    operator.post("/services/billing/pause", {"reason": "first"})
    operator.post("/services/billing/pause", {"reason": "second", "until": UNTIL})
    paused = latest("service.paused")
    assert paused.before == {"status": "paused", "paused_reason": "first", "paused_until": None}
    assert paused.after == {"status": "paused", "paused_reason": "second", "paused_until": "2040-01-01T00:00:00Z"}
    operator.post("/services/billing/resume", {"release": "none"})
    resumed = latest("service.resumed")
    assert resumed.before == paused.after
    assert (resumed.after["status"], resumed.after["release"]) == ("active", "none")


def test_retry_now_and_cancel_have_before_and_after(operator: Api, queue: Callable[..., Message]) -> None:
    message = queue(deliver_at=UNTIL)
    where = f"/messages/{message.public_id}"
    operator.post(f"{where}/retry-now")
    retried = latest("message.retried_now")
    assert retried.before == {"status": "pending", "next_attempt_at": "2040-01-01T00:00:00Z", "held": False}
    assert retried.after["next_attempt_at"] < "2040"
    operator.post(f"{where}/cancel")
    cancelled = latest("message.cancelled")
    assert (cancelled.before["status"], cancelled.after["status"]) == ("pending", "cancelled")


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ({}, set()),
        ({"body": {"n": 2}}, {"body_sha256"}),
        ({"headers": {"X-Key": "canary-77ab"}}, {"headers_sha256"}),
    ],
)
def test_an_edited_replay_says_what_was_changed_without_its_content(
    operator: Api, queue: Callable[..., Message], edit: dict[str, Any], changed: set[str]
) -> None:
    message = queue()
    Message.objects.update(status=Status.DEAD)
    operator.post(f"/messages/{message.public_id}/replay", edit)
    entry = latest("message.replayed")
    assert set(entry.before) == changed
    assert set(entry.after) == changed | {"replay", "mode"}
    assert all(entry.before[name] != entry.after[name] for name in changed)
    assert "canary" not in str(entry.after)


def test_a_message_queued_through_the_api_names_its_token(operator: Api, viewer: Api, billing: Service) -> None:
    one = operator.post("/messages", {"service": "billing", "path": "/"})
    many = operator.post("/messages/batch", {"messages": [{"service": "billing", "path": "/"}]}).json()
    assert one.json()["created_by"] == "token a-operator"
    for location in (one["Location"], f"/messages/{many['accepted'][0]['id']}"):
        assert viewer.get(location).json()["created_by"] == "token a-operator"
    page = browser(Role.VIEWER).get(f"/messages/{one.json()['id']}/")
    assert "from token a-operator" in page.content.decode()


def test_an_export_leaves_its_filters(billing: Service) -> None:
    person = browser(Role.VIEWER)
    assert person.get("/messages/export.csv?status=dead&q=service:billing").status_code == 200
    assert latest("messages.exported").after == {
        "format": "csv",
        "filters": {"q": "service:billing", "status": "dead"},
    }


def test_a_shared_view_leaves_its_filters_before_and_after(billing: Service) -> None:
    person = browser(Role.OPERATOR)
    for status in ("dead", "pending"):
        person.post("/messages/views/", {"name": "mine", "filters": f"status={status}", "shared": "on"})
    saved = latest("view.saved")
    assert saved.before == {"filters": "status=dead", "shared": True}
    assert saved.after == {"filters": "status=pending", "shared": True}
    person.post("/messages/views/", {"name": "private", "filters": "status=dead"})
    assert AuditEntry.objects.filter(action="view.saved").count() == 2


def test_utc_has_one_form_in_every_answer(admin: Api, billing: Service, queue: Callable[..., Message]) -> None:
    auth = {"type": "bearer", "token": "canary-token-1"}
    admin.patch("/services/billing", {"auth": auth})
    admin.post("/services/billing/breaker", {"action": "open", "reason": "x", "until": UNTIL})
    admin.post("/services/billing/pause", {"reason": "x", "until": UNTIL})
    queue(deliver_at=UNTIL)
    for path in ("/audit", "/services/billing", "/services/billing/breaker", "/messages"):
        assert "+00:00" not in admin.get(path).content.decode(), path
