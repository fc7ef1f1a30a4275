"""The HTTP protocol of the web server: uvicorn's, with limits on heads, on connections that wait for a request, and on
responses that are not read.

uvicorn takes a request head of any size, for any time. 70 MiB of headers on one connection cost 216 MiB of memory, and
250 connections that sent nothing stayed open. The limits of a body are in `request_body.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from integrations.outbound.addresses import Network

KEEP_ALIVE = 15  # seconds that a connection may wait for its next request

HEAD_TOO_LARGE = "The head of the request is larger than {:,} bytes or has more than {} headers."
HEAD_TOO_SLOW = "The head of the request did not arrive within {:g} s."


class HeadTooLarge(Exception):
    """Stops the parser. httptools raises its own error in place of this one, and uvicorn calls `send_400_response`."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. It *waits for a request* from its start, or the end of a response, to the end of a head."""

    HEAD_SIZE = 64 * 1024  # bytes of the request line and the headers
    HEADERS = 100
    HEAD_SECONDS = 10.0
    LINGER = 2.0  # seconds for the rest of a request that is answered; a reset would destroy the answer on its way
    UNREAD_BODY_SECONDS = 10.0  # the same for a body, whose client may send all of it before it reads the answer
    # For a client to read a part of its bytes. The kernel's buffers hide up to some MB that are read slowly.
    UNREAD_SECONDS = 300.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits_for_head = True
        self._is_too_large = self._is_refused = False
        self._head_size = self._size_of_data = 0
        self._address = ""  # under which `waiting` counts this connection
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None

    # ---- the connection ----
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = waiting.counted_address(self.client)
        self._start_timer(self.HEAD_SECONDS, self._head_is_late)
        waiting.add(self._address, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        waiting.remove(self._address, self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._waits_for_head and self._timer is None:  # the first bytes after an idle time
            self._start_timer(self.HEAD_SECONDS, self._head_is_late)
        # The parser keeps an unfinished header to itself, so bytes are counted here too. Data that ends one request
        # and begins the next is not: its size, at most 256 KiB, comes on top of the limit.
        self._size_of_data = self._size_of_data + len(data) if self._waits_for_head else 0
        super().data_received(data)
        if self._waits_for_head and self._size_of_data > self.HEAD_SIZE and not self._is_refused:
            self._refuse(431, HEAD_TOO_LARGE.format(self.HEAD_SIZE, self.HEADERS))

    # ---- the head ----
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_size += size
        if self._head_size > self.HEAD_SIZE or len(self.headers) >= self.HEADERS:
            self._is_too_large = True
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        self._waits_for_head = False
        self._size_of_data = 0
        self._stop_timer()
        waiting.remove(self._address, self)
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self._is_too_large:
            self._refuse(431, HEAD_TOO_LARGE.format(self.HEAD_SIZE, self.HEADERS))
        else:
            self._refuse(400, msg)

    def _head_is_late(self) -> None:
        if self._size_of_data:
            self._refuse(408, HEAD_TOO_SLOW.format(self.HEAD_SECONDS))
        else:  # browsers open connections in advance; a 408 would become the answer to a request they send later
            self.close()

    def _refuse(self, status: int, detail: str) -> None:
        self._is_refused = True
        self._stop_timer()
        waiting.remove(self._address, self)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:  # an earlier request's answer is on its way
            self.transport.close()
            return
        content = detail.encode()
        head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(content) + content)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(self.LINGER, self.close)

    # ---- the end of a request ----
    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._waits_for_head = True
        if self.cycle is not None and self.cycle.response_complete:  # answered before its body ended
            self._stop_timer()
            self._wait_for_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return
        if self._waits_for_head:
            self._wait_for_request()
        else:
            self._start_timer(self.UNREAD_BODY_SECONDS, self.close)

    def _wait_for_request(self) -> None:
        if self.timeout_keep_alive_task is None:
            self._start_timer(self.HEAD_SECONDS, self._head_is_late)
        waiting.add(self._address, self)

    # ---- a response that is not read ----
    def pause_writing(self) -> None:
        """Called when 64 KiB wait for the client, after which nothing is added until most of them are read."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        self._stop_unread_timer()
        super().resume_writing()

    def _await_reader(self) -> None:
        self._stop_unread_timer()
        size = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(self.UNREAD_SECONDS, self._end_if_unread, size)

    def _end_if_unread(self, size: int) -> None:
        if self.transport.get_write_buffer_size() < size:
            self._await_reader()
        else:  # closing would wait until the rest is read
            self.transport.abort()

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    # ---- timers ----
    def _start_timer(self, seconds: float, action: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, action)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class WaitingConnections:
    """The connections of each client address that wait for a request, the longest waiting first.

    Over the limit, the server closes those that wait longest. So a user who shares an address with an attacker, as
    behind a proxy, is served: the user's head arrives at once. Belongs to one event loop.
    """

    SETTLING = 2.0  # seconds; a client that opens 250 connections at once sends its requests a moment later
    CEILING = 10  # times the limit, beyond which the oldest is closed before it has settled

    def __init__(self) -> None:
        self.limit = 100  # for each address; 0 is no limit
        self.unlimited: Sequence[Network] = ()  # proxies, which hold connections for many clients
        self._by_address: dict[str, dict[LimitedHttpProtocol, float]] = {}  # the time since which each waits
        self._trimming: set[str] = set()  # addresses over the limit, for which a timer runs

    def counted_address(self, client: tuple[str, int] | None) -> str:
        """Return the address that counts; "" for one without a limit, which a Unix socket is too."""
        if client is None or not self.limit:
            return ""
        return "" if any(ip_address(client[0]) in network for network in self.unlimited) else client[0]

    def add(self, address: str, connection: LimitedHttpProtocol) -> None:
        if not address:
            return
        since = self._by_address.setdefault(address, {})
        since.pop(connection, None)
        since[connection] = connection.loop.time()
        if len(since) > self.CEILING * self.limit:
            self._close(address, next(iter(since)))
        elif len(since) > self.limit and address not in self._trimming:
            self._trimming.add(address)
            self._trim(address, connection.loop)

    def remove(self, address: str, connection: LimitedHttpProtocol) -> None:
        if (since := self._by_address.get(address)) is not None:
            since.pop(connection, None)
            if not since:
                del self._by_address[address]

    def _trim(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        """Close the oldest connections that have settled, and come back for the others."""
        since = self._by_address.get(address, {})
        for connection, began in list(since.items())[: max(0, len(since) - self.limit)]:
            if loop.time() < began + self.SETTLING:
                loop.call_at(began + self.SETTLING, self._trim, address, loop)
                return
            self._close(address, connection)
        self._trimming.discard(address)

    def _close(self, address: str, connection: LimitedHttpProtocol) -> None:
        self.remove(address, connection)
        connection.close()


waiting = WaitingConnections()
