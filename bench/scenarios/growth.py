"""Growth: deliveries a second with 5 million finished messages, and claims from a million that are due.

The full database and the empty one take turns; in the median of the rounds they may differ by a tenth. A claim may
not take longer with a million messages due than with ten thousand, by more than half, and none of its statements may
read the whole table. Filling the databases takes minutes and 15 GB, one after the other.
"""

from __future__ import annotations

import json
import shutil
import time
from statistics import median
from typing import Any

from bench.fleet import all_finished, clusters
from bench.load import queue
from bench.places import Database
from bench.recorder import Recorder
from bench.scenarios import Options, quiet
from bench.seed import BACKLOG

FINISHED = 5_000_000
PARTS = 5
BYTES_EACH = 2_000  # of disk for each finished message, about
MESSAGES = 15_000
ROUNDS = 9
DIFFERENCE = 0.1
DUE = (10_000, 100_000, 1_000_000)
LONGER = 1.5


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    recorder = Recorder(options.site.folder)
    try:
        for on in options.databases:
            found[on] = _grow(on, recorder, options, found["missed"])
    finally:
        recorder.close()
    return found


def _grow(on: str, recorder: Recorder, options: Options, missed: list[str]) -> dict[str, Any]:
    finished = options.scaled(FINISHED)
    if shutil.disk_usage(options.site.folder).free < 2 * finished * BYTES_EACH:
        missed.append(f"{on}: there is no room on the disk for {finished:,} messages")
        return {}
    empty, full = options.site.fresh(on), options.site.fresh(on)
    try:
        took = 0.0
        for _ in range(PARTS):  # so that no other measurement waits long for the machine
            with quiet():
                began = time.monotonic()
                full.run("-m", "bench.seed", "--messages", str(finished // PARTS))
                took += time.monotonic() - began
        options.say(f"{on:10}{finished:,} finished messages were made in {took:.0f} s")
        rates: dict[str, list[float]] = {"empty": [], "full": []}
        messages = options.scaled(MESSAGES, least=500)
        for number in range(ROUNDS):
            for name, database in (("empty", empty), ("full", full))[:: 1 if number % 2 == 0 else -1]:
                with quiet():
                    rates[name].append(_drain(f"{name}-{number}", messages, database, recorder))
            options.say(f"{on:10}{rates['empty'][-1]:8,.0f}/s, {rates['full'][-1]:8,.0f}/s")
        # Of each round by itself: the machine may get slower from round to round.
        share = median(filled / alone for alone, filled in zip(rates["empty"], rates["full"], strict=True))
        options.say(
            f"{on:10}{median(rates['empty']):8,.0f}/s with none, {median(rates['full']):8,.0f}/s with all: {share:.0%}"
        )
        if share < 1 - DIFFERENCE:
            missed.append(f"{on}: with {finished:,} finished messages {share:.0%} of the rate with none")
        return {"rates": rates, "share": round(share, 3), "claims": _claims(on, full, options, missed)}
    finally:
        empty.close()
        full.close()


def _drain(name: str, messages: int, database: Database, recorder: Recorder) -> float:
    """Deliveries a second, from the release of queued messages to the last result in the database."""
    recorder.reset()
    service = {"name": name, "base_url": recorder.url(1), "status": "paused", "limits": {"concurrency": 500}}
    queue(database, [{"service": service, "messages": messages}])
    with clusters(database, count=1):
        began = time.monotonic()
        database.ask(
            f"UPDATE integrations_service SET status = 'active' WHERE name = '{name}'",
            *(["NOTIFY switchboard_due"] if database.url else []),
        )
        if not all_finished(database, within=120) or recorder.count() != messages:
            raise RuntimeError(f"{recorder.count()} calls for {messages} messages of {name}")
        return messages / (time.monotonic() - began)


def _claims(on: str, database: Database, options: Options, missed: list[str]) -> dict[str, Any]:
    """The time of a claim as the backlog grows."""
    due, took = 0, {}
    for wanted in DUE:
        backlog = options.scaled(wanted, least=1000)
        database.run("-m", "bench.seed", "--pending", str(max(0, backlog - due)))
        due = max(due, backlog)
        with quiet():
            answer = json.loads(database.run("-m", "bench.claims", BACKLOG).splitlines()[-1])
        took[due] = answer["milliseconds"]
        options.say(f"{on:10}{due:10,} due: a claim takes {answer['milliseconds']:.1f} ms")
        if not answer["claimed"]:
            missed.append(f"{on}: nothing was claimed of {due:,}")
        missed += [f"{on}: with {due:,} due a claim reads all messages:\n{scan}" for scan in answer["scans"]]
    if max(took.values()) > LONGER * took[min(took)]:
        missed.append(f"{on}: a claim takes {took} ms as the backlog grows")
    return {f"{due:,} due": round(milliseconds, 2) for due, milliseconds in took.items()}
