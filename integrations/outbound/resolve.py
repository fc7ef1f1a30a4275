"""Resolve host names, in threads of their own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from integrations.outbound.addresses import check_port, literal
from integrations.outbound.exchange import ResolveError

LOOKUPS_AT_ONCE = 16  # threads; a dead resolver holds one for each name, see Lookups
HOSTS_FILE = Path("/etc/hosts")
FOR_PEOPLE = ThreadPoolExecutor(4, thread_name_prefix="dns-form")
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Lookups:
    """Resolve names off the event loop, in threads of their own.

    In the loop's shared threads one dead resolver would starve everything else there, the database included. For the
    same reason all callers of a name share one lookup: a name that never resolves holds one thread, not one for each
    message.
    """

    def __init__(self, resolve: Resolve | None) -> None:
        self._resolve = resolve
        self._threads: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._running: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def addresses_of(self, host: str, port: int) -> list[str]:
        """Raises socket.gaierror, UnicodeError, and ResolveError once the client is closed."""
        key = (host, port)
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.get_running_loop().create_task(self._look_up(host, port))
            running.add_done_callback(lambda done: self._forget(key, done))
        try:
            return await asyncio.shield(running)  # one caller's deadline must not end the lookup of the others
        except asyncio.CancelledError:
            if self._is_closed:
                raise ResolveError("the client was closed") from None
            raise

    def close(self) -> None:
        self._is_closed = True
        for running in self._running.values():
            running.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    async def _look_up(self, host: str, port: int) -> list[str]:
        if self._resolve is not None:
            return await self._resolve(host, port)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="dns")
        return await resolve(host, port, self._threads)

    def _forget(self, key: tuple[str, int], done: asyncio.Task[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # read it: asyncio logs an error that no caller has waited for


async def resolve(host: str, port: int, executor: Executor | None = None) -> list[str]:
    """Return every address of a host, in the system's order of preference and without repeats.

    An address in any spelling needs no lookup; a name is looked up in a thread of ``executor``. Raises ValueError for
    a port out of range, socket.gaierror for a name without an address, and UnicodeError for a name that no resolver
    takes.
    """
    check_port(port)
    if address := literal(host):
        return [address]
    answers = await asyncio.get_running_loop().run_in_executor(executor, _look_up, host, port)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def look_up_within(host: str, seconds: float) -> list[str]:
    """Return every address of a host for a person who waits. Raises TimeoutError, socket.gaierror and UnicodeError.

    The threads are few and shared: while a resolver is dead, further questions time out as well.
    """
    if address := literal(host):
        return [address]
    answers = FOR_PEOPLE.submit(_look_up, host, 0).result(timeout=seconds)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _look_up(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
    return socket.getaddrinfo(_absolute(host), port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


def _absolute(host: str) -> str:
    """Add a trailing dot to a name, so that the resolver's search domains cannot send it elsewhere.

    Two kinds stay as they are: a single label (``localhost``, a container's name) has no absolute form that the
    resolver would find, and the C library finds an entry of the hosts file only as it is written there.
    """
    name = host.removesuffix(".")
    if "." not in name or _is_in_hosts_file(name):
        return name
    return name + "."


def _is_in_hosts_file(name: str) -> bool:
    try:
        text = HOSTS_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    wanted = name.lower()
    return any(wanted in line.partition("#")[0].lower().split()[1:] for line in text.splitlines())
