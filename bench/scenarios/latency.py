"""Latency: from accepted to received at 100 messages a second, and what a cluster takes while nothing comes.

One cluster with two lanes. A message is accepted when `Message.objects.accept` has returned, or when the API has
answered 202: it is on disk then. It is received when its bytes are at the receiver, a C program that takes the time.
The attempt's row says when the lane began with the call, so that the way falls into two parts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import django

from bench.contender import Tree, end, wait_for
from bench.fleet import all_finished
from bench.messages import body
from bench.places import Database
from bench.recorder import Recorder
from bench.scenarios import Options, quiet
from tests.support.installation import free_port

RATE = 100.0  # messages a second
SECONDS = 10
WARM_UP = 100  # messages before those that are counted
IDLE_LOOK = 8.0  # seconds
BOUNDS = {"sqlite": (15.0, 30.0), "postgres": (4.0, 10.0)}  # milliseconds: p50, p99
IDLE_BOUND = 8.0  # percent of a core
LANES = 2


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    options.say(
        f"{'ms, p50 / p99':22}{'whole way':>16}{'to the call':>16}{'to receipt':>16}{'with accept':>16}{'idle %':>8}"
    )
    recorder = Recorder(options.site.folder)
    try:
        for on in options.databases:
            found[on] = {}
            for way in ("accept", "post"):
                database = options.site.fresh(on)
                with quiet():
                    found[on][way] = _measure(way, on, database, recorder, options, found["missed"])
                database.close()
    finally:
        recorder.close()
    return found


def _measure(
    way: str, on: str, database: Database, recorder: Recorder, options: Options, missed: list[str]
) -> dict[str, Any]:
    messages = options.scaled(RATE * SECONDS) + WARM_UP
    port = free_port()
    process = _start(database, port if way == "post" else None)
    try:
        idle = Tree(process.pid).share_of_a_core(max(1.0, IDLE_LOOK * min(1.0, options.scale))) * 100
        recorder.reset()
        sent = _ask(database, way, "--url", recorder.url(1), "--messages", str(messages), "--port", str(port))
        whole = all_finished(database, within=15)
        starts = _ask(database, "starts")
    finally:
        end(process)
    received = {call.number: call.at for call in recorder.calls()}
    label = f"{way} on {on}"
    if not whole or len(received) != messages or len(starts) != messages:
        missed.append(f"{label}: {len(received)} of {messages} received, {len(starts)} recorded: no figure")
        return {}
    rows = [
        (received[number] - accepted, start - accepted, received[number] - start, received[number] - began)
        for number, ((began, accepted), start) in enumerate(zip(sent, starts, strict=True))
    ][WARM_UP:]
    spans = [_percentiles([row[part] * 1e3 for row in rows]) for part in range(4)]
    cells = "".join(f"{f'{p50:.1f} / {p99:.1f}':>16}" for p50, p99 in spans)
    options.say(f"{label:22}{cells}{idle:8.1f}")
    missed += [
        f"{label}: {name} {reached:.1f} ms, at most {bound:g}"
        for name, reached, bound in zip(("p50", "p99"), spans[0], BOUNDS[on], strict=True)
        if reached > bound
    ]
    if way == "accept" and idle >= IDLE_BOUND:
        missed.append(f"{label}: the idle cluster takes {idle:.1f} % of a core, below {IDLE_BOUND:g}")
    names = ("accepted_to_received", "accepted_to_call", "call_to_received", "asked_to_received")
    return {"messages": len(rows), "idle_cpu_percent": idle} | {
        f"{name}_ms": {"p50": p50, "p99": p99} for name, (p50, p99) in zip(names, spans, strict=True)
    }


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p99."""
    return median(values), sorted(values)[int(len(values) * 0.99)]


def _start(database: Database, port: int | None) -> subprocess.Popen[bytes]:
    """The cluster, with the web server where there is a port for it."""
    web = ("--no-web",) if port is None else ("--port", str(port))
    process = database.start("manage.py", "up", *web, "--workers", str(LANES))
    alive = "SELECT count(*) FROM integrations_worker WHERE stopped_at IS NULL"
    wait_for(lambda: database.ask(alive) == [LANES], process, database)
    return process


def _ask(database: Database, *arguments: str) -> list[Any]:
    found: list[Any] = json.loads(database.run("-m", __name__, *arguments))
    return found


# ---- in a process of its own, because settings are read once --------------------------------------------------------
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=("accept", "post", "starts"))
    parser.add_argument("--url")
    parser.add_argument("--messages", type=int)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    django.setup()
    print(json.dumps(_starts() if options.way == "starts" else _send(options)))


def _starts() -> list[float]:
    """When the lanes began with each message's call, in the order in which the messages were accepted."""
    from integrations.models import Attempt

    return [at.timestamp() for at in Attempt.objects.order_by("message_id").values_list("started_at", flat=True)]


def _send(options: argparse.Namespace) -> list[tuple[float, float]]:
    """Accepts the messages one after the other at RATE; when each was asked for and when it was accepted."""
    from integrations.models import Draft, Message, Service

    service = Service.objects.create(name="sink", base_url=options.url)
    if options.way == "accept":
        draft: dict[str, Any] = {
            "service": service,
            "method": "POST",
            "path": "/hook",
            "content_type": "application/json",
        }
        accept = lambda number: Message.objects.accept([Draft(**draft, body=body(number))])  # noqa: E731
    else:
        accept = _poster(options.port)
    began, times = time.monotonic() + 0.5, []
    for number in range(options.messages):
        if (ahead := began + number / RATE - time.monotonic()) > 0:
            time.sleep(ahead)
        asked = time.time()
        accept(number)
        times.append((asked, time.time()))
    return times


def _poster(port: int) -> Any:
    import httpx

    from integrations.models import Role, Token

    _, secret = Token.objects.issue("bench", Role.OPERATOR, None)
    api = httpx.Client(headers={"Authorization": f"Bearer {secret}"}, timeout=10, trust_env=False)

    def post(number: int) -> None:
        sent = {"service": "sink", "path": "/hook", "body": json.loads(body(number))}
        api.post(f"http://127.0.0.1:{port}/api/v1/messages", json=sent).raise_for_status()

    return post


if __name__ == "__main__":
    main()
