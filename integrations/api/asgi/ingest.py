"""`POST /messages` on the event loop, by group commit: what arrived while one group was written is the next group.

One thread with one connection reads, checks and stores a whole group with the functions of the view in `messages.py`,
in one transaction, and each request is answered after the commit. So look-ups, commit and doorbell are shared by as
many as came together, and a lone request waits for nobody.

A 503 says that the message *may* have been accepted: the database did not answer in time, and nobody knows. The same
request with the same `Idempotency-Key` is safe.
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
from integrations.schemas.message import MessageIn

GROUP = 250  # requests in a transaction: some 30 ms on SQLite, where nobody else writes meanwhile
GATHER = 0.003  # seconds between groups at most, under load
GROUP_SIZE = 4 * 1024 * 1024  # bytes of their bodies after which a group is closed
ROOM = 2_000  # requests
ROOM_SIZE = 64 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Waiting:
    request: ASGIRequest
    answer: asyncio.Future[HttpResponse]


class Ingest:
    """The requests that wait to be stored, and the thread that stores them. Lives on one event loop."""

    def __init__(self) -> None:
        self.room = Capacity(ROOM, ROOM_SIZE)
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "ingest")
        self._work: asyncio.Task[None] | None = None
        self._group_began = 0.0
        self._expected = 0  # requests that the next group waits for
        self._have_come = asyncio.Event()

    async def answer(self, request: ASGIRequest, receive: Receive) -> HttpResponse:
        with self.room.place() as place:
            await read_body(request, receive, BODY_LIMIT, place)
            return await self._stored(request)

    async def _stored(self, request: ASGIRequest) -> HttpResponse:
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._store_groups())
        elif self._group_began and time.monotonic() - self._group_began > DATABASE_TIMEOUT:
            raise unavailable("The database does not answer; try again.")
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._waiting) == self._expected:
            self._have_come.set()
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT):
                return await waiting.answer
        except TimeoutError:
            words = "The database did not answer in time. The message may have been accepted; an Idempotency-Key"
            raise unavailable(f"{words} makes it safe to try again.") from None

    async def _store_groups(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # what has arrived at the same moment goes along
        while group := self._next_group():
            self._group_began = time.monotonic()
            responses = await loop.run_in_executor(self._thread, _store, [waiting.request for waiting in group])
            self._group_began = 0.0
            for waiting, response in zip(group, responses, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(response)
            await self._gather(min(GROUP, len(group) + len(self._waiting)))

    async def _gather(self, count: int) -> None:
        """Under load, who was answered just now often has a next one: waits until so many are there, or for GATHER.

        Without it, those who send one after the other fall into two halves, and each group has only one of them.
        """
        if count == 1:
            return
        self._expected, self._have_come = count, asyncio.Event()
        if len(self._waiting) < count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._have_come.wait(), GATHER)
        self._expected = 0

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < GROUP and size < GROUP_SIZE:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():  # else it was told 503, and is not stored after all
                group.append(waiting)
                size += len(waiting.request.body)
        return group


@with_connection_check
def _store(requests: Sequence[HttpRequest]) -> list[HttpResponse]:
    """The answer to each request; what was accepted is on disk."""
    read_ones = [_read(request) for request in requests]
    asked = [(request, data) for request, data in zip(requests, read_ones, strict=True) if isinstance(data, MessageIn)]
    stored = iter(_queued(asked))
    answers = [next(stored) if isinstance(data, MessageIn) else data for data in read_ones]
    return [
        api.on_exception(request, answer) if isinstance(answer, Exception) else answer
        for request, answer in zip(requests, answers, strict=True)
    ]


def _read(request: HttpRequest) -> MessageIn | Exception:
    try:
        return body_as(request, MessageIn)
    except Exception as error:
        return error


def _queued(asked: Sequence[tuple[HttpRequest, MessageIn]]) -> Answers:
    try:
        return queue(asked) if asked else []
    except (OperationalError, InterfaceError) as error:  # the database's fault, so it is everybody's
        close_old_connections()
        return [error] * len(asked)
    except Exception as error:
        # One of them broke the transaction; by itself, each gets its own answer.
        return [error] if len(asked) == 1 else [answer for one in asked for answer in _queued([one])]


_ingest = Ingest()
route = route_for(operator, _ingest.answer)
