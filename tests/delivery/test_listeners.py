"""The gate knows this installation from its settings and the database, and without a query for each call."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from integrations.delivery import lab_call, listeners
from integrations.models import Service, WebServer, database_now
from integrations.models.web_server import ANNOUNCED_FOR
from integrations.outbound.own_listeners import OwnListeners
from tests.support.receiver import Receiver
from tests.support.waiting import until

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def _as_a_new_process() -> Iterator[None]:
    listeners.forget()
    yield
    listeners.forget()


def announced(port: int, *, host: str = "", addresses: tuple[str, ...] = (HERE,), cluster: str = "web-1") -> None:
    WebServer.objects.announce(
        cluster, host=host or socket.gethostname(), port=port, addresses=addresses, now=database_now()
    )


def refreshed() -> OwnListeners:
    listeners.refresh()
    return listeners.known()


# ---- web servers ----------------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_an_announced_console_on_this_machine_is_no_target_at_any_of_its_addresses() -> None:
    announced(8743)
    assert refreshed().refusal("any.example", 8743, ["127.0.0.9"])
    assert refreshed().refusal("any.example", 8744, ["127.0.0.9"]) is None


@pytest.mark.django_db
def test_an_announced_console_on_another_machine_is_no_target_at_its_own_addresses() -> None:
    announced(8743, host="another", addresses=("10.0.0.5", "fd00::5"))
    assert refreshed().refusal("any.example", 8743, ["10.0.0.5"])
    assert refreshed().refusal("any.example", 8743, ["fd00::5"])
    assert refreshed().refusal("any.example", 8743, [HERE]) is None, "another service may listen there"


@pytest.mark.django_db
def test_a_console_that_has_ended_gives_its_port_back() -> None:
    announced(8743)
    assert refreshed().refusal(HERE, 8743, [HERE])
    WebServer.objects.withdraw("web-1")
    assert refreshed().refusal(HERE, 8743, [HERE]) is None


@pytest.mark.django_db
def test_a_console_that_was_killed_gives_its_port_back_after_a_while() -> None:
    announced(8743)
    now = database_now()
    listeners.refresh(now + ANNOUNCED_FOR / 2)
    assert listeners.known().refusal(HERE, 8743, [HERE])
    listeners.refresh(now + ANNOUNCED_FOR * 2)
    assert listeners.known().refusal(HERE, 8743, [HERE]) is None
    WebServer.objects.announce("web-2", host="b", port=1, addresses=(), now=now + ANNOUNCED_FOR * 2)
    assert [server.cluster for server in WebServer.objects.all()] == ["web-2"]


@pytest.mark.django_db
def test_a_renewed_announcement_stays_one_row_and_closes_no_connection() -> None:
    announced(8743)
    before = refreshed()
    announced(8743)
    assert refreshed() is before
    assert WebServer.objects.count() == 1


@pytest.mark.django_db
def test_what_is_known_costs_no_query() -> None:
    announced(8743)
    refreshed()
    with CaptureQueriesContext(connection) as queries:
        for _ in range(100):
            listeners.known()
            listeners.refresh_if_old()
    assert len(queries) == 0


def test_without_a_database_the_settings_are_known(settings: Any) -> None:
    settings.OWN_PORTS = ["8443", "10.0.0.9:443"]
    assert listeners.known().refusal(HERE, 8443, [HERE])
    assert listeners.known().refusal("10.0.0.9", 443, ["10.0.0.9"])
    assert listeners.known().refusal("10.0.0.10", 443, ["10.0.0.10"]) is None


# ---- PostgreSQL and Redis -------------------------------------------------------------------------------------------
DATABASES = [
    ({"HOST": HERE, "PORT": "6543"}, 6543),
    ({"HOST": HERE, "PORT": ""}, 5432),
    ({"HOST": f"nothing.invalid,{HERE}", "PORT": "1111,6543"}, 6543),
    ({"HOST": f"nothing.invalid,{HERE}", "PORT": "6543"}, 6543),
    ({"HOST": "", "PORT": "", "OPTIONS": {"host": HERE, "port": "6543"}}, 6543),
]


def with_settings(monkeypatch: pytest.MonkeyPatch, **given: Any) -> None:
    """For the gate alone: the test itself stays connected to its database."""
    others = {"OWN_PORTS": [], "EMBEDDED": False, "DIRECT_DATABASE": None, "REDIS_URL": ""}
    monkeypatch.setattr(listeners, "settings", SimpleNamespace(**(others | given)))


@pytest.mark.django_db
def test_the_database_behind_a_pooler_is_no_target(monkeypatch: pytest.MonkeyPatch) -> None:
    way, pooled = {"HOST": HERE, "PORT": "5432"}, {"HOST": HERE, "PORT": "6432"}
    with_settings(monkeypatch, DATABASES={"default": pooled}, DIRECT_DATABASE=way)
    for port in (5432, 6432):
        assert "own database" in (refreshed().refusal("any.example", port, ["127.0.0.5"]) or "")


@pytest.mark.django_db
@pytest.mark.parametrize(("database", "port"), DATABASES)
def test_the_database_of_the_settings_is_no_target(
    monkeypatch: pytest.MonkeyPatch, database: dict[str, Any], port: int
) -> None:
    with_settings(monkeypatch, DATABASES={"default": database})
    known = refreshed()
    assert "own database" in (known.refusal("any.example", port, ["127.0.0.5"]) or "")
    assert known.refusal("any.example", 1112, ["127.0.0.5"]) is None


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("url", "port"),
    [
        (f"redis://{HERE}:7000/0", 7000),
        (f"rediss://:secret@{HERE}/0", 6379),
        ("redis://localhost:7000", 7000),
        ("redis://", 6379),
    ],
)
def test_the_redis_of_the_settings_is_no_target(settings: Any, url: str, port: int) -> None:
    settings.REDIS_URL = url
    assert "own Redis" in (refreshed().refusal("any.example", port, [HERE]) or "")


@pytest.mark.django_db
def test_servers_behind_unix_sockets_take_no_port_away(monkeypatch: pytest.MonkeyPatch) -> None:
    database = {"HOST": "/run/postgresql", "PORT": "5432"}
    with_settings(monkeypatch, DATABASES={"default": database}, REDIS_URL="unix:///run/redis.sock?db=1")
    assert refreshed() == OwnListeners()


@pytest.mark.django_db
def test_a_name_that_is_looked_up_for_long_keeps_no_worker_waiting(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REDIS_URL = "redis://cache.internal:7000"
    monkeypatch.setattr(listeners, "FIRST_LOOK_UP", 0.05)
    answers = threading.Event()

    def slow(host: str, *_: Any, **__: Any) -> list[Any]:
        answers.wait(20)
        return [(0, 0, 0, "", ("10.0.0.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    known = refreshed()
    assert known.refusal("cache.internal", 7000, []), "its name is known from the start"
    assert known.refusal("10.0.0.9", 7000, ["10.0.0.9"]) is None
    answers.set()
    until(lambda: refreshed().refusal("10.0.0.9", 7000, ["10.0.0.9"]), 5)


# ---- at the call ----------------------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("reachable_loopback")
def test_a_call_to_an_announced_console_is_refused_and_a_call_beside_it_is_made(
    start_receiver: Callable[..., Receiver],
) -> None:
    console, neighbour = start_receiver(), start_receiver()
    announced(console.port)
    service = Service.objects.create(name="console", base_url=console.url)
    beside = Service.objects.create(name="beside", base_url=neighbour.url)
    attempt = lab_call.run(lab_call.LabRequest(service, path="/metrics"), actor="person ada")
    assert (attempt.fault, attempt.status_code) == ("blocked", None)
    assert "own console" in attempt.detail
    assert lab_call.run(lab_call.LabRequest(beside), actor="person ada").status_code == 200
    assert not console.calls
