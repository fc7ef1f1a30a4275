"""Any bytes from an upstream, in any pieces, end in an outcome, in time, and never in an exception.

The pieces reach the protocol through a transport in memory, because a kernel would join them on a real socket.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from integrations.outbound.client import Call, Client
from integrations.outbound.connection import READ_CAP, Connection
from integrations.outbound.exchange import ConnectionKey, Measurements, Timeouts
from integrations.outbound.outcome import Fault, Outcome, Timings
from integrations.outbound.own_listeners import OwnListeners
from integrations.outbound.transport import PinnedTransport
from tests.support.upstreams import GOOD, status

pytestmark = pytest.mark.slow

DEADLINE = 0.05  # seconds
RESPONSES = {
    "length": GOOD,
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nuntil\r\n1\r\n \r\n0\r\nX-T: t\r\n\r\n",
    "until the end": b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nuntil the end",
    "http/1.0": b"HTTP/1.0 404 Not Found\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\ngone",
    "interim": b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + GOOD,
    "no body": b"HTTP/1.1 204 No Content\r\nX-A:\r\nX-B: caf\xe9\r\n\r\n",
    "two": GOOD + GOOD,
    "and junk": GOOD + b"junk",
    "no phrase": b"HTTP/1.1 503\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    "incomplete": GOOD[:-3],
    "switch": b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nxyz\r\n",
    "bad status": status("099"),
}


class Wire(asyncio.Transport):
    """Sends pieces to a protocol once it has written its request; then the end, or silence."""

    def __init__(self, pieces: Sequence[bytes], ends: bool, socket_: socket.socket) -> None:
        super().__init__({"socket": socket_})
        self.pieces, self.ends, self.is_closed = list(pieces), ends, False
        self.loop = asyncio.get_running_loop()

    def join(self, protocol: Connection) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def write(self, data: object) -> None:
        self.loop.call_soon(self.play)

    def play(self) -> None:
        for piece in self.pieces:
            if self.is_closed:
                return
            self.protocol.data_received(piece)
        if self.ends and not self.is_closed:
            self.protocol.eof_received()
            self.close()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0


class WireTransport(PinnedTransport):
    """The transport under test, with its connections played from memory."""

    def __init__(self, pieces: Sequence[bytes], ends: bool, socket_: socket.socket) -> None:
        super().__init__()
        self.play = (pieces, ends, socket_)

    async def _open(
        self, key: ConnectionKey, own: OwnListeners, timeouts: Timeouts, measured: Measurements
    ) -> Connection:
        measured.peer = "memory:1"
        connection = Connection(asyncio.get_running_loop(), key, own, measured.peer, self._idle)
        Wire(*self.play).join(connection)
        return connection


class Upstreams:
    """Makes one call against pieces; keeps a loop and a quiet socket for all of them."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.sockets = socket.socketpair()
        self.complaints: list[dict[str, Any]] = []
        self.runner.get_loop().set_exception_handler(lambda _, context: self.complaints.append(context))

    def answer(self, pieces: Sequence[bytes], *, ends: bool = True, method: str = "POST") -> Outcome:
        async def run() -> Outcome:
            client = Client(WireTransport(pieces, ends, self.sockets[0]))
            call = Call(method, "http://memory.example/", body=b"x", total_timeout=DEADLINE)
            try:
                return await asyncio.wait_for(client.send(call), 5.0)
            finally:
                await client.aclose()

        outcome = self.runner.run(run())
        assert not self.complaints, self.complaints
        return outcome

    def close(self) -> None:
        self.runner.close()
        for one in self.sockets:
            one.close()


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    upstreams = Upstreams()
    yield upstreams
    upstreams.close()


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples * int(os.environ.get("FUZZ_TIMES", "1")),  # more for a long run
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def assert_is_an_outcome(outcome: Outcome) -> None:
    assert isinstance(outcome, Outcome)
    assert outcome.fault in (None, Fault.STATUS, Fault.PROTOCOL, Fault.RESET, Fault.TIMEOUT)
    assert outcome.timings.total < DEADLINE + 1.0
    assert (outcome.fault in (None, Fault.STATUS)) == (outcome.status_code is not None)
    assert outcome.detail.isprintable()
    assert all(name.isprintable() for name, _ in outcome.headers)
    assert all(
        value.replace("\t", "").replace("\xa0", "").replace("\xad", "").isprintable() for _, value in outcome.headers
    )
    assert len(outcome.body) <= outcome.size <= READ_CAP


@fuzz(250)
@given(pieces=st.lists(st.binary(max_size=200), max_size=6), ends=st.booleans())
@example(pieces=[], ends=True)
@example(pieces=[b""], ends=False)
@example(pieces=[b"\r\n" * 100], ends=True)
def test_arbitrary_bytes_end_in_an_outcome(upstreams: Upstreams, pieces: list[bytes], ends: bool) -> None:
    assert_is_an_outcome(upstreams.answer(pieces, ends=ends or len(b"".join(pieces)) % 5 > 0))


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid response with bytes replaced, removed, repeated or put in."""
    found = bytearray(draw(st.sampled_from(sorted(RESPONSES.values()))))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, max(0, len(found) - 1)))
        end = draw(st.integers(start, min(len(found), start + 12)))
        piece = draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"\r\n", b"\n", b":", b"\0", b"HTTP/1.1 200\r\n"]))
        )
        found[start:end] = draw(st.sampled_from([piece, bytes(found[start:end]) * 3]))
    return bytes(found)


@fuzz(500)
@given(response=mutations(), cut=st.integers(0, 200), method=st.sampled_from(["POST", "HEAD"]))
def test_a_damaged_response_ends_in_an_outcome(upstreams: Upstreams, response: bytes, cut: int, method: str) -> None:
    assert_is_an_outcome(upstreams.answer([response[:cut], response[cut:]], method=method))


def plain(outcome: Outcome) -> Outcome:
    return replace(outcome, timings=Timings())


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_means_the_same_wherever_it_is_split(upstreams: Upstreams, name: str) -> None:
    response = RESPONSES[name]
    whole = plain(upstreams.answer([response]))
    for cut in range(1, len(response)):
        assert plain(upstreams.answer([response[:cut], response[cut:]])) == whole, cut
    assert plain(upstreams.answer([response[at : at + 1] for at in range(len(response))])) == whole


@fuzz(150)
@given(response=mutations(), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_a_damaged_response_means_the_same_in_any_pieces(
    upstreams: Upstreams, response: bytes, cuts: list[int]
) -> None:
    edges = [0, *sorted(cuts), len(response)]
    pieces = [response[start:end] for start, end in pairwise(edges) if start < end]
    whole, split = upstreams.answer([response]), upstreams.answer(pieces)
    # The bytes read before a protocol error was found may differ; the verdict must not.
    assert (whole.fault, whole.status_code, whole.headers) == (split.fault, split.status_code, split.headers)
    if whole.fault in (None, Fault.STATUS):
        assert plain(whole) == plain(split)


@pytest.mark.parametrize("missing", range(1, len(GOOD), 7))
def test_a_response_that_stops_is_waited_for_no_longer_than_the_deadline(upstreams: Upstreams, missing: int) -> None:
    outcome = upstreams.answer([GOOD[:-missing]], ends=False)
    assert outcome.fault is Fault.TIMEOUT
    assert DEADLINE * 0.9 < outcome.timings.total < DEADLINE + 0.5
