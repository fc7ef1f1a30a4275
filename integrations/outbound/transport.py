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
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import httpx

from integrations.outbound.addresses import check_port, literal, refuse_metadata, vet
from integrations.outbound.connection import Connection, IdleConnections, request_head
from integrations.outbound.error_texts import connect_words, slow_words, tls_words
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
from integrations.outbound.resolve import Lookups, Resolve, connected

ADDRESSES_TRIED = 4
CERTIFICATES_KEPT = 1024  # addresses, until somebody takes them


class PinnedTransport:
    """Sends requests, each only to addresses that were vetted for its service.

    Belongs to one event loop. ``resolve`` and ``ssl_context`` are there for tests.

    Raises addresses.Refused, ValueError (a request that can't be sent) and httpx's TransportErrors, of which
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
        self._lookups = Lookups(resolve)
        self._ssl_context = ssl_context
        self._idle = IdleConnections()
        self._busy: set[Connection] = set()
        self._certificates: dict[str, PeerCertificate] = {}
        self._is_closed = False

    def take_certificates(self) -> list[PeerCertificate]:
        """Those of new connections since it was last asked; the newest of each address."""
        taken, self._certificates = self._certificates, {}
        return list(taken.values())

    async def exchange(
        self, place: Destination, method: str, headers: RawHeaders, body: bytes, timeouts: Timeouts, facts: Measurements
    ) -> RawResponse:
        """One request and its answer, without httpx's objects around them: those cost 40 µs a call."""
        head, keeps_open = request_head(place, method, headers, len(body))
        connection = self._idle.take(place.key)
        if connection is None:
            connection = await self._open(place.key, timeouts, facts)
        else:
            facts.peer = connection.peer
        self._busy.add(connection)
        try:
            if self._is_closed:
                raise httpx.ReadError("the client was closed")
            await connection.exchange(head + body, method == "HEAD", timeouts, facts)
        except BaseException:  # a cancelled call too: its answer could come later and be taken for another's
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        chunks = connection.chunks
        answer = RawResponse(connection.status, connection.headers, chunks[0] if len(chunks) == 1 else b"".join(chunks))
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

    def _give_back(self, connection: Connection, keeps_open: bool) -> None:
        if keeps_open and not self._is_closed and connection.is_reusable():
            self._idle.put(connection)
        else:
            connection.close()

    # ---- a new connection -------------------------------------------------------------------------------------------
    async def _open(self, target: ConnectionKey, timeouts: Timeouts, facts: Measurements) -> Connection:
        """A connection to a vetted address of the target, within the connect timeout and the total one."""
        if self._is_closed:
            raise httpx.ConnectError("the client is closed")
        host, port = target.host, target.port
        total_end = facts.started + timeouts.total
        end = min(monotonic() + timeouts.connect, total_end)
        phase: type[httpx.ConnectTimeout] = ResolveTimeout
        refuse_metadata(host)
        try:
            async with asyncio.timeout(end - monotonic()):
                addresses = await self._addresses(host, port, facts)
                phase = httpx.ConnectTimeout
                addresses = vet(host, port, addresses, target.allowed, self._own_ports)
                sock = await self._dial(addresses[:ADDRESSES_TRIED], port, end, facts)
                phase = TLSTimeout if target.scheme == "https" else httpx.ConnectTimeout
                return await self._speak(sock, target, facts)
        except TimeoutError as error:
            if end == total_end:
                words = f"not connected within {timeouts.total:g} s, the time for the whole call"
                raise httpx.ReadTimeout(words) from error
            raise phase(slow_words(phase, host, facts.peer, timeouts)) from error

    async def _addresses(self, host: str, port: int, facts: Measurements) -> list[str]:
        check_port(port)
        if address := literal(host):
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

    async def _dial(self, addresses: Sequence[str], port: int, end: float, facts: Measurements) -> socket.socket:
        """A TCP connection to the first address that takes one; each gets a fair share of the time that is left."""
        started = monotonic()
        try:
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                facts.peer = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
                try:
                    async with asyncio.timeout((end - monotonic()) / left):
                        return await connected(address, port)
                except (OSError, TimeoutError) as error:  # TimeoutError is ours or the kernel's
                    if left == 1:
                        if isinstance(error, TimeoutError):
                            raise
                        raise httpx.ConnectError(connect_words(error, facts.peer)) from error
            raise AssertionError("no address to dial")  # vet never returns an empty list
        finally:
            facts.connect = monotonic() - started

    async def _speak(self, sock: socket.socket, target: ConnectionKey, facts: Measurements) -> Connection:
        """The protocol on a connected socket, after the TLS handshake where there is one. Owns the socket."""
        loop = asyncio.get_running_loop()
        connection = Connection(loop, target, facts.peer, self._idle)
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
            raise TLSError(tls_words(error)) from error
        finally:
            facts.tls = monotonic() - started
        self._note_certificate(target.address, secured.get_extra_info("peercert"))
        return connection

    def _note_certificate(self, address: str, shown: Any) -> None:
        if shown and len(self._certificates) < CERTIFICATES_KEPT:
            ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(shown["notAfter"]), UTC)
            self._certificates[address] = PeerCertificate(address, issuer(shown), ends_at)

    def _tls(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # Made once: reading the system's authorities takes 20 ms.
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context


# OpenSSL's verification results (X509_V_ERR_…), in an operator's words.
def issuer(shown: Any) -> str:
    names = {name: value for part in shown.get("issuer", ()) for name, value in part}
    return str(names.get("organizationName") or names.get("commonName") or "")
