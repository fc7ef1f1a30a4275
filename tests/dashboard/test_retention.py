"""Retention in the browser: the deletions are counted and confirmed first."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations.history import retention
from integrations.models import AuditEntry, Message, MessageContent, Retention, Role, Status
from tests.support.signed_in import a_service, browser, messages_of, words

pytestmark = pytest.mark.django_db

PAGE = "/settings/retention/"


def of_age(days: float, count: int = 1) -> list[Message]:
    service = a_service(f"aged-{count}")
    return messages_of(service, Status.DELIVERED, count, finished_at=timezone.now() - timedelta(days=days))


def test_settings_say_how_long_history_is_kept_and_how_old_it_is() -> None:
    admin = browser(Role.ADMIN)
    page = words(admin.get("/settings/"))
    assert "Finished messages kept for 90 days" in page
    assert "Audit entries kept permanently" in page
    assert "Oldest message none yet" in page
    of_age(3)
    retention.change({"messages_days": None, "audit_days": 1}, actor="person ada")
    page = words(admin.get("/settings/"))
    assert "Finished messages kept permanently" in page
    assert "Audit entries kept for 1 day" in page
    assert "Oldest message accepted" in page


def test_what_deletes_nothing_is_saved_at_once() -> None:
    of_age(3)
    answer = browser(Role.ADMIN, "ada").post(PAGE, {"messages_days": "7", "audit_days": ""}, follow=True)
    assert "Finished messages are kept for 7 days, audit entries forever." in words(answer)
    entry = AuditEntry.objects.get(action="retention.changed")
    assert (entry.actor, entry.before["messages_days"], entry.after["messages_days"]) == ("person ada", 90, 7)


def test_what_would_be_deleted_is_said_and_has_to_be_agreed_to() -> None:
    of_age(3, 2)
    of_age(1, 1)
    AuditEntry.objects.create(at=timezone.now() - timedelta(days=9), actor="person ada", action="a", target="b")
    admin, given = browser(Role.ADMIN), {"messages_days": "2", "audit_days": "8"}
    answer = admin.post(PAGE, given)
    assert "2 finished messages older than 2 days will be deleted, with their attempts." in words(answer)
    assert "1 audit entry older than 8 days will be deleted." in words(answer)
    assert Retention.objects.current().periods == {"messages_days": 90, "audit_days": None}
    (agreed,) = re.findall(r'name="agreed" value="([^"]*)"', answer.content.decode())
    # It was agreed to these days and no others.
    assert "older than 1 day " in words(admin.post(PAGE, {**given, "messages_days": "1", "agreed": agreed}))
    assert admin.post(PAGE, {**given, "agreed": agreed}).status_code == 303
    assert Retention.objects.current().periods == {"messages_days": 2, "audit_days": 8}


def test_a_count_ends_at_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PREVIEWED", 3)
    of_age(3, 5)
    assert "3+ finished messages older than 2 days" in words(browser(Role.ADMIN).post(PAGE, {"messages_days": "2"}))


@pytest.mark.parametrize("days", ["0", "3651", "-2", "1.5", "soon", "9" * 30])
def test_what_is_out_of_bounds_is_refused_beside_the_field(days: str) -> None:
    answer = browser(Role.ADMIN).post(PAGE, {"messages_days": days, "audit_days": ""})
    assert answer.status_code == 422
    assert 'id="id_messages_days_error"' in answer.content.decode()
    assert Retention.objects.current().messages_days == 90


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_it_is_for_admins(role: Role) -> None:
    client = browser(role)
    assert client.get(PAGE).status_code == client.post(PAGE, {"messages_days": "1"}).status_code == 403
    assert Retention.objects.current().messages_days == 90


@pytest.mark.parametrize("path", ["/messages/msg_77_0000001/", "/attempts/att_77_0000001/body/"])
def test_a_page_that_is_not_there_says_how_long_messages_are_kept(path: str) -> None:
    answer = browser(Role.VIEWER).get(path)
    assert answer.status_code == 404
    assert "It never existed, or is no longer kept: finished messages are kept for 90 days." in words(answer)


def test_a_replay_whose_original_is_gone_says_so() -> None:
    (message,) = messages_of(a_service(), Status.DELIVERED, webhook_id="msg_77_0000001")
    MessageContent.objects.create(message=message)
    page = words(browser(Role.VIEWER).get(f"/messages/{message.public_id}/"))
    assert "Replay of a message deleted by retention" in page
