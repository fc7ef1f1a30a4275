"""One call to an upstream, as a value in and a value out.

::

    Call  ->  Client.send  ->  Outcome

``send`` raises nothing that the network, the upstream or the call's own fields can cause: ``FAULTS`` is the one table
from exceptions to fault words. Where a call may go, and how it goes over the wire, is in ``network`` and ``transport``.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
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
from integrations.outbound.transport import PinnedTransport
from integrations.outbound.urls import parse_url

DETAIL_LIMIT = 300  # characters
HEADERS_KEPT, HEADERS_KEPT_SIZE = 100, 16 * 1024  # of an answer: how many, and characters in all
TIMEOUT_LIMIT = 3_600.0  # seconds
VISIBLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
VISIBLE_HEADER = {code: text for code, text in VISIBLE.items() if code != 0x09}
log = logging.getLogger("switchboard.client")


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Times in seconds: the first until the request can be written, the second for everything."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    connect_timeout: float = 5.0
    total_timeout: float = 30.0
    keep: int = 65_536  # bytes of the answer that are kept
    allowed: tuple[Network, ...] = ()


class Client:
    """Makes calls, many at once, over connections that are kept open between them. Belongs to one event loop.

    Another ``transport`` (httpx.MockTransport in a test) is given requests as they are: only the default one checks
    where they go.
    """

    def __init__(
        self,
        transport: PinnedTransport | httpx.AsyncBaseTransport | None = None,
        own_ports: frozenset[int] = frozenset(),
    ) -> None:
        self._transport = transport or PinnedTransport(own_ports=own_ports)

    async def send(self, call: Call) -> Outcome:
        """What the call came to. Only asyncio.CancelledError passes through."""
        facts, transport = Measurements(), self._transport
        try:
            place, headers = _checked(call)
        except Exception as error:
            return Outcome(Fault.CONFIG, None, _build_words(error), facts.timings())
        try:
            if isinstance(transport, PinnedTransport):
                timeouts = Timeouts(call.connect_timeout, call.total_timeout)
                answer = await transport.exchange(place, call.method.upper(), headers, call.body, timeouts, facts)
            else:
                answer = await _send_by_another(transport, call, headers, facts)
        except Exception as error:
            return failed_outcome(error, facts, call)
        return _answered(answer, facts, call)

    def take_certificates(self) -> list[PeerCertificate]:
        """What servers have shown since it was last asked."""
        return self._transport.take_certificates() if isinstance(self._transport, PinnedTransport) else []

    async def aclose(self) -> None:
        await self._transport.aclose()


def _checked(call: Call) -> tuple[Destination, RawHeaders]:
    """What a call describes, as it can be sent. Raises ValueError with words, and whatever else odd fields bring."""
    for timeout in (call.connect_timeout, call.total_timeout):
        if not 0 < timeout <= TIMEOUT_LIMIT:
            raise ValueError(f"a timeout is between 0 and {TIMEOUT_LIMIT:g} s")
    if not TOKEN.fullmatch(call.method) or call.method.upper() == "CONNECT":
        raise ValueError("this is not a method that a call can have")
    if not isinstance(call.body, bytes):
        raise TypeError  # asyncio would only find out while it writes
    place = destination_of(call.url, call.allowed)
    given = set()
    headers = []
    for name, value in call.headers:
        if words := header_refusal(name, value, own=True):
            raise ValueError(words)
        given.add(name.lower())
        headers.append((name.encode("ascii"), value.encode("latin-1")))
    if "accept-encoding" not in given:
        headers.append((b"Accept-Encoding", b"identity"))  # 218 bytes of gzip can be 30 MB
    if "user-agent" not in given:
        headers.append((b"User-Agent", b"Switchboard"))
    return place, headers


async def _send_by_another(
    transport: httpx.AsyncBaseTransport, call: Call, headers: RawHeaders, facts: Measurements
) -> RawResponse:
    """The same promises (total timeout, read cap, undecoded bytes) for a transport that doesn't make them."""
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
                facts.size += len(chunk)
                chunks.append(chunk)
                if facts.size > READ_CAP:
                    facts.truncated, facts.size = True, READ_CAP
                    break
        finally:
            await response.aclose()
    return RawResponse(response.status_code, response.headers.raw, b"".join(chunks)[:READ_CAP])


def _build_words(error: Exception) -> str:
    """Our own words where the error has them; others' could repeat a header's secret."""
    if type(error) is ValueError:
        return _line(str(error))
    return f"the request cannot be built ({type(error).__name__})"


# The first line that matches decides, so a subclass stands before its base.
FAULTS: tuple[tuple[tuple[type[Exception], ...], Fault, str], ...] = (
    ((Refused,), Fault.BLOCKED, "the address is not allowed"),
    ((ResolveError, ResolveTimeout, socket.gaierror), Fault.DNS, "the name has no address"),
    ((TLSError, TLSTimeout, ssl.SSLError), Fault.TLS, "the TLS handshake failed"),
    ((httpx.ConnectError, httpx.ConnectTimeout), Fault.CONNECT, "no connection could be made"),
    ((httpx.TimeoutException, TimeoutError), Fault.TIMEOUT, "no complete answer in time"),
    ((httpx.NetworkError, ConnectionError), Fault.RESET, "the connection was reset"),
    (
        (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, ValueError, TypeError),
        Fault.CONFIG,
        "the request cannot be sent",
    ),
    ((OSError,), Fault.CONNECT, "the connection failed"),
    ((Exception,), Fault.PROTOCOL, "the answer is not valid HTTP"),
)


def failed_outcome(error: Exception, facts: Measurements, call: Call) -> Outcome:
    fault, words = _fault(error)
    if isinstance(error, TimeoutError):
        words = f"no complete answer within {call.total_timeout:g} s"
    elif isinstance(error, (httpx.HTTPError, Refused)) or type(error) is ValueError:
        words = str(error) or words
    elif fault is Fault.PROTOCOL:
        log.exception("a call failed in a way that has no fault word", exc_info=error)
        words = f"the call failed ({type(error).__name__})"
    return Outcome(fault, None, _line(words), facts.timings(), size=facts.size, peer=facts.peer)


def _fault(error: Exception) -> tuple[Fault, str]:
    """The table's word. Other transports wrap what happened in a ConnectError, so its causes are asked first."""
    chain: list[BaseException] = [error]
    if isinstance(error, httpx.ConnectError):
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
            chain.append(cause)
        for cause in chain:
            if isinstance(cause, (ssl.SSLError, socket.gaierror)):
                return next((fault, words) for types, fault, words in FAULTS if isinstance(cause, types))
    return next((fault, words) for types, fault, words in FAULTS if isinstance(error, types))


def _answered(answer: RawResponse, facts: Measurements, call: Call) -> Outcome:
    status, body = answer.status, answer.body
    return Outcome(
        None if 200 <= status <= 299 else Fault.STATUS,
        status,
        _answer_words(status),
        facts.timings(),
        _headers(answer.headers),
        body[: call.keep],
        facts.truncated or len(body) > call.keep,
        facts.size,
        facts.peer,
    )


@lru_cache(maxsize=1000)
def _answer_words(status: int) -> str:
    """The phrase is the registry's: the upstream's own could say anything."""
    try:
        return f"answered {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"answered {status}"


def _headers(raw: list[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """An answer's headers as text that can be shown, and no more of them than a row should hold."""
    kept, size = [], 0
    for name, value in raw[:HEADERS_KEPT]:
        size += len(name) + len(value)
        if size > HEADERS_KEPT_SIZE:
            break
        text = value.decode("latin-1")
        kept.append((name.decode("latin-1"), text if text.isprintable() else text.translate(VISIBLE_HEADER)))
    return tuple(kept)


def _line(words: str) -> str:
    return words[:DETAIL_LIMIT].translate(VISIBLE)
