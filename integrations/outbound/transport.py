"""HTTP/1.1 over asyncio: send a request to exactly the address that was vetted.

::

    exchange
        reuse an idle connection with the same key, or
        resolve -> vet -> dial -> TLS handshake   within the connect timeout
        write the request, read the response      within the total timeout
        keep the connection, or close it

Reasons for a transport of our own (docs/decisions/0001-transport.md): CPU, as httpx's own takes 3.6 ms per POST with 50
in flight; one deadline for the whole call, where httpx's timeouts are per read; caps on headers and body while they
arrive; and nothing is sent twice. A connection that fails after the request was written is reported, because only the
caller can count the attempt.

httptools parses the bytes, httpx provides URLs and exceptions, RFC 9112 the framing. The transport follows no redirect
and reads no proxy from the environment.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import httpx

from integrations.outbound.addresses import Refused, check_port, literal, refuse_metadata, vet
from integrations.outbound.connection import Connection, IdleConnections, request_head
from integrations.outbound.error_texts import connect_error_text, connect_timeout_text, tls_error_text
from integrations.outbound.exchange import (
    ConnectionKey,
    Destination,
    Measurements,
    PeerCertificate,
    RawHeaders,
    RawResponse,
    ResolveError,
    ResolveTimeout,
    Timeouts,
    TLSError,
    TLSTimeout,
)
from integrations.outbound.own_listeners import NONE, OwnListeners
from integrations.outbound.resolve import Lookups, Resolve

ADDRESSES_TRIED = 4
CERTIFICATES_KEPT = 1024  # addresses, until the next take_certificates


class PinnedTransport:
    """Send requests, each only to addresses that were vetted for its service.

    Belongs to one event loop. ``own_listeners`` returns what no call may go to; it is asked before each call and must
    not wait. ``resolve`` and ``ssl_context`` are for tests.
    """

    def __init__(
        self,
        *,
        own_listeners: Callable[[], OwnListeners] = lambda: NONE,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._own_listeners = own_listeners
        self._lookups = Lookups(resolve)
        self._ssl_context = ssl_context
        self._idle = IdleConnections()
        self._busy: set[Connection] = set()
        self._certificates: dict[str, PeerCertificate] = {}
        self._is_closed = False

    async def exchange(
        self,
        destination: Destination,
        method: str,
        headers: RawHeaders,
        body: bytes,
        timeouts: Timeouts,
        measured: Measurements,
    ) -> RawResponse:
        """Send one request and return its response, without httpx's objects around them: those cost 40 µs per call.

        Raises addresses.Refused, ValueError for a request that cannot be sent, and httpx's TransportErrors, among them
        ResolveError, ResolveTimeout, TLSError and TLSTimeout.
        """
        head, keeps_open = request_head(destination, method, headers, len(body))
        own = self._own_listeners()
        connection = self._idle.take(destination.key)
        while connection is not None and connection.own is not own:  # a listener came since its address was vetted
            connection.close()
            connection = self._idle.take(destination.key)
        if connection is None:
            connection = await self._open(destination.key, own, timeouts, measured)
        else:
            measured.peer = connection.peer
        self._busy.add(connection)
        try:
            if self._is_closed:
                raise httpx.ReadError("the client was closed")
            await connection.exchange(head + body, method == "HEAD", timeouts, measured)
        except BaseException:  # also a cancelled call: its late response could be taken for that of another request
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        chunks = connection.chunks
        content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        response = RawResponse(connection.status, connection.headers, content)
        self._give_back(connection, keeps_open)
        return response

    def take_certificates(self) -> list[PeerCertificate]:
        """Return the certificates of connections opened since the last call, the newest for each address."""
        taken, self._certificates = self._certificates, {}
        return list(taken.values())

    async def aclose(self) -> None:
        """Close every connection. Calls in flight end with an error."""
        self._is_closed = True
        self._idle.close()
        for connection in list(self._busy):
            connection.fail(httpx.ReadError("the client was closed"))
            connection.abort()
        self._lookups.close()
        await asyncio.sleep(0)  # asyncio reports the end of a connection in the next turn of the loop

    @property
    def idle_count(self) -> int:
        return len(self._idle)

    def _give_back(self, connection: Connection, keeps_open: bool) -> None:
        if keeps_open and not self._is_closed and connection.is_reusable():
            self._idle.put(connection)
        else:
            connection.close()

    # ---- a new connection -------------------------------------------------------------------------------------------
    async def _open(
        self, key: ConnectionKey, own: OwnListeners, timeouts: Timeouts, measured: Measurements
    ) -> Connection:
        """Connect to a vetted address of the host, within the connect timeout and the total timeout."""
        if self._is_closed:
            raise httpx.ConnectError("the client is closed")
        total_end = measured.started + timeouts.total
        end = min(monotonic() + timeouts.connect, total_end)
        phase: type[httpx.ConnectTimeout] = ResolveTimeout
        refuse_metadata(key.host)
        try:
            async with asyncio.timeout(end - monotonic()):
                addresses = await self._resolved(key.host, key.port, measured)
                phase = httpx.ConnectTimeout
                addresses = vet(key.host, addresses, key.allowed)
                if reason := own.refusal(key.host, key.port, addresses):
                    raise Refused(reason)
                sock = await _dial(addresses[:ADDRESSES_TRIED], key.port, end, measured)
                phase = TLSTimeout if key.scheme == "https" else httpx.ConnectTimeout
                return await self._start(sock, key, own, measured)
        except TimeoutError as error:
            if end == total_end:
                reason = f"no connection within {timeouts.total:g} s, the timeout of the whole call"
                raise httpx.ReadTimeout(reason) from error
            raise phase(connect_timeout_text(phase, key.host, measured.peer, timeouts)) from error

    async def _resolved(self, host: str, port: int, measured: Measurements) -> list[str]:
        check_port(port)
        if address := literal(host):
            return [address]
        started = monotonic()
        try:
            addresses = await self._lookups.addresses_of(host, port)
        except OSError as error:
            raise ResolveError(f"{host} has no address ({(error.strerror or 'lookup failed').lower()})") from error
        finally:
            measured.dns = monotonic() - started
        if not addresses:
            raise ResolveError(f"{host} has no address")
        return addresses

    async def _start(
        self, sock: socket.socket, key: ConnectionKey, own: OwnListeners, measured: Measurements
    ) -> Connection:
        """Start the protocol on a connected socket, for https after a TLS handshake. Takes over the socket."""
        loop = asyncio.get_running_loop()
        connection = Connection(loop, key, own, measured.peer, self._idle)
        if key.scheme != "https":
            await loop.create_connection(lambda: connection, sock=sock)
            return connection
        started = monotonic()
        try:
            secured, _ = await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._tls(),
                server_hostname=key.host.removesuffix("."),  # certificates and SNI have no trailing dot
                ssl_shutdown_timeout=1.0,  # a server that never sends its close must not hold the descriptor for 30 s
            )
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:  # ssl.SSLError and CertificateError are OSErrors
            raise TLSError(tls_error_text(error)) from error
        finally:
            measured.tls = monotonic() - started
        self._note_certificate(key.address, secured.get_extra_info("peercert"))
        return connection

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # Once for each transport: reading the system's authorities takes 20 ms.
            self._ssl_context = ssl.create_default_context()
            # RFC 9525: the name is in subjectAltName. An authority need not have checked the common name.
            self._ssl_context.hostname_checks_common_name = False
        return self._ssl_context

    def _note_certificate(self, address: str, shown: Any) -> None:
        if shown and len(self._certificates) < CERTIFICATES_KEPT:
            ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            self._certificates[address] = PeerCertificate(address, _issuer(shown), ends_at)


async def _dial(addresses: Sequence[str], port: int, end: float, measured: Measurements) -> socket.socket:
    """Connect to the first address that accepts; each gets an equal share of the time that is left until ``end``."""
    started = monotonic()
    try:
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            measured.peer = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            try:
                async with asyncio.timeout((end - monotonic()) / left):
                    return await _connect(address, port)
            except (OSError, TimeoutError) as error:  # TimeoutError is ours or the kernel's
                if left == 1:
                    if isinstance(error, TimeoutError):
                        raise
                    raise httpx.ConnectError(connect_error_text(error, measured.peer)) from error
        raise AssertionError("no address to dial")  # vet never returns an empty list
    finally:
        measured.connect = monotonic() - started


async def _connect(address: str, port: int) -> socket.socket:
    """Open a TCP connection to exactly this address."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _issuer(shown: Any) -> str:
    names = {name: value for part in shown.get("issuer", ()) for name, value in part}
    return str(names.get("organizationName") or names.get("commonName") or "")
