"""A zoo of upstreams that misbehave, each on a real socket of 127.0.0.1.

::

    with Zoo() as zoo:
        upstream = zoo.serve("dripping")
        ... upstream.url, upstream.connections, upstream.requests

The servers run in a thread of their own, so a test may be synchronous, asynchronous or drive a browser. Each animal is
a function from a connection to its end; ``ANIMALS`` is the list.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")

GOOD = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'
GZIP_BOMB = gzip.compress(bytes(10_000_000))


@dataclass(eq=False)
class Peer:
    """One connection as its server sees it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    upstream: Upstream
    answered: int = 0

    async def request(self) -> bool:
        """Reads one whole request; False when there is none."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            body = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        self.upstream.requests.append(head + body)
        return True

    async def say(self, *steps: bytes | float) -> None:
        """Writes bytes, waits seconds."""
        for step in steps:
            if isinstance(step, bytes):
                self.writer.write(step)
                await self.writer.drain()
            else:
                await asyncio.sleep(step)

    async def stay(self) -> None:
        """Holds the connection open, reading nothing of meaning, until the other side leaves."""
        while await self.reader.read(65_536):
            pass

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Animal = Callable[[Peer], Awaitable[None]]


@dataclass(eq=False)
class Upstream:
    """One server: its address and the requests it received."""

    scheme: str
    port: int
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    open_now: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    def url_for(self, host: str) -> str:
        return f"{self.scheme}://{host}:{self.port}/hook"


class Zoo:
    """Starts and stops upstreams. A context manager; a fixture keeps one for a module."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zoo", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def serve(self, animal: str | Animal, tls: ssl.SSLContext | None = None) -> Upstream:
        behave = ANIMALS[animal] if isinstance(animal, str) else animal
        return self._run(self._serve(behave, tls))

    async def _serve(self, behave: Animal, tls: ssl.SSLContext | None) -> Upstream:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            self._tasks.add(task)
            upstream.connections += 1
            upstream.open_now += 1
            try:
                await behave(Peer(reader, writer, upstream))
            except (ConnectionError, TimeoutError, ssl.SSLError, asyncio.CancelledError):
                pass
            finally:
                upstream.open_now -= 1
                self._tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=4 * 1024 * 1024)
        self._servers.append(server)
        upstream = Upstream("https" if tls else "http", server.sockets[0].getsockname()[1])
        return upstream

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0.01)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


@pytest.fixture(scope="module")
def zoo() -> Iterator[Zoo]:
    with Zoo() as zoo:
        yield zoo


# ---- the animals ----------------------------------------------------------------------------------------------------
def says(*steps: bytes | float) -> Animal:
    """Reads a request, plays the steps, closes."""

    async def animal(peer: Peer) -> None:
        if await peer.request():
            await peer.say(*steps)

    return animal


def keeps_saying(*steps: bytes | float) -> Animal:
    """Plays the steps for every request of a connection that stays open."""

    async def animal(peer: Peer) -> None:
        while await peer.request():
            await peer.say(*steps)

    return animal


def says_and_stays(*steps: bytes | float) -> Animal:
    """Plays the steps, then keeps the connection open and says no more."""

    async def animal(peer: Peer) -> None:
        if await peer.request():
            await peer.say(*steps)
            await peer.stay()

    return animal


def says_and_resets(*steps: bytes | float) -> Animal:
    async def animal(peer: Peer) -> None:
        if await peer.request():
            await peer.say(*steps)
            peer.reset()

    return animal


def closes_idle_after(seconds: float) -> Animal:
    """Answers well, and closes a connection on which nothing comes for a while."""

    async def animal(peer: Peer) -> None:
        try:
            while await asyncio.wait_for(peer.request(), seconds):
                await peer.say(GOOD)
        except TimeoutError:
            pass

    return animal


async def closes_instead_of_second_answer(peer: Peer) -> None:
    """The keep-alive race: the connection ends while the next request is on its way."""
    if await peer.request():
        await peer.say(GOOD)
        await peer.request()


async def mute(peer: Peer) -> None:
    """Takes the connection and does nothing with it."""
    await peer.stay()


async def closes_at_once(peer: Peer) -> None:
    return


async def dripping(peer: Peer) -> None:
    """A byte of the body every 0.2 s: each read succeeds, the whole never does."""
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", *((b"x", 0.2) * 100))


async def endless(peer: Peer) -> None:
    """A body of 1 GB."""
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    while True:
        await peer.say(b"x" * 65_536)


async def endless_chunks(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.say(b"1\r\nx\r\n" * 10_000)


async def endless_header(peer: Peer) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nX-Endless: ")
    while True:
        await peer.say(b"x" * 65_536)


async def answers_before_reading(peer: Peer) -> None:
    """Says 413 after the head, and never reads the body."""
    await peer.reader.readuntil(b"\r\n\r\n")
    reading: Any = peer.writer.transport
    reading.pause_reading()
    await peer.say(status(413), 2.0)


async def answers_anything(peer: Peer) -> None:
    """Answers 400 to whatever comes, as a plain HTTP server does to a TLS handshake."""
    await peer.reader.read(1)
    await peer.say(status(400, b"", b"Connection: close"))


def status(code: int | str, body: bytes = b"", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + str(code).encode() + b" Whatever", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


ANIMALS: dict[str, Animal] = {
    "healthy": keeps_saying(GOOD),
    "slow": keeps_saying(0.2, GOOD),
    "failing": keeps_saying(status(503, b"busy", b"Retry-After: 7")),
    "closing": says(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
    "http_1_0": says(b"HTTP/1.0 200 OK\r\n\r\nuntil the end"),
    "until_the_end": says(b"HTTP/1.1 200 OK\r\n\r\nuntil ", 0.05, b"the end"),
    "chunked": keeps_saying(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nuntil\r\n",
        0.02,
        b"8\r\n the end\r\n0\r\nX-Trailer: t\r\n\r\n",
    ),
    "dripping": dripping,
    "silent": says_and_stays(),
    "mute": mute,
    "stops_within_body": says_and_stays(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
    "closes_at_once": closes_at_once,
    "closes_before_answer": says(),
    "closes_within_head": says(b"HTTP/1.1 200 OK\r\nContent-"),
    "closes_within_body": says(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"),
    "closes_within_chunk": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf"),
    "closes_after_interim": says(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "resets_before_answer": says_and_resets(),
    "resets_within_body": says_and_resets(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", 0.05),
    "closes_instead_of_second_answer": closes_instead_of_second_answer,
    "garbage": says(bytes(range(256)) * 4),
    "ssh_banner": says(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "http_0_9": says(b"<html>hello</html>"),
    "http_0_9_line": says(b"HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "http_2": says(b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "bad_chunk": says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello"),
    "bad_length": says(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello"),
    "two_lengths": says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nhello"),
    "length_and_chunks": says(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    "header_injection": says(b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\nContent-Length: 0\r\n\r\n"),
    "huge_header": says(b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n"),
    "endless_header": endless_header,
    "many_headers": says(
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"Content-Length: 0\r\n\r\n"
    ),
    "some_interim": keeps_saying(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * 50 + GOOD),
    "many_interim": says(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000 + GOOD),
    "switches": says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello"),
    "endless": endless,
    "endless_chunks": endless_chunks,
    "gzip_bomb": keeps_saying(status(200, GZIP_BOMB, b"Content-Encoding: gzip")),
    "wrong_encoding": keeps_saying(status(200, b"plain", b"Content-Encoding: gzip")),
    "redirect": keeps_saying(status(302, b"", b"Location: http://169.254.169.254/latest/")),
    "two_answers": keeps_saying(GOOD + GOOD),
    "answer_and_junk": keeps_saying(GOOD + b"junk"),
    "late_second_answer": keeps_saying(GOOD, 0.03, GOOD),
    "body_on_204": keeps_saying(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
    "length_on_304": keeps_saying(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    "head": keeps_saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    "odd_headers": keeps_saying(status(200, b"ok", b"X-Raw: caf\xe9 \xff", b"X-Tab: a\tb", b"X-Dup: 1", b"X-Dup: 2")),
    "answers_before_reading": answers_before_reading,
    "answers_anything": answers_anything,
}
