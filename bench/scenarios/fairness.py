"""Fairness: others are served as before next to a hanging service and to a backlog.

Hanging: 100 services get messages at a steady pace, so many that all pumps are busy; in every other run one hangs
for 30 s on each call. The p95 of the others, from acceptance to receipt, may change by a tenth. `wide` is the same with
room for a thousand calls of the hanging one at once, more than all pumps together have.
Backlog: 100,000 messages wait for one service; first messages to another one have to be there within 100 ms.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.fleet import clusters, until
from bench.load import queue, written
from bench.recorder import Recorder
from bench.scenarios import Options, quiet

SERVICES = 100
RATE = {"sqlite": 100, "postgres": 200}  # messages a second, accepted one by one; a p95 at the limit is a toss
SECONDS = 10
HANGS = 30.0  # seconds of each call
ROUNDS = 3
CHANGE = 0.1
WIDTHS = {"usual": 10, "wide": 1000}  # concurrency of the hanging service

BACKLOG = 100_000
FIRSTS = 40  # first messages to another service, one every quarter of a second
WITHIN = 0.1

OTHERS = 1000  # the stream of the first of the others


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    recorder = Recorder(options.site.folder)
    try:
        for on in options.databases:
            found[on] = {"hanging": _hanging(on, recorder, options, found["missed"])}
            with quiet():
                found[on]["backlog"] = _backlog(on, recorder, options, found["missed"])
    finally:
        recorder.close()
    return found


# ---- a service that hangs -------------------------------------------------------------------------------------------
def _hanging(on: str, recorder: Recorder, options: Options, missed: list[str]) -> dict[str, Any]:
    late: dict[str, list[float]] = {name: [] for name in ("none", *WIDTHS)}
    for number in range(ROUNDS):
        for name in list(late)[:: 1 if number % 2 == 0 else -1]:
            with quiet():
                late[name].append(_p95(on, name, recorder, options))
        options.say(f"{on:10}" + ", ".join(f"{name} {values[-1] * 1000:.1f} ms" for name, values in late.items()))
    found = {name: round(median(values) * 1000, 2) for name, values in late.items()}
    options.say(f"{on:10}p95 of the others: " + ", ".join(f"{name} {value:.1f} ms" for name, value in found.items()))
    for name in WIDTHS:
        change = found[name] / found["none"] - 1
        if change > CHANGE:
            missed.append(f"{on}: with a hanging service ({name}) the others' p95 changes by {change:+.0%}")
    return {"p95 in ms": found, "runs": late}


def _p95(on: str, hanging: str, recorder: Recorder, options: Options) -> float:
    """The p95 of the services that do not hang, in seconds; infinite where a message did not come."""
    database, seconds = options.site.fresh(on), options.scaled(SECONDS, least=2)
    recorder.reset()
    others: list[dict[str, Any]] = [
        {
            "service": {"name": f"other-{number}", "base_url": recorder.url(OTHERS + number)},
            "messages": RATE[on] * seconds // (SERVICES - 1),
        }
        for number in range(SERVICES - 1)
    ]
    if hanging != "none":
        service = {
            "name": "hanging",
            "base_url": recorder.url(1, delay=HANGS),
            "limits": {"concurrency": WIDTHS[hanging]},
            "timeout": {"total": 2 * HANGS},
        }
        queue(database, [{"service": service, "messages": 2 * max(WIDTHS.values())}])
    with clusters(database, count=1):
        if hanging != "none":
            until(lambda: recorder.count() >= min(WIDTHS[hanging], 500), within=20)
        file = written(database, others)
        database.run("-m", "bench.load", str(file), "--rate", str(RATE[on]))
        expected = sum(load["messages"] for load in others)
        until(lambda: sum(call.stream >= OTHERS for call in recorder.calls()) >= expected, within=10)
        waits = _waits(file, recorder)
    database.close()
    if len(waits) < expected:
        return float("inf")
    return sorted(waits)[len(waits) * 95 // 100]


def _waits(file: Path, recorder: Recorder) -> list[float]:
    """Seconds from the acceptance of each of the others' messages to its receipt, for those that came."""
    came: dict[tuple[int, int], float] = {}
    for call in recorder.calls():
        came.setdefault((call.stream, call.number), call.at)
    accepted = json.loads(Path(f"{file}.accepted").read_text())
    waits = [
        came[key] - at
        for name, number, at in accepted
        if (key := (OTHERS + int(name.rpartition("-")[2]), number)) in came
    ]
    return [max(0.0, wait) for wait in waits]  # it may be there before the commit has been heard of


# ---- a service with a backlog ---------------------------------------------------------------------------------------
def _backlog(on: str, recorder: Recorder, options: Options, missed: list[str]) -> dict[str, Any]:
    database, backlog = options.site.fresh(on), options.scaled(BACKLOG, least=5000)
    recorder.reset()
    busy = {"name": "busy", "base_url": recorder.url(1), "limits": {"concurrency": 1000}, "status": "paused"}
    queue(database, [{"service": busy, "messages": backlog}])
    firsts = [
        {"service": {"name": f"other-{number}", "base_url": recorder.url(OTHERS + number)}, "messages": 1}
        for number in range(FIRSTS)
    ]
    with clusters(database, count=1):
        database.ask("UPDATE integrations_service SET status = 'active' WHERE name = 'busy'")
        until(lambda: recorder.count() >= 1000, within=10)
        began = time.monotonic()
        file = written(database, firsts)
        database.run("-m", "bench.load", str(file), "--rate", "4")
        until(lambda: sum(call.stream >= OTHERS for call in recorder.calls()) >= FIRSTS, within=5)
        took = time.monotonic() - began
        waits = sorted(_waits(file, recorder))
        left = backlog - sum(call.stream == 1 for call in recorder.calls())
    database.close()
    if len(waits) < FIRSTS:
        missed.append(f"{on}: {len(waits)} of {FIRSTS} first messages came with a backlog waiting")
        return {}
    if left <= 0:
        options.say(f"{on:10}the backlog was gone before the end: {backlog:,} messages are too few")
    found = {"median ms": round(median(waits) * 1000, 1), "most ms": round(waits[-1] * 1000, 1), "left": left}
    options.say(f"{on:10}with {backlog:,} waiting: first messages after {found}, {took:.0f} s")
    if waits[-1] > WITHIN:
        missed.append(f"{on}: with a backlog waiting, a first message took {waits[-1] * 1000:.0f} ms")
    return found
