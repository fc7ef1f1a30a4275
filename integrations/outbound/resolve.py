"""Look names up in threads, and dial the addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from integrations.outbound.addresses import check_port, literal
from integrations.outbound.exchange import ResolveError

LOOKUPS_AT_ONCE = 16  # threads; a dead resolver holds one per name, see Lookups
Resolve = Callable[[str, int], Awaitable[list[str]]]


async def connected(address: str, port: int) -> socket.socket:
    """A TCP connection to exactly this address."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class Lookups:
    """Names to addresses, off the loop and in threads of its own.

    The loop's shared threads would be starved by one dead resolver, and with them the database. For the same reason
    callers of one name share one lookup: a name that never answers holds one thread, not one for each message.
    """

    def __init__(self, resolve: Resolve | None) -> None:
        self._resolve = resolve
        self._threads: ThreadPoolExecutor | None = None
        self._is_closed = False
        self._running: dict[tuple[str, int], asyncio.Task[list[str]]] = {}

    async def of(self, host: str, port: int) -> list[str]:
        key = (host, port)
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.get_running_loop().create_task(self._look_up(host, port))
            running.add_done_callback(lambda done: self._ended(key, done))
        try:
            return await asyncio.shield(running)  # one caller's deadline is not the others'
        except asyncio.CancelledError:
            if self._is_closed:
                raise ResolveError("the client was closed") from None
            raise

    async def _look_up(self, host: str, port: int) -> list[str]:
        if self._resolve is not None:
            return await self._resolve(host, port)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="dns")
        return await resolve(host, port, self._threads)

    def _ended(self, key: tuple[str, int], done: asyncio.Task[list[str]]) -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # looked at, so that asyncio doesn't complain when every caller has gone

    def close(self) -> None:
        self._is_closed = True
        for running in self._running.values():
            running.cancel()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


HOSTS_FILE = Path("/etc/hosts")


async def resolve(host: str, port: int, executor: Executor | None = None) -> list[str]:
    """Every address a host stands for, in the system's order of preference and without repeats.

    A literal in any spelling is read without a lookup; a name is looked up in a thread. Raises ValueError for a port
    out of range and socket.gaierror (UnicodeError for a name no resolver takes) where there is no answer.
    """
    check_port(port)
    if address := literal(host):
        return [address]
    answers = await asyncio.get_running_loop().run_in_executor(executor, _look_up, host, port)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


def _look_up(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]]:
    return socket.getaddrinfo(_absolute(host), port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


def _absolute(host: str) -> str:
    """The name with a trailing dot, so that the resolver's search domains can't send it elsewhere.

    A single label (``localhost``, a container's name) has no absolute form that would be found, and the C library
    finds an entry of the hosts file only as it is written there.
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
