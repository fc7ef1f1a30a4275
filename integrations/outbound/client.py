"""Make one call to an upstream: a ``Call`` in, an ``Outcome`` out.

``Client.send`` raises nothing that the network, the upstream or the call's own fields can cause. ``FAULTS`` is the one
table from exceptions to fault words. ``addresses`` decides where a call may go, ``transport`` sends it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import httpx

from integrations.outbound.addresses import Network, Refused
from integrations.outbound.connection import READ_CAP
from integrations.outbound.exchange import (
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
    destination_of,
)
from integrations.outbound.headers import TOKEN, header_refusal
from integrations.outbound.outcome import Fault, Outcome
from integrations.outbound.own_listeners import NONE, OwnListeners
from integrations.outbound.transport import PinnedTransport
from integrations.outbound.urls import parse_url

TIMEOUT_LIMIT = 3_600.0  # seconds
DETAIL_LIMIT = 300  # characters
HEADERS_KEPT, HEADERS_KEPT_SIZE = 100, 16 * 1024  # of a response: their number, and their characters in all
log = logging.getLogger("switchboard.client")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Timeouts in seconds: until the request can be written, and for everything."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    connect_timeout: float = 5.0
    total_timeout: float = 30.0
    keep: int = 65_536  # bytes of the response's body in the outcome
    allowed: tuple[Network, ...] = ()
    service: str = ""  # calls of other services go over other connections


class Client:
    """Make calls, many at once, over connections that stay open between them. Belongs to one event loop.

    A test may pass another ``transport``, such as httpx.MockTransport. Only the default one checks where requests go.
    """

    def __init__(
        self,
        transport: PinnedTransport | httpx.AsyncBaseTransport | None = None,
        own_listeners: Callable[[], OwnListeners] = lambda: NONE,
    ) -> None:
        self._transport = transport or PinnedTransport(own_listeners=own_listeners)

    async def send(self, call: Call) -> Outcome:
        """Make one call. Raises nothing but asyncio.CancelledError."""
        measured, transport = Measurements(), self._transport
        try:
            destination, headers = _checked(call)
        except Exception as error:
            return Outcome(Fault.CONFIG, None, _build_error_text(error), measured.timings())
        try:
            if isinstance(transport, PinnedTransport):
                timeouts = Timeouts(call.connect_timeout, call.total_timeout)
                method = call.method.upper()
                response = await transport.exchange(destination, method, headers, call.body, timeouts, measured)
            else:
                response = await _send_through(transport, call, headers, measured)
        except Exception as error:
            return _failed(error, measured, call)
        return _responded(response, measured, call)

    def take_certificates(self) -> list[PeerCertificate]:
        """Return the certificates that servers have shown since the last call."""
        return self._transport.take_certificates() if isinstance(self._transport, PinnedTransport) else []

    async def aclose(self) -> None:
        await self._transport.aclose()


def _checked(call: Call) -> tuple[Destination, RawHeaders]:
    """Raises ValueError with a reason for the operator, and other errors for fields of a wrong type."""
    for timeout in (call.connect_timeout, call.total_timeout):
        if not 0 < timeout <= TIMEOUT_LIMIT:
            raise ValueError(f"a timeout must be above 0 s and at most {TIMEOUT_LIMIT:g} s")
    if not TOKEN.fullmatch(call.method) or call.method.upper() == "CONNECT":
        raise ValueError("this is not a method that a call can have")
    if not isinstance(call.body, bytes):
        raise TypeError  # asyncio would only notice while it writes
    destination = destination_of(call.url, call.allowed, call.service)
    names = set()
    headers = []
    for name, value in call.headers:
        if reason := header_refusal(name, value, own=True):
            raise ValueError(reason)
        names.add(name.lower())
        headers.append((name.encode("ascii"), value.encode("latin-1")))
    if "accept-encoding" not in names:
        headers.append((b"Accept-Encoding", b"identity"))  # 218 bytes of gzip can be 30 MB
    if "user-agent" not in names:
        headers.append((b"User-Agent", b"Switchboard"))
    return destination, headers


def _build_error_text(error: Exception) -> str:
    """Use only our own texts: those of other errors could repeat a secret in a header."""
    if type(error) is ValueError:
        return _line(str(error))
    return f"the request cannot be built ({type(error).__name__})"


async def _send_through(
    transport: httpx.AsyncBaseTransport, call: Call, headers: RawHeaders, measured: Measurements
) -> RawResponse:
    """Hold a transport of httpx to the promises of ours: total timeout, read cap, bytes not decoded, same framing."""
    url = parse_url(call.url)
    framing = [(b"Host", url.netloc)]
    if call.body or call.method.upper() in ("POST", "PUT", "PATCH"):  # RFC 9110 section 8.6
        framing.append((b"Content-Length", b"%d" % len(call.body)))
    # With ``stream`` httpx adds no header of its own.
    request = httpx.Request(call.method, url, headers=framing + headers, stream=httpx.ByteStream(call.body))
    chunks = []
    async with asyncio.timeout(call.total_timeout):
        response = await transport.handle_async_request(request)
        try:
            async for chunk in cast(httpx.AsyncByteStream, response.stream):
                measured.size += len(chunk)
                chunks.append(chunk)
                if measured.size > READ_CAP:
                    measured.truncated, measured.size = True, READ_CAP
                    break
        finally:
            await response.aclose()
    return RawResponse(response.status_code, response.headers.raw, b"".join(chunks)[:READ_CAP])


def _failed(error: Exception, measured: Measurements, call: Call) -> Outcome:
    fault, text = _fault(error)
    if isinstance(error, TimeoutError):
        text = f"no complete response within {call.total_timeout:g} s"
    elif isinstance(error, (httpx.HTTPError, Refused)) or type(error) is ValueError:
        text = str(error) or text
    elif fault is Fault.PROTOCOL:
        log.exception("a call failed with an error that has no fault word", exc_info=error)
        text = f"the call failed ({type(error).__name__})"
    return Outcome(fault, None, _line(text), measured.timings(), size=measured.size, peer=measured.peer)


def _fault(error: Exception) -> tuple[Fault, str]:
    """Look the error up in FAULTS. httpx's transports wrap a cause in a ConnectError, so its causes come first."""
    chain: list[BaseException] = [error]
    if isinstance(error, httpx.ConnectError):
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)
        for cause in chain:
            if isinstance(cause, (ssl.SSLError, socket.gaierror)):
                return next((fault, text) for types, fault, text in FAULTS if isinstance(cause, types))
    return next((fault, text) for types, fault, text in FAULTS if isinstance(error, types))


# The first match decides, so a subclass comes before its base.
FAULTS: tuple[tuple[tuple[type[Exception], ...], Fault, str], ...] = (
    ((Refused,), Fault.BLOCKED, "the address is not allowed"),
    ((ResolveError, ResolveTimeout, socket.gaierror), Fault.DNS, "the host name has no address"),
    ((TLSError, TLSTimeout, ssl.SSLError), Fault.TLS, "the TLS handshake failed"),
    ((httpx.ConnectError, httpx.ConnectTimeout), Fault.CONNECT, "the connection could not be made"),
    ((httpx.TimeoutException, TimeoutError), Fault.TIMEOUT, "no complete response in time"),
    ((httpx.NetworkError, ConnectionError), Fault.RESET, "the connection was reset"),
    (
        (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError, TypeError),
        Fault.CONFIG,
        "the request cannot be sent",
    ),
    ((OSError,), Fault.CONNECT, "the connection failed"),
    ((Exception,), Fault.PROTOCOL, "the response is not valid HTTP"),
)


def _responded(response: RawResponse, measured: Measurements, call: Call) -> Outcome:
    status, body = response.status, response.body
    return Outcome(
        None if 200 <= status <= 299 else Fault.STATUS,
        status,
        _status_text(status),
        measured.timings(),
        _shown_headers(response.headers),
        body[: call.keep],
        measured.truncated or len(body) > call.keep,
        measured.size,
        measured.peer,
    )


@lru_cache(maxsize=1000)
def _status_text(status: int) -> str:
    """Use the phrase of the registry: the upstream's own could be any text."""
    try:
        return f"answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"answered {status}"


def _shown_headers(raw: RawHeaders) -> tuple[tuple[str, str], ...]:
    """Return a response's headers as printable text, and no more of them than a row should hold."""
    shown, size = [], 0
    for name, value in raw[:HEADERS_KEPT]:
        size += len(name) + len(value)
        if size > HEADERS_KEPT_SIZE:
            break
        text = value.decode("latin-1")
        shown.append((name.decode("latin-1"), text if text.isprintable() else text.translate(VISIBLE_HEADER)))
    return tuple(shown)


def _line(text: str) -> str:
    return text[:DETAIL_LIMIT].translate(VISIBLE)


VISIBLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
VISIBLE_HEADER = {code: text for code, text in VISIBLE.items() if code != 0x09}
