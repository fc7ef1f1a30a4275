"""One request and its response: the values that the transport takes and returns, and the errors that it adds to
httpx's."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from time import monotonic
from typing import NamedTuple

import httpx

from integrations.outbound.addresses import Network
from integrations.outbound.outcome import Timings
from integrations.outbound.urls import DEFAULT_PORTS, parse_url

RawHeaders = list[tuple[bytes, bytes]]


class Timeouts(NamedTuple):
    """Time limits of one call in seconds: until the connection is ready, and for everything."""

    connect: float
    total: float


class Destination(NamedTuple):
    """Where a request goes: the connections that it may use, its Host header and its request target."""

    key: ConnectionKey
    host: bytes
    path: bytes  # with the query


@lru_cache(maxsize=1024)  # a service's messages mostly go to the same few URLs
def destination_of(url: str, allowed: tuple[Network, ...], service: str = "") -> Destination:
    """Return the destination of a URL. Raises ValueError with a reason for a URL that cannot be called."""
    parsed = parse_url(url)
    port = DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
    key = ConnectionKey(parsed.scheme, parsed.raw_host.decode("ascii"), port, allowed, service)
    return Destination(key, parsed.netloc, parsed.raw_path)


class ConnectionKey:
    """Calls with equal keys may share a connection: same service, scheme, host and port, and the same allow list.

    An address that was vetted for one allow list may be forbidden by another. And HTTP/1.1 cannot tell a second
    response to one request from the response to the next: a hostile server could give it to another service's call.
    The hash is computed once, because Python takes more than 1 µs to hash a network.
    """

    __slots__ = ("_hash", "_key", "allowed", "host", "port", "scheme")

    def __init__(self, scheme: str, host: str, port: int, allowed: tuple[Network, ...], service: str) -> None:
        self.scheme, self.host, self.port, self.allowed = scheme, host, port, allowed
        self._key = (scheme, host, port, allowed, service)
        self._hash = hash(self._key)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConnectionKey) and self._key == other._key


class RawResponse(NamedTuple):
    """A response whose body was read up to the cap and not decoded."""

    status: int
    headers: RawHeaders
    body: bytes


class PeerCertificate(NamedTuple):
    """The certificate that a server showed in a successful TLS handshake; ``address`` is ``host:port``."""

    address: str
    issuer: str
    ends_at: datetime


class Measurements:
    """Timings and sizes of one call. They stay available when the call fails."""

    __slots__ = ("connect", "dns", "first_byte", "peer", "size", "started", "tls", "truncated")

    def __init__(self) -> None:
        self.started = monotonic()
        self.dns: float | None = None
        self.connect: float | None = None
        self.tls: float | None = None
        self.first_byte: float | None = None
        self.peer = ""
        self.truncated = False
        self.size = 0

    def timings(self) -> Timings:
        return Timings(self.dns, self.connect, self.tls, self.first_byte, monotonic() - self.started)


class ResolveError(httpx.ConnectError):
    """The host name has no address."""


class ResolveTimeout(httpx.ConnectTimeout):
    """The resolver returned no address within the connect timeout."""


class TLSError(httpx.ConnectError):
    """The server could not prove its identity, or does not speak TLS."""


class TLSTimeout(httpx.ConnectTimeout):
    """The TLS handshake did not finish within the connect timeout."""
