"""`POST /process` on the event loop: waiting for a slow service holds no thread.

The database is used in a few own threads, and so are steps that take long for a large body.
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
from integrations.api.process import result_response
from integrations.delivery import direct_call
from integrations.delivery.direct_call import DirectRequest
from integrations.delivery.send import new_client
from integrations.outbound.client import Client
from integrations.schemas.message import ProcessIn

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2  # four took twice as long on SQLite, where writers wait for each other
CAPACITY = 1_000  # calls in flight in one process
CAPACITY_SIZE = 64 * 1024 * 1024  # bytes of their bodies


class DirectCalls:
    """One HTTP client, whose connections stay open, and the database threads. Belongs to one event loop."""

    def __init__(self) -> None:
        self.capacity = Capacity(CAPACITY, CAPACITY_SIZE)
        self._threads = ThreadPoolExecutor(THREADS, "process")

    @cached_property
    def client(self) -> Client:
        return new_client()

    async def respond(self, request: ASGIRequest, receive: Receive) -> HttpResponse:
        with self.capacity.reserve() as reservation:
            await read_body(request, receive, BODY_LIMIT, reservation)
            prepared = await self._in_thread(_prepared)(request)
            result = await direct_call.run(prepared, client=self.client, in_thread=self._in_thread)
            return await self._in_thread(result_response)(result)

    def _in_thread(self, step: Callable[P, T]) -> Callable[P, asyncio.Future[T]]:
        def submitted(*args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
            return asyncio.wrap_future(self._threads.submit(with_connection_check(step), *args, **kwargs))

        return submitted


def _prepared(request: ASGIRequest) -> DirectRequest:
    return direct_call.prepare(body_as(request, ProcessIn), caller(request).actor, request.headers)


route = route_for(operator, DirectCalls().respond)
