"""What balancers ask, and pages for what went wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import OperationalError, connection
from django.test import Client, RequestFactory
from django.utils import timezone

from dashboard.views import errors, monitoring
from integrations.models import Status
from tests.support.signed_in import a_service, browser, messages_of, words


def test_alive_asks_nothing_of_the_database() -> None:
    assert Client().get("/healthz").json() == {"status": "ok"}


@pytest.mark.django_db
def test_ready_says_how_the_work_stands() -> None:
    messages_of(a_service(), Status.PENDING, 1, due_at=timezone.now() - timedelta(seconds=90))
    answer = Client().get("/readyz")
    report = answer.json()
    assert answer.status_code == 200
    assert report["status"] == "ready"
    assert (report["database"], report["migrations"], report["workers"]) == (True, True, 0)
    assert 89 < report["backlog_age"] < 120


@pytest.mark.django_db
def test_not_ready_while_migrations_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_applied", False)
    monkeypatch.setattr("dashboard.views.monitoring.MigrationExecutor.migration_plan", lambda *_: ["one to go"])
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["migrations"]) == (503, False)


@pytest.mark.django_db
def test_not_ready_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitoring, "_applied", True)
    with mock.patch.object(connection, "ensure_connection", side_effect=OperationalError("secret host name")):
        answer = Client().get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["database"] is False
    assert "secret host name" not in answer.content.decode()


def test_the_page_for_a_crash_asks_nothing_of_the_database(rf: RequestFactory) -> None:
    # Without the django_db mark, any query here would fail the test.
    answer = errors.broken(rf.get("/"))
    assert answer.status_code == 500
    assert "Switchboard hit an error" in words(answer)


def test_a_missing_page_is_told_to_strangers_too(rf: RequestFactory) -> None:
    assert Client().get("/nothing/here/").status_code == 404


@pytest.mark.django_db
def test_a_form_from_elsewhere_is_refused(settings: Any) -> None:
    client = browser()
    client.handler.enforce_csrf_checks = True
    assert client.post("/logout/").status_code == 403
