"""One HTTP/1.1 connection, and the idle connections that wait for their next request."""

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

from integrations.outbound.error_texts import tls_error_text
from integrations.outbound.exchange import ConnectionKey, Destination, Measurements, RawHeaders, Timeouts, TLSError
from integrations.outbound.own_listeners import OwnListeners

READ_CAP = 1024 * 1024  # bytes of a response's body, as they arrive
HEAD_CAP = 64 * 1024  # bytes of header names and values, over all interim responses
HEADER_COUNT_CAP = 200
INTERIM_CAP = 100  # 1xx responses before the real one
IDLE_FOR = 4.0  # seconds; under the 5 s after which many servers (node, uvicorn) close an idle connection
OPEN_FOR = 60.0  # seconds; then a busy connection is replaced, so that a changed DNS record takes effect
IDLE_PER_KEY = 512  # as many as a pump may have in flight: with fewer, each burst would dial the rest again
IDLE_OVERALL = 1024


def request_head(destination: Destination, method: str, headers: RawHeaders, length: int) -> tuple[bytes, bool]:
    """Return the request's first bytes, and whether the connection may be used again.

    The framing is always ours: a Content-Length, never a Transfer-Encoding (RFC 9112 section 6). Raises
    httpx.LocalProtocolError.
    """
    if method == "CONNECT":
        raise httpx.LocalProtocolError("CONNECT opens a tunnel and is not a call: use another method")
    host, keeps_open = destination.host, True
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
        destination.path,
        host,
        b"keep-alive" if keeps_open else b"close",
        b"".join(lines),
    )
    if not SAFE_HEAD.fullmatch(head):
        raise httpx.LocalProtocolError("the method, the URL or a header contains characters that HTTP does not allow")
    return head, keeps_open


OWN_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"host"})
# One regular expression over everything that is sent before the body: a header cannot smuggle in a second one.
SAFE_HEAD = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\x00]*\r\n)+\r\n"
)


class IdleConnections:
    """Connections that wait for their next request. The last used one is taken first, so that the others expire.

    Every step is O(1): one dict holds the order of the connections of a key, another the order of all.
    """

    __slots__ = ("_all", "_by_key", "_sweep")

    def __init__(self) -> None:
        self._by_key: dict[ConnectionKey, dict[Connection, None]] = {}
        self._all: OrderedDict[Connection, None] = OrderedDict()  # oldest first
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def take(self, key: ConnectionKey) -> Connection | None:
        while waiting := self._by_key.get(key):
            connection = next(reversed(waiting))
            self.discard(connection)
            if monotonic() - connection.idle_since < IDLE_FOR and not connection.is_spoiled():
                return connection
            connection.close()
        return None

    def put(self, connection: Connection) -> None:
        waiting = self._by_key.setdefault(connection.key, {})
        connection.idle_since = monotonic()
        waiting[connection] = None
        self._all[connection] = None
        if len(waiting) > IDLE_PER_KEY:
            self._evict(next(iter(waiting)))
        elif len(self._all) > IDLE_OVERALL:
            self._evict(next(iter(self._all)))
        if self._sweep is None:
            self._sweep = connection.loop.call_later(IDLE_FOR, self._expire)

    def discard(self, connection: Connection) -> None:
        if connection in self._all:
            del self._all[connection]
            waiting = self._by_key[connection.key]
            del waiting[connection]
            if not waiting:
                del self._by_key[connection.key]

    def close(self) -> None:
        for connection in list(self._all):
            self.discard(connection)
            connection.abort()  # the loop may end before a TLS close has been sent
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _evict(self, connection: Connection) -> None:
        self.discard(connection)
        connection.close()

    def _expire(self) -> None:
        """Close the connections that have waited too long, and set the one timer for the next."""
        self._sweep = None
        now = monotonic()
        while self._all:
            oldest = next(iter(self._all))
            left = oldest.idle_since + IDLE_FOR - now
            if left > 0.001:  # some event loops count in milliseconds
                self._sweep = oldest.loop.call_later(left, self._expire)
                return
            self._evict(oldest)


class Connection(asyncio.Protocol):
    """One connection with at most one request at a time. httptools calls the ``on_`` methods."""

    __slots__ = (
        "_deadline",
        "_head_size",
        "_idle",
        "_interim",
        "_is_complete",
        "_is_head_complete",
        "_is_head_request",
        "_is_open",
        "_keeps_open",
        "_measured",
        "_opened",
        "_parser",
        "_poll",
        "_response",
        "_sent_at",
        "_timeouts",
        "_transport",
        "_wire_size",
        "chunks",
        "headers",
        "idle_since",
        "key",
        "loop",
        "own",
        "peer",
        "status",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        key: ConnectionKey,
        own: OwnListeners,
        peer: str,
        idle: IdleConnections,
    ) -> None:
        self.loop = loop
        self.key = key
        self.own = own  # what its address was vetted against
        self.peer = peer
        self.idle_since = 0.0
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self._idle = idle
        self._opened = monotonic()
        self._is_open = False
        self._response: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._poll = select.poll() if hasattr(select, "poll") else None  # not on Windows

    # ---- for the transport ------------------------------------------------------------------------------------------
    def exchange(
        self, request: bytes, is_head_request: bool, timeouts: Timeouts, measured: Measurements
    ) -> asyncio.Future[None]:
        """Write a request. The future is done when the response is in ``status``, ``headers`` and ``chunks``."""
        now = monotonic()
        self._response = response = self.loop.create_future()
        if not self._is_open:
            response.set_exception(httpx.ReadError("the connection was closed before the request was sent"))
            return response
        self.status, self.headers, self.chunks = 0, [], []
        self._measured, self._sent_at, self._timeouts = measured, now, timeouts
        self._head_size = self._wire_size = self._interim = 0
        self._is_head_complete = self._is_complete = False
        self._is_head_request, self._keeps_open = is_head_request, False
        self._deadline = self.loop.call_later(max(0.0, measured.started + timeouts.total - now), self._expire)
        self._transport.write(request)
        return response

    def is_reusable(self) -> bool:
        """Whether the response ended at its stated length, with nothing left to read or write."""
        return (
            self._keeps_open
            and self._is_open
            and not self._transport.is_closing()
            # Bytes left over: the server responded before it had read the whole request.
            and self._transport.get_write_buffer_size() == 0
            and monotonic() - self._opened < OPEN_FOR
        )

    def is_spoiled(self) -> bool:
        """Whether an idle connection has received its end, or bytes that belong to no request.

        Polls the socket, because a busy event loop may not have read it yet. One system call, about 1 µs.
        """
        if not self._is_open or self._transport.is_closing():
            return True
        return self._poll is not None and bool(self._poll.poll(0))

    def fail(self, error: Exception) -> None:
        if self._response is not None and not self._response.done():
            self._finish(error)

    def close(self) -> None:
        """Close, over TLS with its close alert. Drops the rest of a request that the server left unread."""
        if not self._is_open:
            return
        if self._transport.get_write_buffer_size():
            self._transport.abort()  # close() would wait until the server has read it, perhaps forever
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
        if self._response is None or self._response.done():
            self._keeps_open = False
            self._idle.discard(self)
            self.abort()
            return
        if not self._wire_size:
            self._measured.first_byte = monotonic() - self._sent_at
        self._wire_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keeps_open = False
            if not self._is_complete:
                self._fail_protocol(_parse_error_text(error))
                return
        if self._is_complete:
            self._finish(None)
        elif not self._is_head_complete:
            if self._wire_size > 2 * HEAD_CAP:  # the parser buffers a header without an end and does not count it
                self._fail_protocol(f"the response headers are larger than {HEAD_CAP // 1024} KiB")
        elif self._measured.truncated or self._wire_size > READ_CAP + 2 * HEAD_CAP:
            self._truncate()  # the second limit is for chunks of 1 byte: their framing is larger than they are

    def eof_received(self) -> None:
        """The server sends no more. This ends a response that states no length (RFC 9112 section 6.3)."""
        if self._response is None or self._response.done():
            return
        if not self._wire_size:
            self.fail(httpx.ReadError(f"{self.peer} closed the connection before it responded"))
        elif self._is_head_complete and self.status >= 200 and _ends_with_connection(self.headers):
            self._finish(None)
        elif self._is_head_complete and self.status >= 200:
            self._fail_protocol(f"the response is incomplete: {self._measured.size} bytes of its body arrived")
        else:
            self._fail_protocol("the response is incomplete: the server closed the connection within the headers")

    def connection_lost(self, error: Exception | None) -> None:
        if self._is_open:
            self._is_open = False
            self._idle.discard(self)
        if self._response is None or self._response.done():
            return
        if error is None:
            self.eof_received()
        elif isinstance(error, ssl.SSLError):
            # With TLS 1.3 a server rejects a client certificate only after the handshake.
            self._finish_with_cause(TLSError(tls_error_text(error)), error)
        else:
            when = "while it sent the response" if self._wire_size else "before it responded"
            self._finish_with_cause(httpx.ReadError(f"{self.peer} reset the connection {when}"), error)

    # ---- httptools --------------------------------------------------------------------------------------------------
    def on_message_begin(self) -> None:
        if self._is_complete:
            self._keeps_open = False  # a second response, without a request
        self._is_head_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_complete:
            return
        self._head_size += len(name) + len(value)
        if self._head_size > HEAD_CAP:
            raise _Rejected(f"the response headers are larger than {HEAD_CAP // 1024} KiB")
        if self._is_head_complete:
            return  # a trailer
        self.headers.append((name, value))
        if len(self.headers) > HEADER_COUNT_CAP:
            raise _Rejected(f"the response has more than {HEADER_COUNT_CAP} headers")

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        self.status = status = self._parser.get_status_code()
        self._is_head_complete = True
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise _Rejected("the response is not HTTP/1.1")
        if status < 100:
            raise _Rejected(f"the response has status {status:03}, which does not exist")
        if status == 101:
            raise _Rejected("the server switched to another protocol")
        if self._is_head_request and status >= 200:
            self._is_complete = True  # no body follows, whatever its length says; the parser cannot be told

    def on_body(self, body: bytes) -> None:
        if self._is_complete or self._measured.truncated:
            return
        room = READ_CAP - self._measured.size
        if len(body) > room:
            body = body[:room]
            self._measured.truncated = True
        self._measured.size += len(body)
        self.chunks.append(body)

    def on_message_complete(self) -> None:
        if self._is_complete:
            return
        if self.status < 200:
            self._interim += 1
            if self._interim > INTERIM_CAP:
                raise _Rejected(f"the server sent more than {INTERIM_CAP} interim responses")
            self.headers = []
            return
        self._is_complete = True
        self._keeps_open = self._parser.should_keep_alive() and not self._measured.truncated

    # ---- ends -------------------------------------------------------------------------------------------------------
    def _finish(self, error: Exception | None) -> None:
        self._stop_clock()
        response = self._response
        if response is None or response.done():
            return
        if error is None:
            response.set_result(None)
        else:
            response.set_exception(error)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _finish_with_cause(self, error: Exception, cause: Exception) -> None:
        error.__cause__ = cause
        self._finish(error)

    def _fail_protocol(self, reason: str) -> None:
        self._finish(httpx.RemoteProtocolError(reason))
        self.abort()

    def _truncate(self) -> None:
        self._measured.truncated = True
        self._keeps_open = False
        self._finish(None)
        self.abort()

    def _expire(self) -> None:
        reason = f"no response within {self._timeouts.total:g} s"
        if self._wire_size:
            arrived = f"{self._measured.size} bytes of its body arrived"
            reason = f"the response was not complete within {self._timeouts.total:g} s: {arrived}"
        self._finish(httpx.ReadTimeout(reason))
        self.abort()


class _Rejected(Exception):
    """Raised in a callback of the parser to stop it. Its text becomes the error of the call."""


def _parse_error_text(error: Exception) -> str:
    if isinstance(error, httptools.HttpParserUpgrade):
        return "the server switched to another protocol"
    if isinstance(error.__context__, _Rejected):
        return str(error.__context__)
    return f"the response is not valid HTTP/1.1: {error}"


def _ends_with_connection(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a response's body lasts until the connection ends (RFC 9112 section 6.3, rules 4 to 8)."""
    framing = {name.lower(): value.lower() for name, value in headers}
    if b"transfer-encoding" in framing:
        return not framing[b"transfer-encoding"].rstrip().endswith(b"chunked")
    return b"content-length" not in framing
