"""Clients without an account that send half requests, nothing, or headers without end, and a user at the same time.

tests/api/test_http_protocol.py and tests/api/test_request_bodies.py show the responses to each of them; this test shows
the response times of the user, and the memory of the web process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from statistics import quantiles

import httpx
import pytest

from tests.support.installation import Installation

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(280)]

SECONDS = 12.0  # longer than a head may take, and than the grace of a body
USED = ("/login/", "/readyz")
SLACK = 0.25  # seconds; the attackers share the machine's processors with the server
MEMORY = 64 * 1024 * 1024  # bytes that the web process may grow

HALF_SENT, SILENT, HEADERS = 18, 250, 70 * 1024 * 1024
HEAD = b"POST /login/ HTTP/1.1\r\nHost: localhost\r\nCookie: switchboard_csrf=" + b"a" * 32 + b"\r\n"
HALF_A_FORM = (
    HEAD + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ncsrfmiddlewaretoken=aaaa"
)


def test_hostile_clients_stopped_the_console(
    start_installation: Callable[..., Installation], capsys: pytest.CaptureFixture[str]
) -> None:
    installation = start_installation("--no-workers")
    (web,) = installation.processes()["web"]
    asyncio.run(use(installation.url, 1))
    memory = web.memory_info().rss
    alone = asyncio.run(use(installation.url, 4))
    attacked = asyncio.run(attack_and_use(installation))
    grown = web.memory_info().rss - memory
    with capsys.disabled():
        print(f"\n  the web process grew by {grown / 2**20:.1f} MiB")
        for path in USED:
            print(f"  {path}: {figures(alone[path])} alone; {figures(attacked[path])} under attack")
    for path in USED:
        assert all(seconds < 5 for seconds in attacked[path]), f"{path} did not respond"
        assert p95(attacked[path]) < 2 * p95(alone[path]) + SLACK
    assert grown < MEMORY


def p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


def figures(seconds: list[float]) -> str:
    middle = quantiles(seconds, n=2)[0]
    return f"median {middle * 1000:.0f} ms, p95 {p95(seconds) * 1000:.0f} ms, {len(seconds)} requests"


# ---- the user -------------------------------------------------------------------------------------------------------
async def use(url: str, seconds: float) -> dict[str, list[float]]:
    """Ask for the pages in turn, each over a new connection; the seconds that each took, 5 where it took longer."""
    taken: dict[str, list[float]] = {path: [] for path in USED}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in USED:
            began = time.monotonic()
            async with httpx.AsyncClient(base_url=url, timeout=5, trust_env=False, verify=False) as client:
                with suppress(httpx.HTTPError):
                    assert (await client.get(path)).status_code == 200
            taken[path].append(time.monotonic() - began)
        await asyncio.sleep(0.05)
    return taken


# ---- the attackers --------------------------------------------------------------------------------------------------
async def attack_and_use(installation: Installation) -> dict[str, list[float]]:
    attackers: list[Callable[[int], Coroutine[None, None, None]]] = [half_a_form] * HALF_SENT
    attackers += [silence] * SILENT
    attackers += [endless_headers]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(without_end(attack, installation.port)) for attack in attackers]
        await asyncio.sleep(1)
        taken = await use(installation.url, SECONDS)
        for task in tasks:
            task.cancel()
    return taken


async def without_end(attack: Callable[[int], Coroutine[None, None, None]], port: int) -> None:
    """Attack again when the server ends the connection, after a pause that keeps the load on the machine small."""
    while True:
        with suppress(OSError):
            await attack(port)
        await asyncio.sleep(0.5)


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def half_a_form(port: int) -> None:
    async with connection(port) as (reader, writer):
        writer.write(HALF_A_FORM)
        await reader.read()


async def silence(port: int) -> None:
    async with connection(port) as (reader, _):
        await reader.read()


async def endless_headers(port: int) -> None:
    async with connection(port) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        line = b"X-Filler: " + b"a" * 8_000 + b"\r\n"
        for _ in range(HEADERS // len(line) // 8):
            writer.write(line * 8)
            await writer.drain()
        await asyncio.sleep(60)
