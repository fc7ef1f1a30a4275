"""The values that a call carries through the transport, and the errors that it may raise."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from time import monotonic
from typing import NamedTuple

import httpx

from integrations.outbound import urls
from integrations.outbound.addresses import Network
from integrations.outbound.outcome import Timings

RawHeaders = list[tuple[bytes, bytes]]


class Timeouts(NamedTuple):
    """How long one call may take, in seconds: until its connection is ready, and in all."""

    connect: float
    total: float


class ConnectionKey:
    """What a connection may be shared by: calls to one scheme, host and port, of services that are allowed the same.

    Two services with different allow lists never share one: what was vetted for the first may be forbidden to the
    second. The hash is made once, because hashing a network takes Python more than a microsecond.
    """

    __slots__ = ("_hash", "_key", "allowed", "host", "port", "scheme")

    def __init__(self, scheme: str, host: str, port: int, allowed: tuple[Network, ...]) -> None:
        self.scheme, self.host, self.port, self.allowed = scheme, host, port, allowed
        self._key = (scheme, host, port, allowed)
        self._hash = hash(self._key)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ConnectionKey) and self._key == other._key


class Destination(NamedTuple):
    """Where a request goes: the connection it may use, and what stands in its first two lines."""

    key: ConnectionKey
    host: bytes
    path: bytes  # with the query


class RawResponse(NamedTuple):
    """An answer that has been read whole, undecoded."""

    status: int
    headers: RawHeaders
    body: bytes


class PeerCertificate(NamedTuple):
    """What the other side showed in a handshake that succeeded; ``address`` is ``host:port``."""

    address: str
    issuer: str
    ends_at: datetime


class Measurements:
    """What was measured of one call, also of one that failed."""

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
    """The name has no address."""


class ResolveTimeout(httpx.ConnectTimeout):
    """The name was not answered for within the connect timeout."""


class TLSError(httpx.ConnectError):
    """The other side could not prove who it is, or does not speak TLS."""


class TLSTimeout(httpx.ConnectTimeout):
    """The TLS handshake did not end within the connect timeout."""


@lru_cache(maxsize=1024)  # a service's messages mostly go to the same few addresses
def destination_of(url: str, allowed: tuple[Network, ...]) -> Destination:
    """Raises ValueError with words for an address that cannot be called."""
    parsed = urls.parse_url(url)
    port = urls.DEFAULT_PORTS[parsed.scheme] if parsed.port is None else parsed.port
    return Destination(
        ConnectionKey(parsed.scheme, parsed.raw_host.decode("ascii"), port, allowed), parsed.netloc, parsed.raw_path
    )


class Excess(Exception):
    """Raised inside the parser's callbacks to stop it."""
