"""The wire: HTTP/1.1 over asyncio, dialling exactly the address that was checked.

::

    exchange
        reuse a waiting connection of the same target, or
        look up -> vet -> dial -> TLS            within the connect timeout
        write the request, read the answer       within the total timeout
        keep the connection, or close it

httpx stays the interface (Request in, Response out, its exceptions) and httptools reads the bytes. httpx's own
transport costs 3.6 ms of CPU per POST with 50 in flight, its timeouts are per read, and it can't be told which address
to dial.

The framing is RFC 9112. Nothing is sent twice: a connection that fails after the request was written is reported,
because only the caller can count the attempt. Redirects and the environment's proxies don't exist here.
"""

from __future__ import annotations

import asyncio
import errno
import re
import select
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, NamedTuple, cast

import httptools
import httpx

from integrations import network
from integrations.network import Network
from integrations.outcome import Timings

HEAD_CAP = 64 * 1024  # bytes of header names and values, over all interim answers
HEADER_COUNT_CAP = 200
INTERIM_CAP = 100  # 1xx answers before the real one
IDLE_FOR = 4.0  # seconds; under the 5 s after which many servers (node, uvicorn) close an idle connection
OPEN_FOR = 60.0  # seconds; a busy connection is dialled anew, so that a changed DNS record is followed
IDLE_PER_TARGET = 512  # as many as a pump may have in flight, or a burst would dial them anew each time
IDLE_OVERALL = 1024
ADDRESSES_TRIED = 4
CERTIFICATES_KEPT = 1024  # addresses, until somebody takes them
LOOKUPS_AT_ONCE = 16  # threads; a dead resolver holds one per name, see _Lookups

KEY = "switchboard"  # where a request's extensions hold its Options
FACTS_KEY = "switchboard.facts"  # where the request's and the response's extensions hold the Facts

# One regular expression over everything that is sent before the body: a header can't smuggle a second one.
SAFE_HEAD = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.1\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\r\n\x00]*\r\n)+\r\n"
)
OWN_HEADERS = frozenset({b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"host"})

Resolve = Callable[[str, int], Awaitable[list[str]]]
RawHeaders = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Options:
    """What one call may take. Times in seconds; ``read_cap`` is bytes of the answer's body, as they come."""

    connect_timeout: float = 5.0
    total_timeout: float = 30.0
    read_cap: int = 1024 * 1024
    allowed: tuple[Network, ...] = ()


DEFAULT_OPTIONS = Options()


class Target:
    """What a connection may be shared by: calls to one scheme, host and port, of services that are allowed the same.

    Two services with different allow lists never share one: what was vetted for the first may be forbidden to the
    second. The hash is made once, because hashing a network takes Python more than a microsecond.
    """

    __slots__ = ("_hash", "_key", "host", "port", "scheme")

    def __init__(self, scheme: str, host: str, port: int, allowed: tuple[Network, ...]) -> None:
        self.scheme, self.host, self.port = scheme, host, port
        self._key = (scheme, host, port, allowed)
        self._hash = hash(self._key)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self._key == other._key


class Place(NamedTuple):
    """Where a request goes: the connection it may use, and what stands in its first two lines."""

    target: Target
    host: bytes
    path: bytes  # with the query


class Answer(NamedTuple):
    """An answer that has been read whole, undecoded."""

    status: int
    headers: RawHeaders
    body: bytes


class Certificate(NamedTuple):
    """What the other side showed in a handshake that succeeded; ``address`` is ``host:port``."""

    address: str
    issuer: str
    ends_at: datetime


class Facts:
    """What was measured of one call. Stands in the request's extensions, also after a failure."""

    __slots__ = ("connect", "dns", "first_byte", "is_reused", "peer", "size", "started", "tls", "truncated")

    def __init__(self) -> None:
        self.started = monotonic()
        self.dns: float | None = None
        self.connect: float | None = None
        self.tls: float | None = None
        self.first_byte: float | None = None
        self.peer = ""
        self.is_reused = False
        self.truncated = False
        self.size = 0

    def timings(self) -> Timings:
        return Timings(self.dns, self.connect, self.tls, self.first_byte, monotonic() - self.started)


class ResolveError(httpx.ConnectError):
    """The name has no address."""


class ResolveTimeout(httpx.ConnectTimeout):
    """The name was not answered for within the connect timeout."""


class TLSError(httpx.ConnectError):
    """The other side could not prove who it is, or does not speak TLS."""


class TLSTimeout(httpx.ConnectTimeout):
    """The TLS handshake did not end within the connect timeout."""


class Body(httpx.AsyncByteStream):
    """A body that has been read whole, undecoded. ``httpx.Response(content=…)`` would unpack gzip without a limit."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.raw


class PinnedTransport(httpx.AsyncBaseTransport):
    """Sends requests, each only to addresses that were vetted for its service.

    Belongs to one event loop. ``resolve`` and ``ssl_context`` are there for tests. A request's ``Options`` stand in
    ``request.extensions["switchboard"]``; the extensions of the response, and of the request after a failure, hold
    its ``Facts`` as ``switchboard.facts``.

    Raises network.Refused, ValueError (a request that can't be sent) and httpx's TransportErrors, of which
    ResolveError, ResolveTimeout, TLSError and TLSTimeout are told apart here.
    """

    def __init__(
        self,
        *,
        own_ports: frozenset[int] = frozenset(),
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._own_ports = own_ports
        self._lookups = _Lookups(resolve)
        self._ssl_context = ssl_context
        self._idle = _IdleConnections()
        self._busy: set[_Connection] = set()
        self._certificates: dict[str, Certificate] = {}
        self._is_closed = False

    def take_certificates(self) -> list[Certificate]:
        """Those of new connections since it was last asked; the newest of each address."""
        taken, self._certificates = self._certificates, {}
        return list(taken.values())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        facts = Facts()
        options: Options = request.extensions.get(KEY, DEFAULT_OPTIONS)
        request.extensions[FACTS_KEY] = facts
        body = request.stream.raw if isinstance(request.stream, Body) else await request.aread()
        place = place_of(request.url, options.allowed)
        answer = await self.exchange(place, request.method, request.headers.raw, body, options, facts)
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=Body(answer.body),
            extensions={FACTS_KEY: facts},
            request=request,
        )

    async def exchange(
        self, place: Place, method: str, headers: RawHeaders, body: bytes, options: Options, facts: Facts
    ) -> Answer:
        """One request and its answer, without httpx's objects around them: those cost 40 µs a call."""
        head, keeps_open = _head(place, method, headers, len(body))
        connection = self._idle.take(place.target)
        if connection is None:
            connection = await self._open(place.target, options, facts)
        else:
            facts.peer, facts.is_reused = connection.peer, True
        self._busy.add(connection)
        try:
            if self._is_closed:
                raise httpx.ReadError("the client was closed")
            await connection.exchange(head + body, method == "HEAD", options, facts)
        except BaseException:  # a cancelled call too: its answer could come later and be taken for another's
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        chunks = connection.chunks
        answer = Answer(connection.status, connection.headers, chunks[0] if len(chunks) == 1 else b"".join(chunks))
        self._give_back(connection, keeps_open)
        return answer

    async def aclose(self) -> None:
        """Closes every connection; calls in flight end with an error."""
        self._is_closed = True
        self._idle.close()
        for connection in list(self._busy):
            connection.fail(httpx.ReadError("the client was closed"))
            connection.abort()
        self._lookups.close()
        await asyncio.sleep(0)  # connections tell of their end one turn of the loop later

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    def _give_back(self, connection: _Connection, keeps_open: bool) -> None:
        if keeps_open and not self._is_closed and connection.is_reusable():
            self._idle.put(connection)
        else:
            connection.close()

    # ---- a new connection -------------------------------------------------------------------------------------------
    async def _open(self, target: Target, options: Options, facts: Facts) -> _Connection:
        """A connection to a vetted address of the target, within the connect timeout and the total one."""
        if self._is_closed:
            raise httpx.ConnectError("the client is closed")
        host, port = target.host, target.port
        total_end = facts.started + options.total_timeout
        end = min(monotonic() + options.connect_timeout, total_end)
        phase: type[httpx.ConnectTimeout] = ResolveTimeout
        network.refuse_metadata(host)
        try:
            async with asyncio.timeout(end - monotonic()):
                addresses = await self._addresses(host, port, facts)
                phase = httpx.ConnectTimeout
                addresses = network.vet(host, port, addresses, options.allowed, self._own_ports)
                sock = await self._dial(addresses[:ADDRESSES_TRIED], port, end, facts)
                phase = TLSTimeout if target.scheme == "https" else httpx.ConnectTimeout
                return await self._speak(sock, target, facts)
        except TimeoutError as error:
            if end == total_end:
                words = f"not connected within {options.total_timeout:g} s, the time for the whole call"
                raise httpx.ReadTimeout(words) from error
            raise phase(_slow_words(phase, host, facts.peer, options)) from error

    async def _addresses(self, host: str, port: int, facts: Facts) -> list[str]:
        network.check_port(port)
        if address := network.literal(host):
            return [address]
        started = monotonic()
        try:
            addresses = await self._lookups.of(host, port)
        except OSError as error:
            raise ResolveError(f"{host} has no address ({(error.strerror or 'lookup failed').lower()})") from error
        finally:
            facts.dns = monotonic() - started
        if not addresses:
            raise ResolveError(f"{host} has no address")
        return addresses

    async def _dial(self, addresses: Sequence[str], port: int, end: float, facts: Facts) -> socket.socket:
        """A TCP connection to the first address that takes one; each gets a fair share of the time that is left."""
        started = monotonic()
        try:
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                facts.peer = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                try:
                    async with asyncio.timeout((end - monotonic()) / left):
                        return await _connected(address, port)
                except (OSError, TimeoutError) as error:  # TimeoutError is ours or the kernel's
                    if left == 1:
                        if isinstance(error, TimeoutError):
                            raise
                        raise httpx.ConnectError(_connect_words(error, facts.peer)) from error
            raise AssertionError("no address to dial")  # vet never returns an empty list
        finally:
            facts.connect = monotonic() - started

    async def _speak(self, sock: socket.socket, target: Target, facts: Facts) -> _Connection:
        """The protocol on a connected socket, after the TLS handshake where there is one. Owns the socket."""
        loop = asyncio.get_running_loop()
        connection = _Connection(loop, target, facts.peer, self._idle)
        if target.scheme != "https":
            await loop.create_connection(lambda: connection, sock=sock)
            return connection
        started = monotonic()
        try:
            secured, _ = await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._tls(),
                server_hostname=target.host.removesuffix("."),  # certificates and SNI know no trailing dot
                ssl_shutdown_timeout=1.0,  # a peer that never says goodbye must not hold the descriptor for 30 s
            )
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:  # ssl.SSLError and CertificateError are OSErrors
            raise TLSError(_tls_words(error)) from error
        finally:
            facts.tls = monotonic() - started
        self._note_certificate(target.address, secured.get_extra_info("peercert"))
        return connection

    def _note_certificate(self, address: str, shown: Any) -> None:
        if shown and len(self._certificates) < CERTIFICATES_KEPT:
            ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            self._certificates[address] = Certificate(address, _issuer(shown), ends_at)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # Made once: reading the system's authorities takes 20 ms.
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context


def place_of(url: httpx.URL, allowed: tuple[Network, ...]) -> Place:
    """Raises httpx.UnsupportedProtocol."""
    port = url.port  # even 0, which the port check refuses
    if port is None and (port := network.DEFAULT_PORTS.get(url.scheme)) is None:
        raise httpx.UnsupportedProtocol("an address begins with http:// or https://")
    return Place(Target(url.scheme, url.raw_host.decode("ascii"), port, allowed), url.netloc, url.raw_path)


def _head(place: Place, method: str, headers: RawHeaders, length: int) -> tuple[bytes, bool]:
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


async def _connected(address: str, port: int) -> socket.socket:
    """A TCP connection to exactly this address."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class _Lookups:
    """Names to addresses, off the loop and in threads of its own.

    The loop's shared threads would be starved by one dead resolver, and with them the database. For the same reason
    callers of one name share one lookup: a name that never answers holds one thread, not one for each message.
    """

    def __init__(self, resolve: Resolve | None) -> None:
        self._resolve = resolve
        self._threads: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._running: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def of(self, host: str, port: int) -> list[str]:
        key = (host, port)
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.get_running_loop().create_task(self._look_up(host, port))
            running.add_done_callback(lambda done: self._ended(key, done))
        try:
            return await asyncio.shield(running)  # one caller's deadline is not the others'
        except asyncio.CancelledError:
            if self._is_closed:
                raise ResolveError("the client was closed") from None
            raise

    async def _look_up(self, host: str, port: int) -> list[str]:
        if self._resolve is not None:
            return await self._resolve(host, port)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="dns")
        return await network.resolve(host, port, self._threads)

    def _ended(self, key: tuple[str, int], done: asyncio.Task[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # looked at, so that asyncio doesn't complain when every caller has gone

    def close(self) -> None:
        self._is_closed = True
        for running in self._running.values():
            running.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


class _IdleConnections:
    """Connections that wait for their next request; the one used last goes first, so that the others can expire.

    Every step is O(1): a dict keeps the order of a target's connections, another the order of all.
    """

    __slots__ = ("_all", "_by_target", "_sweep")

    def __init__(self) -> None:
        self._by_target: dict[Target, dict[_Connection, None]] = {}
        self._all: OrderedDict[_Connection, None] = OrderedDict()  # oldest first
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def take(self, target: Target) -> _Connection | None:
        while waiting := self._by_target.get(target):
            connection = next(reversed(waiting))
            self.discard(connection)
            if monotonic() - connection.idle_since < IDLE_FOR and not connection.is_spoiled():
                return connection
            connection.close()
        return None

    def put(self, connection: _Connection) -> None:
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

    def discard(self, connection: _Connection) -> None:
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

    def _evict(self, connection: _Connection) -> None:
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


class _Connection(asyncio.Protocol):
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
        "_options",
        "_parser",
        "_poll",
        "_sent_at",
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

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Target, peer: str, idle: _IdleConnections) -> None:
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
    def exchange(self, sent: bytes, is_head_request: bool, options: Options, facts: Facts) -> asyncio.Future[None]:
        """Writes a request. The future is done when the answer is in ``status``, ``headers`` and ``chunks``."""
        now = monotonic()
        self._answer = answer = self.loop.create_future()
        if not self._is_open:
            answer.set_exception(httpx.ReadError("the connection was closed before the request was sent"))
            return answer
        self.status, self.headers, self.chunks = 0, [], []
        self._facts, self._sent_at, self._options = facts, now, options
        self._head_size = self._wire_size = self._interim = 0
        self._is_head_complete = self._is_complete = self._began = False
        self._is_head_request, self._keeps_open = is_head_request, False
        self._deadline = self.loop.call_later(max(0.0, facts.started + options.total_timeout - now), self._expire)
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
                self._fail_protocol(_words(error))
                return
        if self._is_complete:
            self._finish(None)
        elif not self._is_head_complete:
            if self._wire_size > 2 * HEAD_CAP:  # one header without an end is buffered by the parser, uncounted
                self._fail_protocol(f"the answer's headers are larger than {HEAD_CAP // 1024} KiB")
        elif self._facts.truncated or self._wire_size > self._options.read_cap + 2 * HEAD_CAP:
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
            self._finish_with_cause(TLSError(_tls_words(error)), error)
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
            raise _Excess(f"the answer's headers are larger than {HEAD_CAP // 1024} KiB")
        if self._is_head_complete:
            return  # a trailer
        self.headers.append((name, value))
        if len(self.headers) > HEADER_COUNT_CAP:
            raise _Excess(f"the answer has more than {HEADER_COUNT_CAP} headers")

    def on_headers_complete(self) -> None:
        if self._is_complete:
            return
        self.status = status = self._parser.get_status_code()
        self._is_head_complete = True
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            raise _Excess("the answer is not HTTP/1.1")
        if status < 100:
            raise _Excess(f"the answer's status {status:03} does not exist")
        if status == 101:
            raise _Excess("the other side switched to another protocol")
        if self._is_head_request and status >= 200:
            self._is_complete = True  # whatever length it states, no body follows; the parser can't be told

    def on_body(self, body: bytes) -> None:
        if self._is_complete or self._facts.truncated:
            return
        room = self._options.read_cap - self._facts.size
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
                raise _Excess(f"more than {INTERIM_CAP} interim answers")
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
        words = f"no answer within {self._options.total_timeout:g} s"
        if self._wire_size:
            arrived = f"{self._facts.size} bytes of its body arrived"
            words = f"the answer was not complete within {self._options.total_timeout:g} s: {arrived}"
        self._finish(httpx.ReadTimeout(words))
        self.abort()


class _Excess(Exception):
    """Raised inside the parser's callbacks to stop it."""


# OpenSSL's verification results (X509_V_ERR_…), in an operator's words.
def _issuer(shown: Any) -> str:
    names = {name: value for part in shown.get("issuer", ()) for name, value in part}
    return str(names.get("organizationName") or names.get("commonName") or "")


CERTIFICATE_WORDS = {
    9: "the certificate is not valid yet",
    10: "the certificate has expired",
    18: "the certificate is self-signed",
    19: "the certificate is from an authority that is not known here",
    20: "the certificate is from an authority that is not known here",
    21: "the certificate is from an authority that is not known here",
    23: "the certificate was revoked",
    62: "the certificate is for another host name",
    64: "the certificate is for another address",
}
TLS_WORDS = {
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS on this port",
    "HTTP_REQUEST": "the other side does not speak TLS on this port",
    "PACKET_LENGTH_TOO_LONG": "the other side does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the other side does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the other side only speaks an old version of TLS",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side only speaks another version of TLS",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side asks for a client certificate",
}


def _tls_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE_WORDS.get(error.verify_code, f"the certificate is not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ").lower()
        return TLS_WORDS.get(error.reason, f"the TLS handshake failed: {reason}")
    return "the other side closed the connection during the TLS handshake"


def _connect_words(error: OSError, peer: str) -> str:
    match error.errno:
        case errno.ECONNREFUSED:
            return f"connection refused by {peer}"
        case errno.EMFILE | errno.ENFILE:
            return "this machine has no file descriptor left for a connection"
        case _:
            return f"{(error.strerror or 'connection failed').lower()}: {peer}"


def _slow_words(phase: type[httpx.ConnectTimeout], host: str, peer: str, options: Options) -> str:
    limit = f"within {options.connect_timeout:g} s"
    if phase is ResolveTimeout:
        return f"{host} was not resolved {limit}"
    if phase is TLSTimeout:
        return f"no TLS handshake with {peer} {limit}"
    return f"no connection to {peer} {limit}"


def _words(error: Exception) -> str:
    if isinstance(error, httptools.HttpParserUpgrade):
        return "the other side switched to another protocol"
    if isinstance(error.__context__, _Excess):
        return str(error.__context__)
    return f"the answer is not valid HTTP/1.1: {error}"


def _ends_with_connection(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether an answer's body lasts until the connection ends (RFC 9112 section 6.3, rules 4 to 8)."""
    framing = {name.lower(): value.lower() for name, value in headers}
    if b"transfer-encoding" in framing:
        return not framing[b"transfer-encoding"].rstrip().endswith(b"chunked")
    return b"content-length" not in framing
