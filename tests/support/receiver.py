"""A real HTTP server on 127.0.0.1 that remembers what it was sent and answers as a test scripts it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

import httptools

Headers = list[tuple[str, str]]


@dataclass
class Call:
    """One request as it came in; header names as sent, looked up without regard to case."""

    number: int
    method: str
    target: str  # as on the request line: path and query
    headers: Headers
    body: bytes
    at: float  # time.time() when the request was complete
    connection: int  # which connection it came on, counted from 1
    answered_at: float | None = None  # None where the answer never went out

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What to answer. Times are seconds."""

    status: int = 200
    headers: dict[str, str] | Headers = field(default_factory=dict)
    body: bytes | str | dict[str, Any] | list[Any] = b""  # a dict or list goes out as JSON
    delay: float = 0  # before the first byte
    until: threading.Event | None = None  # no byte before it is set
    drip: tuple[int, float] | None = None  # the body in pieces of so many bytes, one each so many seconds
    close: bool = False  # close the connection after the answer
    hang: bool = False  # never answer
    reset: bool = False  # a TCP reset in place of the answer
    cut_at: int | None = None  # reset after so many bytes of the body, of which the header promised all
    raw: bytes | None = None  # exactly these bytes, then close

    def parts(self) -> tuple[bytes, bytes]:
        """The head and the body on the wire."""
        headers = list(self.headers.items()) if isinstance(self.headers, dict) else list(self.headers)
        named = {name.lower() for name, _ in headers}
        body = self.body
        if isinstance(body, dict | list):
            body = json.dumps(body)
            if "content-type" not in named:
                headers.append(("Content-Type", "application/json"))
        if isinstance(body, str):
            body = body.encode()
        without_body = self.status in (204, 304) or self.status < 200
        if not without_body and not named & {"content-length", "transfer-encoding"}:
            headers.append(("Content-Length", str(len(body))))
        if self.close:
            headers.append(("Connection", "close"))
        reason = HTTPStatus(self.status).phrase if self.status in HTTPStatus._value2member_map_ else "Unknown"
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        return f"HTTP/1.1 {self.status} {reason}\r\n{head}\r\n".encode("latin-1"), body


Script = Answer | int


class Receiver:
    """Started with `start()` or `with Receiver() as receiver`; HTTP/1.1 with kept connections, thousands a second.

    It runs on its own thread. What to answer is, in this order: the next of `script()`, what the function given to
    `decide()` says, the standing `answer()`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.tls = tls
        self.host = host
        self.port = 0
        self.calls: list[Call] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.connections = 0  # ever accepted
        self._standing = Answer()
        self._script: deque[Answer] = deque()
        self._decide: Callable[[Call], Script | None] | None = None
        self._changed = threading.Condition()
        self._open: set[_Connection] = set()
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    # ---- What it answers ----

    def answer(self, status: int = 200, **answer: Any) -> None:
        """Set the response from now on; arguments as of Answer."""
        self._standing = Answer(status, **answer)

    def script(self, *answers: Script) -> None:
        """One answer each for the next calls, before the standing one."""
        self._script.extend(_answer(answer) for answer in answers)

    def decide(self, function: Callable[[Call], Script | None] | None) -> None:
        """Lets a function answer each call (it runs on the server's thread); None from it means the standing answer."""
        self._decide = function

    # ---- What it saw ----

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def last(self) -> Call:
        return self.calls[-1]

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def ids(self) -> list[str | None]:
        """The `webhook-id` of each call, in order."""
        return [call.header("webhook-id") for call in list(self.calls)]

    def wait_for(self, number: int, timeout: float = 15) -> list[Call]:
        """Returns all calls as soon as there are at least so many."""
        return self.wait_until(lambda: len(self.calls) >= number, timeout, f"{number} calls")

    def wait_until(self, condition: Callable[[], bool], timeout: float = 15, what: str = "it") -> list[Call]:
        """Waits until a condition on calls, in_flight and the like holds; it is looked at when one of them changes."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                raise AssertionError(f"waited {timeout:g} s for {what}; the receiver saw {len(self.calls)} calls")
        return list(self.calls)

    def clear(self) -> None:
        """Forgets calls, script and highest concurrency; the standing answer stays."""
        with self._changed:
            self.calls = []
            self._script.clear()
            self.max_in_flight = self.in_flight

    # ---- Its life ----

    def start(self) -> Self:
        """Listens, on the port it had before if it had one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="receiver", daemon=True)
            self._thread.start()
        if self._server is None:
            self._on_loop(self._listen())
        return self

    def stop(self) -> None:
        """Drops every connection and refuses new ones; the port stays ours for the next `start()`."""
        if self._server is not None:
            self._on_loop(self._refuse())

    def close(self) -> None:
        self.stop()
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._thread:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)
            self._thread = None
            self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=15)

    async def _listen(self) -> None:
        listener = self._socket or self._bound_socket()
        self._socket = None
        self._server = await self._loop.create_server(
            lambda: _Connection(self), sock=listener, ssl=self.tls, backlog=1024
        )

    async def _refuse(self) -> None:
        assert self._server
        self._server.close()
        for connection in list(self._open):
            connection.drop()
        await self._server.wait_closed()
        await asyncio.sleep(0)
        self._server = None
        self._socket = (
            self._bound_socket()
        )  # bound and not listening: connections are refused, no other process takes the port

    def _bound_socket(self) -> socket.socket:
        bound = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self.host, self.port))
        self.port = bound.getsockname()[1]
        return bound

    def _received(self, call: Call) -> Answer:
        with self._changed:
            call.number = len(self.calls) + 1
            self.calls.append(call)
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            scripted = self._script.popleft() if self._script else None
            self._changed.notify_all()
        if scripted is None and self._decide and (decided := self._decide(call)) is not None:
            scripted = _answer(decided)
        return scripted or self._standing

    def _over(self, call: Call, answered: bool) -> None:
        with self._changed:
            self.in_flight -= 1
            if answered:
                call.answered_at = time.time()
            self._changed.notify_all()


class _Connection(asyncio.Protocol):
    """One client connection; requests on it are answered in order."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: deque[tuple[Call, Answer]] = deque()
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.receiver.connections += 1
        self.number = self.receiver.connections
        self.receiver._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.receiver._open.discard(self)
        if self.task:
            self.task.cancel()
        while self.waiting:
            self.receiver._over(self.waiting.popleft()[0], answered=False)

    def data_received(self, received: bytes) -> None:
        try:
            self.parser.feed_data(received)
        except httptools.HttpParserError:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()

    def drop(self, reset: bool = False) -> None:
        if reset and (plain := self.transport.get_extra_info("socket")) is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    # ---- What httptools calls ----

    def on_message_begin(self) -> None:
        self.target, self.headers, self.body = b"", [], []

    def on_url(self, target: bytes) -> None:
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode("latin-1")))
        if name.lower() == b"expect" and value.lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        method = self.parser.get_method().decode()
        call = Call(
            0, method, self.target.decode("latin-1"), self.headers, b"".join(self.body), time.time(), self.number
        )
        self.waiting.append((call, self.receiver._received(call)))
        if self.task is None or self.task.done():
            self.task = self.receiver._loop.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        while self.waiting and not self.transport.is_closing():
            call, answer = self.waiting.popleft()
            answered = False
            try:
                answered = await self._send(call, answer)
            finally:
                self.receiver._over(call, answered)

    async def _send(self, call: Call, answer: Answer) -> bool:
        if answer.delay:
            await asyncio.sleep(answer.delay)
        while answer.until and not answer.until.is_set():
            await asyncio.sleep(0.01)
        if answer.hang:
            await asyncio.sleep(3600)
        if answer.reset:
            self.drop(reset=True)
            return False
        if answer.raw is not None:
            self.transport.write(answer.raw)
            self.transport.close()
            return True
        head, body = answer.parts()
        if call.method == "HEAD":
            body = b""
        if answer.cut_at is not None:
            self.transport.write(head + body[: answer.cut_at])
            await asyncio.sleep(0.02)  # else the reset overtakes the bytes
            self.drop(reset=True)
            return False
        if answer.drip:
            await self._drip(head, _pieces(body, answer.drip[0]), answer.drip[1])
        else:
            self.transport.write(head + body)
        if answer.close or (call.header("connection") or "").lower() == "close":
            self.transport.close()
        return True

    async def _drip(self, head: bytes, pieces: Iterable[bytes], pause: float) -> None:
        self.transport.write(head)
        for piece in pieces:
            await asyncio.sleep(pause)
            self.transport.write(piece)


def _answer(script: Script) -> Answer:
    return Answer(script) if isinstance(script, int) else script


def _pieces(body: bytes, size: int) -> Iterable[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))
