"""Bodies that come slowly, without end or with files, from a client without an account, on real sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPResponse
from typing import Any

import pytest

from dashboard import asgi, request_bodies
from integrations.api.asgi import request_body, routes
from integrations.api.asgi.routes import Capacity
from integrations.models import Service
from tests.support.calling import ROOT, Api
from tests.support.serving import Served, close_connections

pytestmark = pytest.mark.django_db(transaction=True)

CSRF = "a" * 32  # of the right form, so that Django's middleware reads the form to compare
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    one = Served(asgi.application)
    yield one
    one.close()
    for pool in (routes._look_ups._threads, asgi.console.executor):
        close_connections(pool)


def head(path: str, *headers: str) -> bytes:
    form = "Content-Type: application/x-www-form-urlencoded"
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Cookie: switchboard_csrf={CSRF}", *(headers or (form,))]
    return "\r\n".join(lines).encode() + b"\r\n"


def length(size: int) -> bytes:
    return f"Content-Length: {size}\r\n\r\n".encode()


@contextmanager
def connection(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(served.address, timeout=20) as client:
        yield client


def answer(client: socket.socket) -> tuple[int, str]:
    with HTTPResponse(client) as response:
        response.begin()
        return response.status, response.read().decode()


def status(client: socket.socket) -> int:
    return answer(client)[0]


@pytest.mark.parametrize("path", ["/login/", "/services/new/", f"{ROOT}/services"])
def test_half_sent_posts_held_every_thread(served: Served, operator: Api, path: str) -> None:
    """18 of them stopped every page, `/readyz` and the API, for as long as they stayed open."""
    headers = ("Content-Type: application/json", f"Authorization: Bearer {operator.secret}")
    begin = head(path, *headers) if path.startswith(ROOT) else head(path)
    with ExitStack() as stack:
        for _ in range(asgi.THREADS + 2):
            stack.enter_context(connection(served)).sendall(begin + length(100) + b"half")
        time.sleep(0.2)
        began = time.monotonic()
        pages = served.send(*({"method": "GET", "url": url} for url in ("/login/", "/readyz")))
        assert [page.status_code for page in pages] == [200, 200]
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("path", ["/login/", f"{ROOT}/services", f"{ROOT}/messages"])
def test_a_body_that_trickles_was_waited_for_without_end(
    served: Served, operator: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "GRACE", 0.3)
    with connection(served) as client:
        client.sendall(head(path, f"Authorization: Bearer {operator.secret}") + length(100) + b"half")
        began = time.monotonic()
        assert status(client) == 408
        assert time.monotonic() - began < 10


def test_a_body_at_the_least_rate_is_read_and_ends_with_the_deadline(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"GRACE": 0.2, "LEAST_RATE": 1000.0, "SECONDS": 1.0}.items():
        monkeypatch.setattr(request_body, name, value)
    with connection(served) as client:
        client.sendall(head("/login/") + length(60_000))
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - began < 8 and not readable(client):
                client.sendall(b"a" * 500)  # each 0.1 s: five times the least rate
                time.sleep(0.1)
        assert status(client) == 408
        assert 0.8 < time.monotonic() - began < 8


def readable(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        client.settimeout(20)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/login/", 64 * 1024),
        ("/setup/guessed/", 64 * 1024),
        ("/services/new/", 4 * MEGABYTE),
        (f"{ROOT}/services", 2 * MEGABYTE),
        (f"{ROOT}/messages", 2 * MEGABYTE),
        (f"{ROOT}/messages/batch", 16 * MEGABYTE),
    ],
)
def test_a_body_larger_than_its_path_takes_was_read_first(served: Served, operator: Api, path: str, limit: int) -> None:
    with connection(served) as client:
        client.sendall(head(path, f"Authorization: Bearer {operator.secret}") + length(limit + 1))
        assert status(client) == 413


def test_a_chunked_body_larger_than_its_path_takes_was_read_to_its_end(served: Served) -> None:
    with connection(served) as client:
        client.sendall(head("/login/") + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionError):
            for _ in range(9):
                client.sendall(b"2000\r\n" + b"a" * 0x2000 + b"\r\n")
        assert status(client) == 413


def test_a_chunked_body_is_read_on_its_way_to_a_thread(served: Served, operator: Api) -> None:
    service = b'{"name": "billing", "base_url": "https://billing.example"}'
    headers = ("Content-Type: application/json", f"Authorization: Bearer {operator.secret}")
    with connection(served) as client:
        client.sendall(head(f"{ROOT}/services", *headers) + b"Transfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(service), service))
        assert status(client) == 201


def test_an_uploaded_file_was_written_to_disk(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """160 MiB to `/login/` were, before the 403."""
    monkeypatch.setattr("django.core.files.uploadedfile.tempfile.NamedTemporaryFile", never)
    monkeypatch.setattr("django.core.files.uploadhandler.TemporaryFileUploadHandler.new_file", never)
    part = '--x\r\nContent-Disposition: form-data; name="a"; filename="a.bin"\r\n\r\n'
    for path, size, expected, detail in (
        ("/services/new/", 3 * MEGABYTE, 400, "contains a file"),
        ("/login/", 1024, 400, "contains a file"),
        ("/login/", 160 * MEGABYTE, 413, "too large"),
    ):
        content = part.encode() + b"a" * min(size, 4 * MEGABYTE) + b"\r\n--x--\r\n"
        announced = length(max(size, len(content)))
        with connection(served) as client:
            with suppress(ConnectionError):
                client.sendall(head(path, "Content-Type: multipart/form-data; boundary=x") + announced + content)
            found, page = answer(client)
            assert found == expected
            assert detail in page


def never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a file was written")


def test_bodies_in_flight_were_not_limited_together(
    served: Served, operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large bodies share a size; when it is used up, small ones still get through."""
    monkeypatch.setattr(request_bodies, "capacity", Capacity(requests=10, size=100_000))
    authorization = f"Authorization: Bearer {operator.secret}"
    with connection(served) as large, connection(served) as another:
        large.sendall(head(f"{ROOT}/services", authorization) + length(MEGABYTE) + b"a" * 150_000)
        until(lambda: request_bodies.capacity.size < 20_000)
        another.sendall(head(f"{ROOT}/services", authorization) + length(MEGABYTE) + b"a" * 100_000)
        assert status(another) == 503
        (small,) = served.send({"method": "POST", "url": "/login/", "data": {"username": "ada", "password": "no"}})
        assert small.status_code == 403  # it was read: the form has no token against forgery
    until(lambda: (request_bodies.capacity.requests, request_bodies.capacity.size) == (10, 100_000))


def test_a_caller_without_a_token_is_refused_before_its_body_is_read(served: Served) -> None:
    with connection(served) as client:
        client.sendall(head(f"{ROOT}/services") + length(MEGABYTE))
        assert status(client) == 401


def test_a_form_of_four_megabytes_is_read(served: Served) -> None:
    content = b"name=" + b"a" * (4 * MEGABYTE - 100)
    with connection(served) as client:
        client.sendall(head("/services/new/") + length(len(content)) + content)
        assert status(client) == 403


def until(holds: Callable[[], bool], within: float = 10) -> None:
    end = time.monotonic() + within
    while not holds():
        assert time.monotonic() < end, f"not within {within} s"
        time.sleep(0.01)
