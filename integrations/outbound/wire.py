"""The values that a call carries through the transport, and the errors that it may raise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import NamedTuple

import httpx

from integrations.outbound import addresses
from integrations.outbound.addresses import Network
from integrations.outbound.outcome import Timings

KEY = "switchboard"  # where a request's extensions hold its Options
FACTS_KEY = "switchboard.facts"  # where the request's and the response's extensions hold the Facts
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


def place_of(url: httpx.URL, allowed: tuple[Network, ...]) -> Place:
    """Raises httpx.UnsupportedProtocol."""
    port = url.port  # even 0, which the port check refuses
    if port is None and (port := addresses.DEFAULT_PORTS.get(url.scheme)) is None:
        raise httpx.UnsupportedProtocol("an address begins with http:// or https://")
    return Place(Target(url.scheme, url.raw_host.decode("ascii"), port, allowed), url.netloc, url.raw_path)


class Excess(Exception):
    """Raised inside the parser's callbacks to stop it."""
