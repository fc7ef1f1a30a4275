"""The ASGI application on a port, in this process, with its own threads and connections."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from django.db import connection

from integrations.api.asgi.http_protocol import LimitedHttpProtocol


class Served:
    """A uvicorn as `manage.py serve` starts it; ``application`` is the whole one, or its WSGI part alone."""

    def __init__(self, application: Any, **settings: Any) -> None:
        """``settings``: of uvicorn, in place of those below."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        standard: dict[str, Any] = {"lifespan": "off", "log_config": None, "timeout_graceful_shutdown": 5}
        standard |= {"http": LimitedHttpProtocol}
        config = uvicorn.Config(application, **standard | settings)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()

    def send(self, *requests: dict[str, Any]) -> list[httpx.Response]:
        """Sends requests all at once, each over a connection of its own; the answers in their order."""
        return asyncio.run(self._send(requests))

    async def _send(self, requests: Sequence[dict[str, Any]]) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=self.url, timeout=20, trust_env=False, verify=False) as client:
            return await asyncio.gather(*(client.request(**request) for request in requests))


@contextmanager
def held(pool: ThreadPoolExecutor, threads: int = 1) -> Iterator[Callable[[], None]]:
    """Keeps so many threads of a pool busy; until the end, or until the function is called."""
    release = threading.Event()
    begun = threading.Barrier(threads + 1)

    def wait() -> None:
        begun.wait(10)
        release.wait(20)

    waiting = [pool.submit(wait) for _ in range(threads)]
    begun.wait(10)
    try:
        yield release.set
    finally:
        release.set()
        for one in waiting:
            one.result(10)


def close_connections(pool: ThreadPoolExecutor) -> None:
    """Of its threads, so that the test database can be removed."""
    count = len(pool._threads)
    together = threading.Barrier(count) if count else None

    def close() -> None:
        assert together
        together.wait(10)
        connection.close()

    closing: list[Future[None]] = [pool.submit(close) for _ in range(count)]
    for one in closing:
        one.result(10)
