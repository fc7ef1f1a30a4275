"""`POST /messages` on the event loop, with group commit: requests that arrive during a write form the next group.

One thread with one connection parses, checks and stores a whole group with the functions of the view in `messages.py`,
in one transaction. The responses are sent after the commit. So the requests of a group share look-ups, commit and
doorbell, and a single request waits for no other.

After a 503 the message *may* have been accepted: the database did not respond in time. Sending the same request with
the same `Idempotency-Key` is safe.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from asgiref.typing import ASGIReceiveCallable as Receive
from django.core.handlers.asgi import ASGIRequest
from django.db import InterfaceError, OperationalError, close_old_connections
from django.http import HttpRequest, HttpResponse

from integrations.api import api
from integrations.api.asgi.routes import (
    DATABASE_TIMEOUT,
    Capacity,
    read_body,
    route_for,
    unavailable,
    with_connection_check,
)
from integrations.api.auth import BODY_LIMIT, operator
from integrations.api.json_io import body_as
from integrations.api.messages import queue
from integrations.idempotency import Answers
from integrations.models import sql, storage
from integrations.schemas.message import MessageIn

GROUP = 250  # requests in a transaction: some 30 ms on SQLite, during which no other process can write
GATHER = 0.003  # seconds to wait for more requests between groups, at most
GROUP_SIZE = 4 * 1024 * 1024  # bytes of bodies that complete a group
CAPACITY = 2_000  # requests
CAPACITY_SIZE = 64 * 1024 * 1024  # bytes of their bodies


@dataclass(slots=True, eq=False)
class _QueuedRequest:
    request: ASGIRequest
    response: asyncio.Future[HttpResponse]


class Ingest:
    """The queue of requests to store, and the thread that stores them. Belongs to one event loop."""

    def __init__(self) -> None:
        self.capacity = Capacity(CAPACITY, CAPACITY_SIZE)
        self._waiting: deque[_QueuedRequest] = deque()
        self._thread = ThreadPoolExecutor(1, "ingest", initializer=sql.limit_lock_waits)
        self._work: asyncio.Task[None] | None = None
        self._group_began = 0.0
        self._expected = 0  # requests that the next group waits for
        self._expected_arrived = asyncio.Event()

    async def respond(self, request: ASGIRequest, receive: Receive) -> HttpResponse:
        with self.capacity.reserve() as reservation:
            await read_body(request, receive, BODY_LIMIT, reservation)
            return await self._store(request)

    async def _store(self, request: ASGIRequest) -> HttpResponse:
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._store_groups())
        elif self._group_began and time.monotonic() - self._group_began > DATABASE_TIMEOUT:
            raise unavailable("The database does not respond; try again.")
        queued = _QueuedRequest(request, asyncio.get_running_loop().create_future())
        self._waiting.append(queued)
        if len(self._waiting) == self._expected:
            self._expected_arrived.set()
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                return await queued.response
        except TimeoutError:
            raise unavailable(
                "The database did not respond in time. The message may have been accepted; send it again with the same "
                "Idempotency-Key, which prevents a duplicate."
            ) from None

    async def _store_groups(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # include requests that arrived at the same moment
        while group := self._next_group():
            self._group_began = time.monotonic()
            responses = await loop.run_in_executor(self._thread, _store, [queued.request for queued in group])
            self._group_began = 0.0
            for queued, response in zip(group, responses, strict=True):
                if not queued.response.done():
                    queued.response.set_result(response)
            await self._gather(min(GROUP, len(group) + len(self._waiting)))

    async def _gather(self, count: int) -> None:
        """Wait up to GATHER until ``count`` requests are there: under load, clients usually send again at once.

        Otherwise, clients that send one message after the other would split into two halves that alternate, and each
        group would contain only one half.
        """
        if count == 1:
            return
        self._expected, self._expected_arrived = count, asyncio.Event()
        if len(self._waiting) < count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._expected_arrived.wait(), GATHER)
        self._expected = 0

    def _next_group(self) -> list[_QueuedRequest]:
        group: list[_QueuedRequest] = []
        size = 0
        while self._waiting and len(group) < GROUP and size < GROUP_SIZE:
            queued = self._waiting.popleft()
            if not queued.response.done():  # otherwise it timed out with a 503 and must not be stored
                group.append(queued)
                size += len(queued.request.body)
        return group


@with_connection_check
def _store(requests: Sequence[HttpRequest]) -> list[HttpResponse]:
    """Store the messages of these requests in one transaction. Return the responses after the commit."""
    parsed = [_parsed(request) for request in requests]
    valid = [(request, data) for request, data in zip(requests, parsed, strict=True) if isinstance(data, MessageIn)]
    stored = iter(_queue(valid))
    answers = [next(stored) if isinstance(data, MessageIn) else data for data in parsed]
    return [
        api.on_exception(request, answer) if isinstance(answer, Exception) else answer
        for request, answer in zip(requests, answers, strict=True)
    ]


def _parsed(request: HttpRequest) -> MessageIn | Exception:
    try:
        return body_as(request, MessageIn)
    except Exception as error:
        return error


def _queue(valid: Sequence[tuple[HttpRequest, MessageIn]]) -> Answers:
    try:
        return queue(valid) if valid else []
    except (OperationalError, InterfaceError) as error:  # the database failed, so every request fails
        close_old_connections()
        by_service = {data.service: [pair for pair in valid if pair[1].service == data.service] for _, data in valid}
        if sql.is_lock_timeout(error) and len(by_service) > 1:
            # A foreign transaction has locked the row of a service: only its messages cannot be stored.
            answers = {service: iter(_queue(group)) for service, group in by_service.items()}
            return [next(answers[data.service]) for _, data in valid]
        storage.suspect()
        return [error] * len(valid)
    except Exception as error:
        # One request broke the transaction: store each on its own, so that only that one fails.
        return [error] if len(valid) == 1 else [answer for request in valid for answer in _queue([request])]


_ingest = Ingest()
route = route_for(operator, _ingest.respond)
