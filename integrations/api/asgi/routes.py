"""The base of routes on the event loop, which respond without Django's handler and hold none of its threads.

A route gets Django's request with its body unread, and ASGI's ``receive`` and ``send``. `dashboard/asgi.py` lists the
routes. Database access runs in a ``DatabasePool``, whose few threads keep a connection each; a route holds neither
while it waits for something else.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import ASGISendCallable as Send
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpResponse
from django.utils.log import log_response

from integrations.api import api
from integrations.api.asgi.request_body import ClientDisconnected, receive_body
from integrations.api.auth import Bearer, Caller, announced_length, identify
from integrations.api.json_io import keep_out_of_caches
from integrations.api.problems import BUSY_RETRY, Problem

P = ParamSpec("P")
T = TypeVar("T")
Route = Callable[[ASGIRequest, Receive, Send], Awaitable[None]]

DATABASE_TIMEOUT = 4.0  # seconds; a stopping server gives its requests 5
CONNECTION_CHECK_EVERY = 1.0  # seconds
LOOK_UPS = 2  # threads that identify callers: one look-up a second per token, of a millisecond each


def unavailable(detail: str) -> Problem:
    return Problem(503, detail, headers={"Retry-After": str(BUSY_RETRY)})


def route_for(bearer: Bearer, respond: Callable[[ASGIRequest, Receive], Awaitable[HttpResponse]]) -> Route:
    """Build a route that authenticates with ``bearer`` and sends the result of ``respond``, or a problem document."""

    async def route(request: ASGIRequest, receive: Receive, send: Send) -> None:
        try:
            await authenticate(request, bearer)
            response = await respond(request, receive)
        except ClientDisconnected:
            return
        except Exception as error:
            response = api.on_exception(request, error)
        keep_out_of_caches(response)
        await send_response(request, response, send)

    return route


async def send_response(request: ASGIRequest, response: HttpResponse, send: Send) -> None:
    """Send a whole response. Log an error response as Django does."""
    if response.status_code >= 400:
        log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    headers.append((b"content-length", str(len(response.content)).encode()))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": response.content, "more_body": False})


# ---- the database ---------------------------------------------------------------------------------------------------
class DatabasePool:
    """A few permanent threads, each with its own connection. The queue for them and the waiting time are limited."""

    QUEUE_LIMIT = 1000

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._waiting = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function in a thread. Raises its errors, and Problem(503) if the database takes too long."""
        if self._waiting >= self.QUEUE_LIMIT:
            raise unavailable("Too many requests are waiting for the database; try again.")
        self._waiting += 1
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                return await asyncio.wrap_future(self._threads.submit(with_connection_check(function), *args, **kwargs))
        except TimeoutError:
            raise unavailable("The database did not respond in time; try again.") from None
        finally:
            self._waiting -= 1


def with_connection_check(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function so that it replaces a dead database connection of its thread, as Django does per request.

    Once a second is enough: on PostgreSQL the check is a query.
    """

    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        now = time.monotonic()
        if now - getattr(_last_check, "at", 0.0) > CONNECTION_CHECK_EVERY:
            _last_check.at = now
            close_old_connections()
        try:
            return function(*args, **kwargs)
        except Exception:
            close_old_connections()
            raise

    return checked


_last_check = threading.local()


# ---- callers --------------------------------------------------------------------------------------------------------
async def authenticate(request: ASGIRequest, bearer: Bearer) -> Caller:
    """Set ``request.auth`` to the caller, looked up in a thread or less than a second ago. Raises Problem."""
    authorization = request.META.get("HTTP_AUTHORIZATION", "")
    caller = recent_callers.find(authorization) or await recent_callers.look_up(authorization, request)
    bearer.admit(caller)
    request.auth = caller  # type: ignore[attr-defined]
    return caller


def _identify(request: ASGIRequest) -> Caller:
    if "HTTP_AUTHORIZATION" not in request.META:  # the session of a page: loaded on demand and never written
        _session.process_request(request)
        _user.process_request(request)
    return identify(request)


def _no_view(request: Any) -> HttpResponse:
    return HttpResponse()


_session, _user = SessionMiddleware(_no_view), AuthenticationMiddleware(_no_view)
_look_ups = DatabasePool(LOOK_UPS, "look-up")


class RecentCallers:
    """Callers whose token was looked up within the last second. A revoked token is accepted no longer than that."""

    KEPT_FOR = 1.0  # seconds
    LIMIT = 10_000

    def __init__(self) -> None:
        self._callers: dict[bytes, tuple[Caller, float]] = {}  # by the header's digest: (caller, valid until)
        self._under_way: dict[bytes, asyncio.Task[Caller]] = {}  # simultaneous requests share one look-up

    def find(self, authorization: str) -> Caller | None:
        found = self._callers.get(_digest(authorization)) if authorization else None
        return found[0] if found and time.monotonic() < found[1] else None

    async def look_up(self, authorization: str, request: ASGIRequest) -> Caller:
        if not authorization:
            return await _look_ups.run(_identify, request)
        key = _digest(authorization)
        if (task := self._under_way.get(key)) is None:
            task = self._under_way[key] = asyncio.create_task(_look_ups.run(_identify, request))
            task.add_done_callback(lambda _: self._under_way.pop(key))
        caller = await asyncio.shield(task)
        self._keep(key, caller)
        return caller

    def _keep(self, key: bytes, caller: Caller) -> None:
        if len(self._callers) >= self.LIMIT:
            self._callers.clear()
        lifetime = self.KEPT_FOR
        if caller.expires_at is not None:
            lifetime = min(lifetime, caller.expires_at.timestamp() - time.time())
        self._callers[key] = (caller, time.monotonic() + lifetime)


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode()).digest()


recent_callers = RecentCallers()


# ---- the body -------------------------------------------------------------------------------------------------------
class Capacity:
    """The requests and bytes that may still be accepted, so that a slow database cannot exhaust the memory.

    Belongs to one event loop.
    """

    def __init__(self, requests: int, size: int) -> None:
        """``size``: bytes of the bodies."""
        self.requests, self.size = requests, size

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Reserve capacity for one request until the end of the block. Raises Problem(503) if none is left."""
        reservation = Reservation(self)
        if self.requests < 1:
            raise at_capacity()
        self.requests -= 1
        try:
            yield reservation
        finally:
            self.requests += 1
            self.size += reservation.size


class Reservation:
    def __init__(self, capacity: Capacity) -> None:
        self._capacity, self.size = capacity, 0

    def add(self, size: int) -> None:
        """Reserve more bytes. Raises Problem(503) if they are not left."""
        if size > self._capacity.size:
            raise at_capacity()
        self._capacity.size -= size
        self.size += size


def at_capacity() -> Problem:
    return unavailable("The server has too many requests in progress; try again.")


async def read_body(request: ASGIRequest, receive: Receive, limit: int, reservation: Reservation) -> None:
    """Read at most ``limit`` bytes into ``request.body``. Raises Problem, or ClientDisconnected."""
    announced_length(request, limit)
    request._body = await receive_body(receive, limit, reservation.add)
