"""`POST /process` on the event loop, where waiting for a slow service holds no thread.

The database's part runs in a few threads of their own, and so does what takes long for a large body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ParamSpec, TypeVar

from asgiref.typing import ASGIReceiveCallable as Receive
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse

from integrations.api.asgi.routes import Capacity, read_body, route_for, with_connection_check
from integrations.api.auth import BODY_LIMIT, caller, operator
from integrations.api.json_io import body_as
from integrations.api.process import document
from integrations.delivery import direct_call
from integrations.delivery.direct_call import DirectRequest
from integrations.delivery.send import new_client
from integrations.outbound.client import Client
from integrations.schemas.message import ProcessIn

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2  # with the database; four took twice as long on SQLite, where writers wait for each other
ROOM = 1_000  # calls under way in one process
ROOM_SIZE = 64 * 1024 * 1024  # bytes of their requests


class Process:
    """One client, whose connections are kept, and the threads. Lives on one event loop."""

    def __init__(self) -> None:
        self.room = Capacity(ROOM, ROOM_SIZE)
        self._threads = ThreadPoolExecutor(THREADS, "process")

    @cached_property
    def client(self) -> Client:
        return new_client()

    async def answer(self, request: ASGIRequest, receive: Receive) -> HttpResponse:
        with self.room.place() as place:
            await read_body(request, receive, BODY_LIMIT, place)
            asked = await self._in_thread(_prepared)(request)
            answered = await direct_call.run(asked, client=self.client, in_thread=self._in_thread)
            return await self._in_thread(document)(answered)

    def _in_thread(self, step: Callable[P, T]) -> Callable[P, asyncio.Future[T]]:
        def begun(*args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
            return asyncio.wrap_future(self._threads.submit(with_connection_check(step), *args, **kwargs))

        return begun


def _prepared(request: ASGIRequest) -> DirectRequest:
    return direct_call.prepare(body_as(request, ProcessIn), caller(request).actor)


route = route_for(operator, Process().answer)
