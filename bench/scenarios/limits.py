"""Limits: rate and concurrency at the receiver, with four pumps in two clusters.

A rate of up to 200/s may be exceeded by one call in any second, a higher one by 2 %; 95 % of it must be used. The
receiver is a C program that takes the time of each call when its bytes are there, and counts its own calls under way.
"""

from __future__ import annotations

import math
from typing import Any

from bench.fleet import all_finished, clusters
from bench.load import queue
from bench.places import Database
from bench.recorder import Received, Recorder
from bench.scenarios import Options, quiet

RATES = (5, 50, 200, 1000)  # a second
SECONDS = 10  # of each rate
EXACT = 200  # up to this rate one call more is all that is allowed
USED = 0.95
CONCURRENCIES = ((7, 0.02), (50, 0.005))  # with so many seconds for each call
CALLS = 3_000  # for each concurrency


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    recorder = Recorder(options.site.folder)
    try:
        for on in options.databases:
            database = options.site.fresh(on)
            with quiet(), clusters(database):
                found[on] = {
                    **{f"{rate}/s": _rate(rate, on, database, recorder, options, found["missed"]) for rate in RATES},
                    **{
                        f"{limit} at once": _concurrency(limit, delay, on, database, recorder, options, found["missed"])
                        for limit, delay in CONCURRENCIES
                    },
                }
            database.close()
    finally:
        recorder.close()
    return found


def _rate(
    rate: int, on: str, database: Database, recorder: Recorder, options: Options, missed: list[str]
) -> dict[str, float]:
    messages = options.scaled(rate * SECONDS, least=rate * 3)
    calls = _deliver(
        {"name": f"rate-{rate}", "base_url": recorder.url(rate), "limits": {"rate": rate, "concurrency": 1000}},
        messages,
        database,
        recorder,
    )
    at = [call.at for call in calls]
    most, used = most_in_a_window(at, 1.0), (len(at) - 1) / (at[-1] - at[0]) / rate
    allowed = rate + 1 if rate <= EXACT else math.floor(rate * 1.02)
    options.say(f"{on:10}{rate:6}/s   at most {most:5} in a second, {allowed} allowed; {used:6.1%} used")
    if len(calls) != messages:
        missed.append(f"{on}: {len(calls)} of {messages} calls came at {rate}/s")
    if most > allowed:
        missed.append(f"{on}: {most} calls came in one second, {allowed} are allowed at {rate}/s")
    if used < USED:
        missed.append(f"{on}: {used:.1%} of {rate}/s were used, {USED:.0%} are asked for")
    return {"most in a second": most, "used": round(used, 4)}


def _concurrency(
    limit: int, delay: float, on: str, database: Database, recorder: Recorder, options: Options, missed: list[str]
) -> dict[str, float]:
    messages = options.scaled(CALLS, least=10 * limit)
    calls = _deliver(
        {"name": f"narrow-{limit}", "base_url": recorder.url(limit, delay=delay), "limits": {"concurrency": limit}},
        messages,
        database,
        recorder,
    )
    most = max(call.together for call in calls)
    busy = sum(call.answered - call.at for call in calls) / (calls[-1].answered - calls[0].at) / limit
    options.say(f"{on:10}{limit:6} at once, at most {most:5} at once; {busy:6.1%} of the places were taken")
    if len(calls) != messages:
        missed.append(f"{on}: {len(calls)} of {messages} calls came at {limit} at once")
    if most > limit:
        missed.append(f"{on}: {most} calls were under way at once, {limit} are allowed")
    return {"most at once": most, "places taken": round(busy, 4)}


def _deliver(service: dict[str, Any], messages: int, database: Database, recorder: Recorder) -> list[Received]:
    recorder.reset()
    queue(database, [{"service": service, "messages": messages}])
    all_finished(database, within=60)
    return recorder.calls()


def most_in_a_window(at: list[float], seconds: float) -> int:
    """The most of these times, which are sorted, that lie in any half-open window of this length."""
    most = first = 0
    for index, time in enumerate(at):
        while time - at[first] >= seconds:
            first += 1
        most = max(most, index - first + 1)
    return most
