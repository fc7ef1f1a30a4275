"""Switchboard's HTTP client in a plain loop, nothing else: `python -m bench.client_alone`.

As many calls in flight as a pump has, on the loop that a lane has. Starts at SIGUSR2, and prints how many succeeded.
BENCH_SINK is the address, BENCH_MESSAGES how many.
"""

from __future__ import annotations

import asyncio
import os
import signal
from ipaddress import ip_network
from typing import TYPE_CHECKING

import django

from bench.messages import body

if TYPE_CHECKING:
    from integrations.outbound.client import Call

ALLOWED = (ip_network("127.0.0.0/8"),)


def main() -> None:
    django.setup()
    from integrations.workers.pump import freeze_startup_objects, new_loop

    freeze_startup_objects()
    calls = calls_to(os.environ["BENCH_SINK"], int(os.environ["BENCH_MESSAGES"]))
    new_loop().run_until_complete(_send_when_told(calls))
    signal.pause()


async def _send_when_told(calls: list[Call]) -> None:
    start = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, start.set)
    print("ready", flush=True)
    await start.wait()
    print(f"succeeded {await send_all(calls)}", flush=True)


def calls_to(url: str, messages: int) -> list[Call]:
    from integrations.outbound.client import Call

    return [
        Call("POST", url, (("Content-Type", "application/json"), ("webhook-id", f"msg_{n}")), body(n), allowed=ALLOWED)
        for n in range(messages)
    ]


async def send_all(calls: list[Call]) -> int:
    """Send the calls and return how many succeeded."""
    from integrations.outbound.client import Client
    from integrations.workers.pump import CAPACITY

    client, succeeded = Client(), 0

    async def send() -> None:
        nonlocal succeeded
        while calls:
            outcome = await client.send(calls.pop())
            succeeded += outcome.succeeded

    await asyncio.gather(*(send() for _ in range(CAPACITY)))
    await client.aclose()
    return succeeded


if __name__ == "__main__":
    main()
