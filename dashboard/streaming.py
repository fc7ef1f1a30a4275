"""Exports on the event loop: Django makes the head of the response, then one part after the other as the client reads.

Each of these steps runs in one of a few threads with a lasting database connection. Between two steps an export holds
neither. In the threads of Django, 18 clients that did not read stopped the console, and 16 that had left their
downloads stopped it for 19 s, because a thread does not learn that its client has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import ParamSpec, TypeVar, cast

from asgiref.typing import ASGIReceiveCallable as Receive
from asgiref.typing import ASGISendCallable as Send
from asgiref.typing import HTTPScope
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse

from dashboard.wsgi import application as wsgi
from integrations.api.asgi.routes import with_connection_check

P = ParamSpec("P")
T = TypeVar("T")

# A step reads and writes 500 messages, or searches 100,000 in vain. One thread would make all exports wait for one such
# search; more than two compete with pages for the processors.
THREADS = 2
_threads = ThreadPoolExecutor(THREADS, "export")


async def respond(scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Respond with the view's response, behind all middleware. Stop making a stream when its client has left."""
    request = ASGIRequest(scope, BytesIO())  # of a GET, whose body nothing reads
    response = await _in_thread(wsgi.get_response)(request)
    try:
        headers = _headers(response)
        await send(
            {"type": "http.response.start", "status": response.status_code, "headers": headers, "trailers": False}
        )
        if isinstance(response, StreamingHttpResponse):
            await _send_parts(cast("Iterator[bytes]", response.streaming_content), receive, send)
        elif isinstance(response, HttpResponse):
            await send({"type": "http.response.body", "body": response.content, "more_body": False})
    finally:
        await _in_thread(response.close)()  # in a thread, because it also ends what the thread's request began


async def _send_parts(parts: Iterator[bytes], receive: Receive, send: Send) -> None:
    gone = asyncio.create_task(_until_gone(receive))
    try:
        while not gone.done() and (part := await _in_thread(next)(parts, None)) is not None:
            if part:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        if not gone.done():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(response: HttpResponseBase) -> list[tuple[bytes, bytes]]:
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
    cookies = [(b"set-cookie", cookie.output(header="").strip().encode()) for cookie in response.cookies.values()]
    return headers + cookies


def _in_thread(step: Callable[P, T]) -> Callable[P, asyncio.Future[T]]:
    def submitted(*args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        return asyncio.wrap_future(_threads.submit(with_connection_check(step), *args, **kwargs))

    return submitted
