"""The body of a request, received on the event loop before the request takes a thread, within limits of size and time.

A thread that reads from a client waits as long as the client likes: 18 half-sent POSTs held all 16 threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asgiref.typing import ASGIReceiveCallable as Receive

from integrations.api.auth import too_large
from integrations.api.problems import Problem

SECONDS = 30.0  # for a whole body: a form of 4 MiB needs 1.1 Mbit/s, a batch of 16 MiB 4.5 Mbit/s
GRACE = 5.0  # seconds before the least rate counts: time for a lost packet and its retransmissions
LEAST_RATE = 1024.0  # bytes a second. Every usable link carries more, so a slower client is stalled, or an attack.


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete; no response is needed."""


async def receive_body(receive: Receive, limit: int, reserve: Callable[[int], None]) -> bytes:
    """Receive a whole body of at most ``limit`` bytes. ``reserve`` gets the size of each part before it is kept.

    Raises Problem(413), Problem(408), ClientDisconnected, and the errors of ``reserve``.
    """
    began = asyncio.get_running_loop().time()
    parts: list[bytes] = []
    size, has_more = 0, True
    try:
        async with asyncio.timeout_at(began + GRACE) as deadline:
            while has_more:
                event = await receive()
                if event["type"] != "http.request":
                    raise ClientDisconnected
                size += len(event["body"])
                if size > limit:
                    raise too_large(limit)
                reserve(len(event["body"]))
                parts.append(event["body"])
                if has_more := event["more_body"]:
                    deadline.reschedule(began + min(SECONDS, GRACE + size / LEAST_RATE))
    except TimeoutError:
        raise Problem(408, "The body did not arrive in time; send it again.") from None
    return b"".join(parts)
