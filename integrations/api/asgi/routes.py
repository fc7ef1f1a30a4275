"""What routes on the event loop share: they answer ahead of Django's handler and hold none of its threads.

A route is given Django's request with its body unread, and ASGI's ``receive`` and ``send``; `dashboard/asgi.py` lists
them. Whatever asks the database runs in a ``Pool``, whose few threads keep a connection each: a route holds neither
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
from integrations.api.auth import Bearer, Caller, announced, identify, too_large
from integrations.api.json_io import keep_out_of_caches
from integrations.api.problems import BUSY_RETRY, Problem

P = ParamSpec("P")
T = TypeVar("T")
Route = Callable[[ASGIRequest, Receive, Send], Awaitable[None]]

DATABASE_TIMEOUT = 4.0  # seconds with the database; a server that stops gives its requests 5
CARE_EVERY = 1.0  # seconds
LOOK_UPS = 2  # threads that ask who calls: a look-up takes a millisecond and is asked once a second for each token


class ClientDisconnected(Exception):
    """The client left before its request was whole: nobody waits for an answer."""


def unavailable(words: str) -> Problem:
    return Problem(503, words, headers={"Retry-After": str(BUSY_RETRY)})


def route_for(gate: Bearer, answer: Callable[[ASGIRequest, Receive], Awaitable[HttpResponse]]) -> Route:
    """The route that lets in whom ``gate`` lets in and sends what ``answer`` gives, errors as the API's views do."""

    async def route(request: ASGIRequest, receive: Receive, send: Send) -> None:
        try:
            await authenticate(request, gate)
            response = await answer(request, receive)
        except ClientDisconnected:
            return
        except Exception as error:
            response = api.on_exception(request, error)
        keep_out_of_caches(response)
        await send_response(request, response, send)

    return route


async def send_response(request: ASGIRequest, response: HttpResponse, send: Send) -> None:
    """Sends a whole answer, and logs it where Django would."""
    if response.status_code >= 400:
        log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    headers.append((b"content-length", str(len(response.content)).encode()))
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers, "trailers": False})
    await send({"type": "http.response.body", "body": response.content, "more_body": False})


# ---- the database ---------------------------------------------------------------------------------------------------
class Pool:
    """A few lasting threads, each with its connection; so many may wait for one, and for so long."""

    ROOM = 1000

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._waiting = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns or raises. Raises Problem(503) where the database takes too long."""
        if self._waiting >= self.ROOM:
            raise unavailable("Too many requests wait for the database; try again.")
        self._waiting += 1
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                return await asyncio.wrap_future(self._threads.submit(with_connection_check(function), *args, **kwargs))
        except TimeoutError:
            raise unavailable("The database did not answer in time; try again.") from None
        finally:
            self._waiting -= 1


def with_connection_check(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with the care for this thread's connection that Django takes around a request.

    Once a second is enough: on PostgreSQL it asks whether the connection still lives.
    """

    def with_care(*args: P.args, **kwargs: P.kwargs) -> T:
        now = time.monotonic()
        if now - getattr(_cared, "at", 0.0) > CARE_EVERY:
            _cared.at = now
            close_old_connections()
        try:
            return function(*args, **kwargs)
        except Exception:
            close_old_connections()
            raise

    return with_care


_cared = threading.local()


# ---- who calls ------------------------------------------------------------------------------------------------------
async def authenticate(request: ASGIRequest, gate: Bearer) -> Caller:
    """Who calls, from now on ``request.auth``; looked up in a thread, or less than a second ago. Raises Problem."""
    authorization = request.META.get("HTTP_AUTHORIZATION", "")
    who = recent_callers.find(authorization) or await recent_callers.look_up(authorization, request)
    gate.admit(who)
    request.auth = who  # type: ignore[attr-defined]
    return who


def _identify(request: ASGIRequest) -> Caller:
    if "HTTP_AUTHORIZATION" not in request.META:  # a page's session: read where it is asked for, and nothing is written
        _session.process_request(request)
        _user.process_request(request)
    return identify(request)


def _no_view(request: Any) -> HttpResponse:
    return HttpResponse()


_session, _user = SessionMiddleware(_no_view), AuthenticationMiddleware(_no_view)
_look_ups = Pool(LOOK_UPS, "look-up")


class RecentCallers:
    """Whose token was looked up within the last second: for so long at most one that was revoked is let in."""

    KEPT_FOR = 1.0  # seconds
    ROOM = 10_000

    def __init__(self) -> None:
        self._callers: dict[bytes, tuple[Caller, float]] = {}  # by the header's digest: (who, until)
        self._under_way: dict[bytes, asyncio.Task[Caller]] = {}  # many that come together ask once

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
        who = await asyncio.shield(task)
        self._keep(key, who)
        return who

    def _keep(self, key: bytes, who: Caller) -> None:
        if len(self._callers) >= self.ROOM:
            self._callers.clear()
        lives = self.KEPT_FOR
        if who.expires_at is not None:
            lives = min(lives, who.expires_at.timestamp() - time.time())
        self._callers[key] = (who, time.monotonic() + lives)


def _digest(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode()).digest()


recent_callers = RecentCallers()


# ---- the body -------------------------------------------------------------------------------------------------------
class Capacity:
    """How much may be in the house at once, so that a slow database cannot fill the memory. Counted on the loop."""

    def __init__(self, requests: int, size: int) -> None:
        """``size``: bytes of their bodies."""
        self.requests, self.size = requests, size

    @contextmanager
    def place(self) -> Iterator[Reservation]:
        """A place for one request, given back at the end. Raises Problem(503) where there is none."""
        place = Reservation(self)
        if self.requests < 1:
            raise at_capacity()
        self.requests -= 1
        try:
            yield place
        finally:
            self.requests += 1
            self.size += place.size


class Reservation:
    def __init__(self, room: Capacity) -> None:
        self._room, self.size = room, 0

    def hold(self, size: int) -> None:
        """Takes more bytes. Raises Problem(503) where there is no room for them."""
        if size > self._room.size:
            raise at_capacity()
        self._room.size -= size
        self.size += size


def at_capacity() -> Problem:
    return unavailable("Too much waits to be stored; try again.")


async def read_body(request: ASGIRequest, receive: Receive, limit: int, place: Reservation) -> None:
    """Reads at most ``limit`` bytes into ``request.body``. Raises Problem, or ClientDisconnected."""
    announced(request, limit)
    body, has_more = b"", True
    while has_more:
        event = await receive()
        if event["type"] != "http.request":
            raise ClientDisconnected
        part = event["body"]
        place.hold(len(part))
        body += part
        has_more = event["more_body"]
        if len(body) > limit:
            raise too_large(limit)
    request._body = body
