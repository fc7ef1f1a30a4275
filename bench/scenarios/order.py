"""Order: 200 keys through random failures and two killed pumps, and what ordering costs.

Per key, the first 2xx of each message has to come in the order of acceptance. Deliveries a second with a key for each
message have to be 70 % of those without keys, in the same run.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from contextlib import suppress
from statistics import median
from typing import Any

from bench.fleet import all_finished, clusters, until
from bench.load import queue
from bench.places import Database
from bench.recorder import Received, Recorder
from bench.scenarios import Options, quiet

KEYS, EACH = 200, 50
FAILING = 20  # percent of the calls
RETRY = {"initial": 0.05, "factor": 1, "jitter": 0.5, "max_attempts": 100, "budget": 1}
ENDS_WITHIN = 120.0  # seconds; two leases of 20 s have to run out

DISTINCT = 10_000
ROUNDS = 3
SHARE = 0.7

BUSIEST = (
    "SELECT worker.pid FROM integrations_message message"
    " JOIN integrations_worker worker ON worker.id = message.worker_id"
    " WHERE message.status = 'delivering' AND worker.stopped_at IS NULL"
    " GROUP BY worker.pid ORDER BY count(*) DESC"
)
OUTCOMES = "SELECT count(*) FROM integrations_attempt WHERE outcome = '{}'"
DELIVERED = "SELECT count(*) FROM integrations_message WHERE status = 'delivered'"


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    recorder = Recorder(options.site.folder)
    try:
        for on in options.databases:
            with quiet():
                found[on] = _order(on, recorder, options, found["missed"])
            with quiet():
                found[on] |= _cost(on, recorder, options, found["missed"])
    finally:
        recorder.close()
    return found


# ---- failures and kills ---------------------------------------------------------------------------------------------
def _order(on: str, recorder: Recorder, options: Options, missed: list[str]) -> dict[str, Any]:
    database, each = options.site.fresh(on), options.scaled(EACH, least=5)
    recorder.reset()
    began = time.monotonic()
    service = {"name": "ledger", "base_url": recorder.url(1, delay=0.005, failing=FAILING), "retry": RETRY}
    with clusters(database):
        queue(
            database,
            [
                {
                    "service": service | {"ordering": "key", "limits": {"concurrency": KEYS}},
                    "messages": KEYS * each,
                    "keys": KEYS,
                }
            ],
        )
        killed = 0
        for part in (4, 2):
            until(lambda: recorder.count() >= KEYS * each // part, within=ENDS_WITHIN)  # noqa: B023
            killed += _kill_a_busy_pump(database)
        all_finished(database, within=ENDS_WITHIN)
        calls = recorder.calls()
        (delivered,), (lost,) = database.ask(DELIVERED), database.ask(OUTCOMES.format("lost"))
    database.close()
    early = out_of_order(calls, KEYS)
    facts = {
        "messages": KEYS * each,
        "delivered": delivered,
        "calls": len(calls),
        "failed calls": sum(call.status != 200 for call in calls),
        "pumps killed": killed,
        "calls lost": lost,
        "early": len(early),
        "seconds": round(time.monotonic() - began, 1),
    }
    options.say(f"{on:10}" + ", ".join(f"{name} {value:,}" for name, value in facts.items()))
    if delivered != KEYS * each:
        missed.append(f"{on}: {delivered} of {KEYS * each} messages were delivered")
    if killed != 2 or not lost:
        missed.append(f"{on}: {killed} pumps were killed with {lost} calls, two busy ones are asked for")
    if early:
        missed.append(f"{on}: {len(early)} messages came before one ahead of them in their key, first {early[:3]}")
    return facts


def out_of_order(calls: list[Received], keys: int) -> list[int]:
    """The messages that had their first 2xx before another one of their key that was accepted earlier."""
    seen: set[int] = set()
    next_of_key: dict[int, int] = defaultdict(int)
    early = []
    for call in calls:
        if call.status == 200 and call.number not in seen:
            seen.add(call.number)
            key, place = call.number % keys, call.number // keys
            if place != next_of_key[key]:
                early.append(call.number)
            next_of_key[key] = place + 1
    return early


def _kill_a_busy_pump(database: Database) -> int:
    """kill -9 of the pump that holds most claims; 0 where none holds any."""
    busiest: list[Any] = []

    def is_any_busy() -> bool:
        busiest[:] = database.ask(BUSIEST)
        return bool(busiest)

    if until(is_any_busy, within=10):
        with suppress(ProcessLookupError):
            os.kill(busiest[0], signal.SIGKILL)
            return 1
    return 0


# ---- what it costs --------------------------------------------------------------------------------------------------
def _cost(on: str, recorder: Recorder, options: Options, missed: list[str]) -> dict[str, Any]:
    database, messages = options.site.fresh(on), options.scaled(DISTINCT, least=200)
    rates: dict[str, list[float]] = {"none": [], "key": []}
    with clusters(database, count=1):
        for number in range(ROUNDS):
            for ordering in ("none", "key") if number % 2 == 0 else ("key", "none"):
                rates[ordering].append(_drain(f"{ordering}-{number}", ordering, messages, database, recorder))
    database.close()
    share = median(rates["key"]) / median(rates["none"])
    options.say(
        f"{on:10}{median(rates['none']):8,.0f}/s unordered, {median(rates['key']):8,.0f}/s with a key each: {share:.0%}"
    )
    if share < SHARE:
        missed.append(f"{on}: with {messages} keys {share:.0%} of the unordered rate, {SHARE:.0%} are asked for")
    return {"rates": rates, "share": round(share, 3)}


def _drain(name: str, ordering: str, messages: int, database: Database, recorder: Recorder) -> float:
    """Deliveries a second, from the release of queued messages to the last result in the database."""
    recorder.reset()
    service = {"name": name, "base_url": recorder.url(2), "ordering": ordering, "limits": {"concurrency": 500}}
    queue(
        database,
        [
            {
                "service": service | {"status": "paused"},
                "messages": messages,
                "keys": messages if ordering == "key" else 0,
            }
        ],
    )
    began = time.monotonic()
    database.ask(
        f"UPDATE integrations_service SET status = 'active' WHERE name = '{name}'",
        *(["NOTIFY switchboard_due"] if database.url else []),
    )
    if not all_finished(database, within=ENDS_WITHIN) or recorder.count() != messages:
        raise RuntimeError(f"{recorder.count()} calls for {messages} messages of {name}")
    return messages / (time.monotonic() - began)
