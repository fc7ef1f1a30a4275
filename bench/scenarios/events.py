"""Events: 1,000 streams in one web server at 200 events a second, each told to all of them.

The hardest kind of change: events that are not coalesced. A client's lag is from an event's time, which is set just
before its insert, to the moment in which its bytes are read; the clients are one process on the same two cores, so
their own work is in it. Changes of messages cost a stream less: they are one event per service and second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from datetime import datetime
from statistics import median
from typing import Any

import django
import psutil

from bench.contender import end, wait_for
from bench.places import Database
from bench.scenarios import Options, quiet
from tests.support.installation import free_port

CLIENTS = 1_000
RATE = 200  # events a second
SECONDS = 20
TOKENS = 20
MEMORY_BOUND = 150.0  # MB, the whole process
LAG_BOUND = 2.0  # seconds


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    clients, events = options.scaled(CLIENTS), options.scaled(RATE * SECONDS)
    options.say(f"{'':10}{'lag p50 / p99 / most, s':>26}{'MB before / most':>20}{'threads':>9}{'connections':>13}")
    for on in options.databases:
        database = options.site.fresh(on)
        with quiet():
            found[on] = _measure(on, database, clients, events, options, found["missed"])
        database.close()
    return found


def _measure(
    on: str, database: Database, clients: int, events: int, options: Options, missed: list[str]
) -> dict[str, Any]:
    port = free_port()
    server = database.start("manage.py", "serve", "--port", str(port))
    try:
        process = psutil.Process(server.pid)
        wait_for(lambda: any(of.laddr.port == port for of in process.net_connections("tcp")), server, database)
        before = process.memory_info().rss / 1e6
        arguments = ("-m", __name__, "follow", "--port", str(port), "--clients", str(clients), "--events", str(events))
        following = subprocess.Popen(
            [database.program, *arguments], env=database.env, stdout=subprocess.PIPE, text=True, cwd="."
        )
        seen = {"mb": before, "threads": 0, "connections": 0}
        while following.poll() is None:
            seen["mb"] = max(seen["mb"], process.memory_info().rss / 1e6)
            seen["threads"] = max(seen["threads"], process.num_threads())
            seen["connections"] = max(seen["connections"], _connections(on, database, process))
            time.sleep(0.5)
        answered = following.communicate()[0]
    finally:
        end(server)
    if following.returncode:
        missed.append(f"{on}: the clients ended with {following.returncode}: no figure")
        return {}
    heard = json.loads(answered)
    if heard["least"] != events or heard["most"] != events:
        missed.append(f"{on}: clients read {heard['least']} to {heard['most']} of {events} events: no figure")
        return {}
    lag = f"{heard['p50']:.2f} / {heard['p99']:.2f} / {heard['worst']:.2f}"
    memory = f"{before:.0f} / {seen['mb']:.0f}"
    options.say(f"{on:10}{lag:>26}{memory:>20}{seen['threads']:>9}{seen['connections']:>13}")
    if seen["mb"] > MEMORY_BOUND:
        missed.append(f"{on}: {seen['mb']:.0f} MB, at most {MEMORY_BOUND:g}")
    if heard["worst"] > LAG_BOUND:
        missed.append(f"{on}: {heard['worst']:.2f} s behind, at most {LAG_BOUND:g}")
    return {"clients": clients, "events": events, "mb_before": before, **seen, "lag": heard}


def _connections(on: str, database: Database, process: psutil.Process) -> int:
    """Of the server to its database."""
    if on == "postgres":
        ours = database.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return ours[0] - 1  # the writer's
    return sum(file.path.endswith(".sqlite3") for file in process.open_files())


# ---- in a process of its own, because settings are read once --------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("follow", "write"))
    parser.add_argument("--port", type=int)
    parser.add_argument("--clients", type=int)
    parser.add_argument("--events", type=int)
    options = parser.parse_args()
    django.setup()
    if options.way == "write":
        _write(options.events)
    else:
        print(json.dumps(asyncio.run(_follow(_tokens(), options.port, options.clients, options.events))))


def _tokens() -> list[str]:
    from django.db import connection

    from integrations.models import Role, Token

    tokens = [Token.objects.issue(f"bench-{number}", Role.VIEWER)[1] for number in range(TOKENS)]
    connection.close()
    return tokens


def _write(events: int) -> None:
    """At RATE, ten times a second."""
    from django.utils import timezone

    from integrations.models import Event

    began, step = time.monotonic(), RATE // 10
    for first in range(0, events, step):
        time.sleep(max(0.0, began + first / RATE - time.monotonic()))
        facts = {"total": events, "succeeded": first, "failed": 0, "skipped": 0}
        Event.objects.bulk_create(
            Event(type="operation.progressed", at=timezone.now(), subject=f"op_{number}", facts=facts)
            for number in range(first, min(first + step, events))
        )


class Client:
    """Reads one stream; of each part that it reads, the lag of the first event that is whole in it."""

    AT = re.compile(rb'"at":"([^"]+)"')

    def __init__(self) -> None:
        self.events = 0
        self.lags: list[float] = []
        self.has_begun = asyncio.Event()

    async def read(self, port: int, token: str, events: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = "GET /api/v1/events?topics=operations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        writer.write(f"{asked}Authorization: Bearer {token}\r\n\r\n".encode())
        if b" 200 " not in (status := await reader.readline()):
            raise RuntimeError(f"the stream was answered with {status!r}")
        await reader.readuntil(b'"hello"')
        self.has_begun.set()
        rest = b""
        while self.events < events and (part := await reader.read(1 << 18)):
            now = time.time()
            text = rest + part
            rest = text[-len(b"event: operation") + 1 :]
            self.events += text.count(b"event: operation") - rest.count(b"event: operation")
            if found := self.AT.search(part):
                self.lags.append(now - datetime.fromisoformat(found[1].decode()).timestamp())
        writer.close()


async def _follow(tokens: list[str], port: int, number: int, events: int) -> dict[str, float]:
    clients = [Client() for _ in range(number)]
    reading = []
    for index, client in enumerate(clients):
        reading.append(asyncio.create_task(client.read(port, tokens[index % len(tokens)], events)))
        if index % 50 == 0:
            await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        await asyncio.gather(*(client.has_begun.wait() for client in clients))
    for client in clients:
        client.lags.clear()  # of the hello
    writer = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, "write", "--events", str(events))
    try:
        async with asyncio.timeout(events / RATE + 30):
            await asyncio.gather(*reading)
    finally:
        await writer.wait()
    lags = sorted(lag for client in clients for lag in client.lags)
    read = [client.events for client in clients]
    p99 = lags[int(len(lags) * 0.99)]
    return {"least": min(read), "most": max(read), "p50": median(lags), "p99": p99, "worst": lags[-1]}


if __name__ == "__main__":
    main()
