"""What balancers ask, and pages for what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from django.db import InterfaceError, OperationalError, connection
from django.test import Client, RequestFactory
from django.utils import timezone

from dashboard.asgi import application
from dashboard.views import errors, monitoring
from integrations.logs import LineFormatter
from integrations.models import Role, Status
from tests.support.serving import Served
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


@pytest.mark.django_db
@pytest.mark.parametrize("error", [OperationalError("the disk is full"), InterfaceError("the connection is closed")])
def test_not_ready_if_a_query_of_its_own_failed(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(monitoring, "oldest_due", fail)
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "not ready")
    assert answer.json()["database"] is False


@pytest.mark.django_db
@pytest.mark.parametrize("host", ["10.1.2.3", "10.1.2.3:8000", "[fe80::1]", "switchboard.internal", "not a host"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_monitoring_responds_whatever_the_host(path: str, host: str, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["console.example.com"]
    assert Client().get(path, headers={"Host": host}).status_code == 200
    assert Client().get("/login/", headers={"Host": host}).status_code == 400


@pytest.mark.django_db
def test_the_native_healthz_responds_whatever_the_host(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["console.example.com"]
    served = Served(application)
    try:
        requests = [{"method": "GET", "url": "/healthz", "headers": {"Host": "10.1.2.3"}}]
        (answer,) = served.send(*requests)
    finally:
        served.close()
    assert answer.json() == {"status": "ok"}
    assert "x-content-type-options" in answer.headers


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The text of each record that the console logs."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(LineFormatter().format(record))  # type: ignore[method-assign]
    logging.getLogger("django").addHandler(handler)
    yield records
    logging.getLogger("django").removeHandler(handler)


@pytest.mark.django_db
def test_a_403_is_one_line_in_the_log(logged: list[str]) -> None:
    assert browser(Role.VIEWER).get("/audit/").status_code == 403
    (text,) = logged
    assert "/audit/" in text
    assert "\n" not in text


def test_a_refused_host_is_one_line_in_the_log(logged: list[str]) -> None:
    assert Client().get("/login/", headers={"Host": "evil.example"}).status_code == 400
    assert all("\n" not in text for text in logged)


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
