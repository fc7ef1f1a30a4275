"""Exports over real sockets: clients that do not read, that leave, that start too many, and the bytes that arrive."""

from __future__ import annotations

import csv
import json
import socket
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from typing import Any

import httpx
import pytest
from django.test import Client

from dashboard import asgi, export_slots, streaming
from dashboard.presenters import exports
from integrations.api.asgi import routes
from integrations.api.messages import messages_json
from integrations.models import AuditEntry, Message, Role, Status
from tests.support.serving import Served, close_connections
from tests.support.signed_in import a_service, browser, messages_of
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

CSV, NDJSON = "/messages/export.csv", "/messages/export.ndjson"
MEGABYTE = 1024 * 1024
# An export of these has 5 MB in 40 parts: more than buffers and queues take, so that the server has to wait.
ROWS, TAGS, STEP = 2_000, {"note": "x" * 2_500}, 50


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    one = Served(asgi.application)
    yield one
    one.close()
    for pool in (routes._look_ups._threads, asgi.console.executor, streaming._threads):
        close_connections(pool)


@pytest.fixture(autouse=True)
def slots(monkeypatch: pytest.MonkeyPatch) -> export_slots.ExportSlots:
    slots = export_slots.ExportSlots()
    monkeypatch.setattr(export_slots, "slots", slots)
    return slots


@pytest.fixture
def many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "STEP", STEP)
    messages_of(a_service(), Status.DELIVERED, ROWS, tags=TAGS)


@pytest.fixture
def without_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_slots, "PER_PERSON", 100)
    monkeypatch.setattr(export_slots, "IN_ALL", 100)


def cookie_of(client: Client) -> str:
    return "; ".join(f"{name}={cookie.value}" for name, cookie in client.cookies.items())


@contextmanager
def begun(served: Served, client: Client, path: str = NDJSON) -> Iterator[socket.socket]:
    """An export of which nothing is read."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(served.address)
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie_of(client)}\r\n\r\n"
        connection.sendall(head.encode())
        yield connection


def get(served: Served, client: Client, path: str, **headers: str) -> httpx.Response:
    with httpx.Client(base_url=served.url, timeout=20, trust_env=False) as real:
        return real.get(path, headers={"Cookie": cookie_of(client), **headers})


def page_responds(served: Served) -> None:
    began = time.monotonic()
    assert httpx.get(f"{served.url}/login/", timeout=5, trust_env=False).status_code == 200
    assert time.monotonic() - began < 5


# ---- clients that hold an export ------------------------------------------------------------------------------------
def test_eighteen_exports_that_nobody_reads_stopped_the_console(
    served: Served, many_rows: None, without_limits: None
) -> None:
    viewer = browser(Role.VIEWER)
    with ExitStack() as stack:
        for number in range(asgi.THREADS + 2):
            connection = stack.enter_context(begun(served, viewer, (CSV, NDJSON)[number % 2]))
            assert connection.recv(12) == b"HTTP/1.1 200"  # and no more
        page_responds(served)
        assert get(served, viewer, "/messages/").status_code == 200


def test_exports_that_their_clients_left_were_made_for_nobody(
    served: Served,
    many_rows: None,
    without_limits: None,
    slots: export_slots.ExportSlots,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sixteen of them stopped the console for 19 s."""
    steps = count_steps(monkeypatch)
    viewer = browser(Role.VIEWER)
    for _ in range(asgi.THREADS):
        with begun(served, viewer) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
    page_responds(served)
    until(lambda: not slots._taken.total(), words="the exports go on")
    assert len(steps) < asgi.THREADS * ROWS / STEP / 2


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    steps: list[int] = []

    def counted(rows: Any) -> Any:
        steps.append(len(rows))
        return messages_json(rows)

    monkeypatch.setattr(exports, "messages_json", counted)
    return steps


def test_one_person_could_start_any_number_of_exports(
    served: Served, many_rows: None, slots: export_slots.ExportSlots
) -> None:
    viewer, other = browser(Role.VIEWER), browser(Role.VIEWER, "other")
    with begun(served, viewer) as first, begun(served, viewer) as second:
        assert (first.recv(12), second.recv(12)) == (b"HTTP/1.1 200", b"HTTP/1.1 200")
        refused = get(served, viewer, f"{CSV}?status=delivered")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert "You have 2 exports in progress" in refused.text
        assert "/messages/?status=delivered" in refused.text
        assert get(served, other, CSV).status_code == 200
        assert AuditEntry.objects.filter(action="messages.exported").count() == 3
        assert get(served, viewer, f"{CSV}?q=servcie:x").status_code == 400  # needs no slot
    until(lambda: not slots._taken.total())
    assert get(served, viewer, CSV).status_code == 200


def test_all_persons_together_have_a_limit(served: Served, many_rows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_slots, "IN_ALL", 1)
    with begun(served, browser(Role.VIEWER)) as first:
        assert first.recv(12) == b"HTTP/1.1 200"
        refused = get(served, browser(Role.VIEWER, "other"), CSV)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "10")
        assert "limit for all users" in refused.text


def test_an_export_that_fails_gives_its_slot_back(
    served: Served, many_rows: None, slots: export_slots.ExportSlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ValueError("on purpose")

    viewer = browser(Role.VIEWER)
    monkeypatch.setattr(exports, "messages_json", fail)
    with pytest.raises(httpx.RemoteProtocolError):  # a file that is cut short does not look like a whole one
        get(served, viewer, NDJSON)
    until(lambda: not slots._taken.total())
    monkeypatch.setattr(AuditEntry.objects, "record", fail)
    assert get(served, viewer, NDJSON).status_code == 500
    until(lambda: not slots._taken.total())


def test_a_response_that_is_lost_gives_its_slot_back(viewer: Client, slots: export_slots.ExportSlots) -> None:
    viewer.handler.load_middleware()
    response: Any = viewer.get(NDJSON)
    assert slots._taken.total() == 1
    response.close()
    response.close()
    assert not slots._taken


# ---- what arrives ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_every_row_arrives_in_its_order(served: Served, encoding: str) -> None:
    sent = messages_of(a_service(), Status.DELIVERED, 1_700, ordering_key="=1+1")
    expected = [
        message.public_id for message in Message.objects.filter(pk__in=[one.pk for one in sent]).order_by("-pk")
    ]
    viewer = browser(Role.VIEWER)
    file = get(served, viewer, CSV, **{"Accept-Encoding": encoding})
    rows = list(csv.DictReader(StringIO(file.text, newline="")))
    assert [row["id"] for row in rows] == expected
    assert {row["ordering_key"] for row in rows} == {"'=1+1"}
    lines = get(served, viewer, NDJSON, **{"Accept-Encoding": encoding})
    assert lines.headers.get("Content-Encoding", "identity") == encoding
    assert [json.loads(line)["id"] for line in lines.text.splitlines()] == expected
    assert get(served, viewer, f"{NDJSON}?status=dead").text == ""


def test_the_loop_sends_what_the_view_responds(served: Served, client: Client) -> None:
    """Headers, access and methods are those of Django's handler."""
    volatile = {"content-disposition", "date", "transfer-encoding", "content-length", "location"}
    viewer = browser(Role.VIEWER)
    for path, who in ((CSV, viewer), (NDJSON, viewer), (f"{CSV}?q=servcie:x", viewer), (CSV, client)):
        by_view: Any = who.get(path)
        arrived = get(served, who, path, **{"Accept-Encoding": "identity"})
        assert arrived.status_code == by_view.status_code
        expected = {name.lower(): value for name, value in by_view.items()}
        assert {name: arrived.headers.get(name) for name in expected.keys() - volatile} == {
            name: expected[name] for name in expected.keys() - volatile
        }
        by_view.close()
    stranger = get(served, client, CSV)
    assert (stranger.status_code, stranger.headers["Location"]) == (302, f"/login/?next={CSV}")
    with httpx.Client(base_url=served.url, trust_env=False, headers={"Cookie": cookie_of(viewer)}) as real:
        assert [real.request(method, CSV).status_code for method in ("HEAD", "OPTIONS")] == [405, 405]
        assert real.get(CSV, headers={"Host": "evil.example"}).status_code == 400
        assert real.request("GET", CSV, content=b"a body that the page does not read").status_code == 200


def test_a_search_that_finds_nothing_was_one_step(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compression asked for parts until it had enough to send: for all of history, for a client that had left, too."""
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 2)
    messages_of(a_service(), Status.DELIVERED, 20)
    response: Any = viewer.get(f"{NDJSON}?q=/nothing", headers={"Accept-Encoding": "gzip"})
    assert len(list(response.streaming_content)) >= 10


def test_a_long_export_needs_no_more_memory_than_a_short_one(served: Served, many_rows: None) -> None:
    Message.objects.update(tags={"note": "x" * 10_000})
    viewer = browser(Role.VIEWER)
    size = lines = 0
    tracemalloc.start()
    try:
        with (
            httpx.Client(timeout=20, trust_env=False, headers={"Cookie": cookie_of(viewer)}) as client,
            client.stream("GET", served.url + NDJSON, headers={"Accept-Encoding": "identity"}) as response,
        ):
            for part in response.iter_bytes():
                size += len(part)
                lines += part.count(b"\n")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (lines, size > 18 * MEGABYTE) == (ROWS, True)
    assert peak < 8 * MEGABYTE, f"{peak / MEGABYTE:.1f} MiB"
