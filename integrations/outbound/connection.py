"""One HTTP/1.1 connection, and the idle ones that wait to be used again."""

from __future__ import annotations

import asyncio
import re
import select
import ssl
from collections import OrderedDict
from time import monotonic
from typing import cast

import httptools
import httpx

from integrations.outbound.error_texts import first_words, tls_words
from integrations.outbound.exchange import (
    ConnectionKey,
    Destination,
    Excess,
    Measurements,
    RawHeaders,
    Timeouts,
    TLSError,
)

READ_CAP = 1024 * 1024  # bytes of an answer's body, as they come
HEAD_CAP = 64 * 1024  # bytes of header names and values, over all interim answers
HEADER_COUNT_CAP = 200
INTERIM_CAP = 100  # 1xx answers before the real one
IDLE_FOR = 4.0  # seconds; under the 5 s after which many servers (node, uvicorn) close an idle connection
OPEN_FOR = 60.0  # seconds; a busy connection is dialled anew, so that a changed DNS record is followed
IDLE_PER_TARGET = 512  # as many as a pump may have in flight, or a burst would dial them anew each time
IDLE_OVERALL = 1024
# One regular expression over everything that is sent before the body: a header can't smuggle a second one.
SAFE_HEAD = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\x00]*\r\n)+\r\n"
)
OWN_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"host"})


def request_head(place: Destination, method: str, headers: RawHeaders, length: int) -> tuple[bytes, bool]:
    """The request's first bytes, and whether the connection may be used again. Raises httpx.LocalProtocolError.

    The framing is ours alone: always a Content-Length, never a Transfer-Encoding (RFC 9112 section 6).
    """
    if method == "CONNECT":
        raise httpx.LocalProtocolError("CONNECT asks for a tunnel, which is not a call")
    host, keeps_open = place.host, True
    lines = []
    for name, value in headers:
        lower = name.lower()
        if lower not in OWN_HEADERS:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif lower == b"connection":
            keeps_open = b"close" not in value.lower()
        elif lower == b"host":
            host = value
    if length or method in ("POST", "PUT", "PATCH"):  # RFC 9110 section 8.6
        lines.append(b"Content-Length: %d\r\n" % length)
    head = b"%b %b HTTP/1.1\r\nHost: %b\r\nConnection: %b\r\n%b\r\n" % (
        method.encode("ascii"),
        place.path,
        host,
        b"keep-alive" if keeps_open else b"close",
        b"".join(lines),
    )
    if not SAFE_HEAD.fullmatch(head):
        raise httpx.LocalProtocolError("the method, the address or a header has characters that HTTP does not allow")
    return head, keeps_open


class IdleConnections:
    """Connections that wait for their next request; the one used last goes first, so that the others can expire.

    Every step is O(1): a dict keeps the order of a target's connections, another the order of all.
    """

    __slots__ = ("_all", "_by_target", "_sweep")

    def __init__(self) -> None:
        self._by_target: dict[ConnectionKey, dict[Connection, None]] = {}
        self._all: OrderedDict[Connection, None] = OrderedDict()  # oldest first
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def take(self, target: ConnectionKey) -> Connection | None:
        while waiting := self._by_target.get(target):
            connection = next(reversed(waiting))
            self.discard(connection)
            if monotonic() - connection.idle_since < IDLE_FOR and not connection.is_spoiled():
                return connection
            connection.close()
        return None

    def put(self, connection: Connection) -> None:
        waiting = self._by_target.setdefault(connection.target, {})
        connection.idle_since = monotonic()
        waiting[connection] = None
        self._all[connection] = None
        if len(waiting) > IDLE_PER_TARGET:
            self._evict(next(iter(waiting)))
        elif len(self._all) > IDLE_OVERALL:
            self._evict(next(iter(self._all)))
        if self._sweep is None:
            self._sweep = connection.loop.call_later(IDLE_FOR, self._expire)

    def discard(self, connection: Connection) -> None:
        if connection in self._all:
            del self._all[connection]
            waiting = self._by_target[connection.target]
            del waiting[connection]
            if not waiting:
                del self._by_target[connection.target]

    def close(self) -> None:
        for connection in list(self._all):
            self.discard(connection)
            connection.abort()  # the loop may end before TLS has said its goodbye
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _evict(self, connection: Connection) -> None:
        self.discard(connection)
        connection.close()

    def _expire(self) -> None:
        """One timer for all: closes what has waited too long, and comes back for the next."""
        self._sweep = None
        now = monotonic()
        while self._all:
            oldest = next(iter(self._all))
            left = oldest.idle_since + IDLE_FOR - now
            if left > 0.001:  # some loops count in milliseconds
                self._sweep = oldest.loop.call_later(left, self._expire)
                return
            self._evict(oldest)


class Connection(asyncio.Protocol):
    """One connection, with at most one request on it at a time. httptools calls the ``on_`` methods."""

    __slots__ = (
        "_answer",
        "_began",
        "_deadline",
        "_facts",
        "_head_size",
        "_idle",
        "_interim",
        "_is_complete",
        "_is_head_complete",
        "_is_head_request",
        "_is_open",
        "_keeps_open",
        "_opened",
        "_parser",
        "_poll",
        "_sent_at",
        "_timeouts",
        "_transport",
        "_wire_size",
        "chunks",
        "headers",
        "idle_since",
        "loop",
        "peer",
        "status",
        "target",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: ConnectionKey, peer: str, idle: IdleConnections
    ) -> None:
        self.loop = loop
        self.target = target
        self.peer = peer
        self.idle_since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self._idle = idle
        self._opened = monotonic()
        self._is_open = False
        self._answer: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll() if hasattr(select, "poll") else None  # Windows has none

    # ---- for the transport ------------------------------------------------------------------------------------------
    def exchange(
        self, sent: bytes, is_head_request: bool, timeouts: Timeouts, facts: Measurements
    ) -> asyncio.Future[None]:
        """Writes a request. The future is done when the answer is in ``status``, ``headers`` and ``chunks``."""
        now = monotonic()
        self._answer = answer = self.loop.create_future()
        if not self._is_open:
            answer.set_exception(httpx.ReadError("the connection was closed before the request was sent"))
            return answer
        self.status, self.headers, self.chunks = 0, [], []
        self._facts, self._sent_at, self._timeouts = facts, now, timeouts
        self._head_size = self._wire_size = self._interim = 0
        self._is_head_complete = self._is_complete = self._began = False
        self._is_head_request, self._keeps_open = is_head_request, False
        self._deadline = self.loop.call_later(max(0.0, facts.started + timeouts.total - now), self._expire)
        self._transport.write(sent)
        return answer

    def is_reusable(self) -> bool:
        """Whether the answer ended where it said it would, with nothing left to read or write."""
        return (
            self._keeps_open
            and self._is_open
            and not self._transport.is_closing()
            and self._transport.get_write_buffer_size() == 0  # answered before it had read all: can't be told apart
            and monotonic() - self._opened < OPEN_FOR
        )

    def is_spoiled(self) -> bool:
        """Whether something came while nothing was asked: the end, or bytes of an answer that is nobody's.

        Asks the socket, as a busy loop may not have come to read it yet. One system call, about 1 µs.
        """
        if not self._is_open or self._transport.is_closing():
            return True
        return self._poll is not None and bool(self._poll.poll(0))

    def fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._finish(error)

    def close(self) -> None:
        """Closes with TLS's goodbye. What the other side hasn't taken yet, after its answer, it doesn't want."""
        if not self._is_open:
            return
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # close() would wait for it to be taken, perhaps for ever
        else:
            self._transport.close()

    def abort(self) -> None:
        self._stop_clock()
        if self._is_open:
            self._transport.abort()

    # ---- asyncio.Protocol -------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._is_open = True
        if self._poll is not None:
            self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._keeps_open = False
            self._idle.discard(self)
            self.abort()
            return
        if not self._wire_size:
            self._facts.first_byte = monotonic() - self._sent_at
        self._wire_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keeps_open = False
            if not self._is_complete:
                self._fail_protocol(first_words(error))
                return
        if self._is_complete:
            self._finish(None)
        elif not self._is_head_complete:
            if self._wire_size > 2 * HEAD_CAP:  # one header without an end is buffered by the parser, uncounted
                self._fail_protocol(f"the answer's headers are larger than {HEAD_CAP // 1024} KiB")
        elif self._facts.truncated or self._wire_size > READ_CAP + 2 * HEAD_CAP:
            self._truncate()  # the second is for chunks of one byte, whose framing outweighs them

    def eof_received(self) -> None:
        """The other side has said all it will. Where the answer has no length, that is its end (RFC 9112 6.3)."""
        if self._answer is None or self._answer.done():
            return
        if not self._wire_size:
            self.fail(httpx.ReadError(f"the connection was closed by {self.peer} before an answer"))
        elif self._is_head_complete and self.status >= 200 and _ends_with_connection(self.headers):
            self._finish(None)
        elif self._is_head_complete and self.status >= 200:
            self._fail_protocol(f"the answer is incomplete: {self._facts.size} bytes of its body arrived")
        else:
            self._fail_protocol("the answer is incomplete: the connection was closed within its head")

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_open:
            self._is_open = False
            self._idle.discard(self)
        if self._answer is None or self._answer.done():
            return
        if error is None:
            self.eof_received()
        elif isinstance(error, ssl.SSLError):
            # TLS 1.3 refuses a client's certificate only after the handshake.
            self._finish_with_cause(TLSError(tls_words(error)), error)
        else:
            place = "while it answered" if self._wire_size else "before an answer"
            self._finish_with_cause(httpx.ReadError(f"the connection was reset by {self.peer} {place}"), error)

    # ---- httptools --------------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._is_complete:
            self._keeps_open = False  # a second answer that nobody asked for
        self._is_head_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_complete:
            return
        self._head_size += len(name) + len(value)
        if self._head_size > HEAD_CAP:
            raise Excess(f"the answer's headers are larger than {HEAD_CAP // 1024} KiB")
        if self._is_head_complete:
            return  # a trailer
        self.headers.append((name, value))
        if len(self.headers) > HEADER_COUNT_CAP:
            raise Excess(f"the answer has more than {HEADER_COUNT_CAP} headers")

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        self.status = status = self._parser.get_status_code()
        self._is_head_complete = True
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise Excess("the answer is not HTTP/1.1")
        if status < 100:
            raise Excess(f"the answer's status {status:03} does not exist")
        if status == 101:
            raise Excess("the other side switched to another protocol")
        if self._is_head_request and status >= 200:
            self._is_complete = True  # whatever length it states, no body follows; the parser can't be told

    def on_body(self, body: bytes) -> None:
        if self._is_complete or self._facts.truncated:
            return
        room = READ_CAP - self._facts.size
        if len(body) > room:
            body = body[:room]
            self._facts.truncated = True
        self._facts.size += len(body)
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        if self._is_complete:
            return
        if self.status < 200:
            self._interim += 1
            if self._interim > INTERIM_CAP:
                raise Excess(f"more than {INTERIM_CAP} interim answers")
            self.headers = []
            return
        self._is_complete = True
        self._keeps_open = self._parser.should_keep_alive() and not self._facts.truncated

    # ---- ends -------------------------------------------------------------------------------------------------------
    def _finish(self, error: Exception | None) -> None:
        self._stop_clock()
        answer = self._answer
        if answer is None or answer.done():
            return
        if error is None:
            answer.set_result(None)
        else:
            answer.set_exception(error)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _finish_with_cause(self, error: Exception, cause: Exception) -> None:
        error.__cause__ = cause
        self._finish(error)

    def _fail_protocol(self, words: str) -> None:
        self._finish(httpx.RemoteProtocolError(words))
        self.abort()

    def _truncate(self) -> None:
        self._facts.truncated = True
        self._keeps_open = False
        self._finish(None)
        self.abort()

    def _expire(self) -> None:
        words = f"no answer within {self._timeouts.total:g} s"
        if self._wire_size:
            arrived = f"{self._facts.size} bytes of its body arrived"
            words = f"the answer was not complete within {self._timeouts.total:g} s: {arrived}"
        self._finish(httpx.ReadTimeout(words))
        self.abort()


def _ends_with_connection(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether an answer's body lasts until the connection ends (RFC 9112 section 6.3, rules 4 to 8)."""
    framing = {name.lower(): value.lower() for name, value in headers}
    if b"transfer-encoding" in framing:
        return not framing[b"transfer-encoding"].rstrip().endswith(b"chunked")
    return b"content-length" not in framing
