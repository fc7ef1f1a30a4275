"""The audit trail's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from dashboard.views.audit import changes
from integrations.models import AuditEntry, Message
from integrations.models.retention import delete_messages
from tests.support.signed_in import page_of, words


@pytest.fixture
def entries(db: None) -> None:
    record = AuditEntry.objects.record
    record("person ada", "service.paused", "billing", reason="their maintenance <b>")
    record("token ci", "service.changed", "billing", before={"retry": {"max": 5}}, after={"retry": {"max": 9}})
    record("person bob", "endpoint.created", "billing/create", after={"path": "/x"})
    record("person bob", "service.created", "other")


def test_only_an_admin_sees_the_audit_trail(viewer: Client, operator: Client, entries: None) -> None:
    assert viewer.get("/audit/").status_code == 403
    assert operator.get("/audit/").status_code == 403


def test_changes_are_said_in_words_and_reasons_are_text(admin: Client, entries: None) -> None:
    page = page_of(admin, "/audit/")
    assert "retry.max" in page
    assert "<del>5</del>" in page
    assert "<ins>9</ins>" in page
    assert "their maintenance &lt;b&gt;" in page


@pytest.mark.parametrize(
    ("query", "found", "left_out"),
    [
        ("?target=billing", ["service.paused", "endpoint.created"], ["service.created"]),
        ("?actor=token", ["service.changed"], ["service.paused"]),
        ("?action=created&actor=bob", ["endpoint.created", "service.created"], ["service.paused"]),
        ("?target=nothing", ["Nothing matches"], ["service.paused"]),
    ],
)
def test_filters_narrow_the_trail(
    admin: Client, entries: None, query: str, found: list[str], left_out: list[str]
) -> None:
    page = page_of(admin, f"/audit/{query}")
    assert all(word in page for word in found)
    assert not any(word in page for word in left_out)


def test_a_tampered_cursor_shows_the_beginning(admin: Client, entries: None) -> None:
    assert "showing the first page" in page_of(admin, "/audit/?cursor=older+5:forged")


def test_an_empty_trail_says_what_will_be_in_it(admin: Client, db: None) -> None:
    assert "No changes yet" in page_of(admin, "/audit/")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({}, {"a": True}, [("a", None, "yes")]),
        ({"a": {"b": [1]}}, {"a": {"b": []}}, [("a.b", "[1]", None)]),
        ({}, {"a": "", "b": None, "c": {}}, []),
        ({"a": 0}, {"a": False}, [("a", "0", "no")]),
    ],
)
def test_only_what_differs_is_a_change(before: dict[str, Any], after: dict[str, Any], words: list[Any]) -> None:
    assert [(change.name, change.before, change.after) for change in changes(before, after)] == words


def test_an_edited_replay_shows_what_the_edit_changed(
    admin: Client, operator: Client, queue: Callable[..., Message], django_assert_max_num_queries: Any
) -> None:
    message = queue(body=b'{"amount":1,"currency":"EUR"}', headers={"X-Token": "old"}, status="dead", due_at=None)
    form = {"edited": "1", "confirmed": "1", "endpoint": "", "body": '{"amount":1,"currency":"USD"}'}
    operator.post(f"/messages/{message.public_id}/replay/", form | {"headers": "X-Token: new-secret"})
    replay = message.replays.get()
    with django_assert_max_num_queries(12):
        shown = words(admin.get("/audit/"))
    assert 'Body - "currency": "EUR" + "currency": "USD"' in shown
    assert "_sha256" not in shown
    assert "new-secret" not in shown
    assert f'href="/messages/{replay.public_id}/changes/"' in page_of(admin, "/audit/")
    delete_messages([replay.pk])
    shown = words(admin.get("/audit/"))
    assert "body_sha256" in shown, "the hashes stay when the content is gone"
    assert "USD" not in shown


def test_a_long_edited_body_is_compared_on_its_own_page(
    admin: Client, operator: Client, queue: Callable[..., Message]
) -> None:
    message = queue(body=b'{"text":"' + b"x" * 20_000 + b'"}', status="dead", due_at=None)
    form = {"edited": "1", "confirmed": "1", "endpoint": "", "headers": "", "body": '{"text":"short"}'}
    operator.post(f"/messages/{message.public_id}/replay/", form)
    page = page_of(admin, "/audit/")
    assert "xxxx" not in page
    assert f'href="/messages/{message.replays.get().public_id}/changes/"' in page
