"""Switchboard's HTTP client in a plain loop, nothing else: `python -m bench.client_alone`.

As many calls in flight as a pump has, on the loop that a lane has. Starts at SIGUSR2, and prints how many succeeded.
BENCH_SINK is the address, BENCH_MESSAGES how many.
"""

from __future__ import annotations

import asyncio
import os
import signal
from ipaddress import ip_network

import django

from bench.messages import body

ALLOWED = (ip_network("127.0.0.0/8"),)


def main() -> None:
    django.setup()
    from integrations.tasks import _new_loop

    _new_loop().run_until_complete(_send_all(os.environ["BENCH_SINK"], int(os.environ["BENCH_MESSAGES"])))
    signal.pause()


async def _send_all(url: str, messages: int) -> None:
    from integrations.client import Call, Client
    from integrations.pump import CAPACITY

    calls = [
        Call("POST", url, (("Content-Type", "application/json"), ("webhook-id", f"msg_{n}")), body(n), allowed=ALLOWED)
        for n in range(messages)
    ]
    client, succeeded = Client(), 0
    start = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, start.set)
    print("ready", flush=True)
    await start.wait()

    async def send() -> None:
        nonlocal succeeded
        while calls:
            outcome = await client.send(calls.pop())
            succeeded += outcome.succeeded

    await asyncio.gather(*(send() for _ in range(CAPACITY)))
    print(f"succeeded {succeeded}", flush=True)


if __name__ == "__main__":
    main()
