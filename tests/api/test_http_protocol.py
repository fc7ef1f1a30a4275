"""Heads and connections of a client without an account, on real sockets: each test names a fault that was found."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_network
from typing import Any

import pytest

from integrations.api.asgi import http_protocol
from integrations.api.asgi.http_protocol import LimitedHttpProtocol
from tests.support.serving import Served
from tests.support.waiting import until

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


async def greet(scope: Any, receive: Any, send: Any) -> None:
    """Respond at once, whatever becomes of the request's body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class HastyProtocol(LimitedHttpProtocol):
    """The same with times that a test can wait for."""

    HEAD_SECONDS = 0.4
    LINGER = 0.2
    UNREAD_BODY_SECONDS = 0.3
    UNREAD_SECONDS = 0.5


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    one = Served(greet, http=HastyProtocol, timeout_keep_alive=1)
    yield one
    one.close()


@pytest.fixture(autouse=True)
def waiting(monkeypatch: pytest.MonkeyPatch) -> http_protocol.WaitingConnections:
    waiting = http_protocol.WaitingConnections()
    monkeypatch.setattr(http_protocol, "waiting", waiting)
    monkeypatch.setattr(waiting, "SETTLING", 0.1)
    return waiting


@contextmanager
def connection(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(served.address, timeout=10) as client:
        yield client


def answer(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    received = b""
    with suppress(ConnectionError):
        while part := client.recv(65536):
            received += part
    return received


def ask(served: Served, content: bytes) -> bytes:
    with connection(served) as client:
        with suppress(ConnectionError):
            client.sendall(content)
        return answer(client)


def seconds_until_closed(client: socket.socket, begin: bytes) -> float:
    """Send the beginning, and then a byte every 50 ms."""
    began = time.monotonic()
    client.sendall(begin)
    with suppress(ConnectionError):
        while time.monotonic() - began < 6:
            client.sendall(b"a")
            time.sleep(0.05)
    return time.monotonic() - began


# ---- size -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(REQUEST + b"X-Long: " + b"a" * 65536 + b"\r\n\r\n", id="one long header"),
        pytest.param(REQUEST + b"X-Long: " + b"a" * 100_000, id="one header that does not end"),
        pytest.param(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", id="a long path"),
        pytest.param(REQUEST + b"X: y\r\n" * 100 + b"\r\n", id="101 headers"),
        pytest.param(b"\r\n" * 40_000, id="blank lines"),
    ],
)
def test_a_head_over_its_limit_was_accepted(served: Served, head: bytes) -> None:
    assert ask(served, head).startswith(b"HTTP/1.1 431 ")


def test_a_stream_of_headers_filled_the_memory(served: Served) -> None:
    """70 MiB were accepted. Here the server stops after 64 KiB and what its buffers took."""
    with connection(served) as client:
        client.sendall(REQUEST)
        sent, line = 0, b"X-Filler: " + b"a" * 8000 + b"\r\n"
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 8:
                client.sendall(line * 8)
                sent += 8 * len(line)
        assert time.monotonic() - began < 5


def test_a_head_within_its_limits_is_accepted(served: Served) -> None:
    head = (
        REQUEST
        + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 600) for number in range(98))
        + b"Connection: close\r\n\r\n"
    )
    assert 59_000 < len(head) < 64 * 1024
    assert ask(served, head).startswith(b"HTTP/1.1 200 ")


def test_requests_in_one_packet_are_counted_one_by_one(served: Served) -> None:
    request = REQUEST + b"X: " + b"a" * 40_000 + b"\r\n\r\n"
    last = REQUEST + b"Connection: close\r\n\r\n"
    assert ask(served, request * 4 + last).count(b"HTTP/1.1 200 ") == 5


# ---- time -----------------------------------------------------------------------------------------------------------
def test_half_a_head_was_waited_for_without_end(served: Served) -> None:
    began = time.monotonic()
    assert ask(served, REQUEST).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 5


def test_a_head_that_trickles_got_more_time_with_each_byte(served: Served) -> None:
    with connection(served) as client:
        assert seconds_until_closed(client, REQUEST + b"X: ") < 5


def test_a_silent_connection_stayed_open(served: Served) -> None:
    began = time.monotonic()
    assert ask(served, b"") == b"", "a 408 would be taken for the answer to a later request"
    assert time.monotonic() - began < 5


def test_a_body_that_the_application_does_not_read_held_its_connection(served: Served) -> None:
    with connection(served) as client:
        assert seconds_until_closed(client, b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n") < 5


def test_a_connection_is_kept_for_its_next_request(served: Served) -> None:
    with connection(served) as client:
        for _ in range(2):
            client.sendall(REQUEST + b"\r\n")
            assert client.recv(65536).endswith(b"ok")
            time.sleep(0.6)  # longer than a head may take
        began = time.monotonic()
        assert answer(client) == b""
        assert time.monotonic() - began < 5


def test_a_connection_is_kept_after_a_body_that_nobody_read(served: Served) -> None:
    post = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    with connection(served) as client:
        client.sendall(post)
        assert client.recv(65536).endswith(b"ok")
        client.sendall(b"body" + REQUEST + b"\r\n")
        assert client.recv(65536).endswith(b"ok")


# ---- number ---------------------------------------------------------------------------------------------------------
def test_one_address_held_any_number_of_connections(
    served: Served, waiting: http_protocol.WaitingConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HastyProtocol, "HEAD_SECONDS", 20.0)
    waiting.limit = 5
    with ExitStack() as stack:
        silent = [stack.enter_context(connection(served)) for _ in range(12)]
        time.sleep(0.3)
        last = stack.enter_context(connection(served))
        last.sendall(REQUEST + b"\r\n")
        assert last.recv(65536).endswith(b"ok"), "a request that comes at once is served however many others wait"
        assert all(answer(client) == b"" for client in silent[:7]), "those that waited longest are closed"


def test_a_burst_of_connections_was_trimmed_once_and_stayed(
    served: Served, waiting: http_protocol.WaitingConnections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that had not settled when the first had are closed too, although no other connection comes."""
    monkeypatch.setattr(HastyProtocol, "HEAD_SECONDS", 20.0)
    waiting.limit = 2
    with ExitStack() as stack:
        silent = []
        for _ in range(6):
            silent.append(stack.enter_context(connection(served)))
            time.sleep(0.03)
        assert all(answer(client) == b"" for client in silent[:4])


def test_a_trusted_proxy_holds_as_many_as_it_needs(served: Served, waiting: http_protocol.WaitingConnections) -> None:
    waiting.limit, waiting.unlimited = 1, [ip_network("127.0.0.0/8")]
    with ExitStack() as stack:
        clients = [stack.enter_context(connection(served)) for _ in range(4)]
        time.sleep(0.2)
        for client in clients:
            client.sendall(REQUEST + b"\r\n")
            assert client.recv(65536).endswith(b"ok")


# ---- a response that is not read ------------------------------------------------------------------------------------
@pytest.fixture
def endless() -> Iterator[tuple[Served, list[bool]]]:
    """A response without end, and whether it has ended after all."""
    ended: list[bool] = []

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.create_task(disconnected(receive))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"a" * 65536, "more_body": True})
            await asyncio.sleep(0)
        ended.append(True)

    async def disconnected(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    one = Served(respond, http=HastyProtocol)
    yield one, ended
    one.close()


def test_a_response_that_nobody_reads_stayed_for_as_long_as_its_client(endless: tuple[Served, list[bool]]) -> None:
    served, ended = endless
    with connection(served) as client:
        client.sendall(REQUEST + b"\r\n")
        until(lambda: ended, within=10, words="the server waits for its client")
        assert not answer(client).endswith(b"0\r\n\r\n"), "a response that was cut off looks like a whole one"


@pytest.mark.slow
def test_a_response_that_is_read_goes_on_for_as_long_as_it_takes(endless: tuple[Served, list[bool]]) -> None:
    served, ended = endless
    with connection(served) as client:
        client.sendall(REQUEST + b"\r\n")
        began = time.monotonic()
        while time.monotonic() - began < 4 * HastyProtocol.UNREAD_SECONDS:
            assert client.recv(262144)
            time.sleep(0.002)
        assert not ended
