"""procrastinate, 100 jobs at once in one loop, aiohttp and uvloop: `python -m bench.apps.procrastinate_app`."""

from __future__ import annotations

import asyncio
import os
import sys

import aiohttp
import procrastinate
import uvloop

CONCURRENCY = 100

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DATABASE"], max_size=10))
_session: aiohttp.ClientSession | None = None


@app.task(name="deliver", queue="bench")
async def deliver(number: int, body: str) -> int:
    global _session
    _session = _session or aiohttp.ClientSession()
    headers = {"Content-Type": "application/json", "webhook-id": f"msg_{number}"}
    async with _session.post(os.environ["BENCH_SINK"], data=body.encode(), headers=headers) as answer:
        await answer.read()
        answer.raise_for_status()
    return number


async def prepare() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def work() -> None:
    async with app.open_async():
        worker = asyncio.create_task(app.run_worker_async(concurrency=CONCURRENCY))
        await asyncio.sleep(1)  # it says nothing of its own when it listens
        print("ready", flush=True)
        await worker


if __name__ == "__main__":
    uvloop.run(prepare() if sys.argv[1:] == ["prepare"] else work())
