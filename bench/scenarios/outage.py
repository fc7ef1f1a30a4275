"""Outage: a service dies, stays away and comes back slowly, with and without breaker, retry budget and ramp.

The script is ten minutes divided by twenty, and so are all durations of the settings: the service is well for 3 s, dead
for 12 s, back with a tenth of its capacity for 7.5 s, then as before. 10,000 messages come in evenly over the first two
parts. Dead, it answers 503; with more calls at once than it has places, it turns the rest away with 503 as well.

    without breaker   every message keeps to its own retry times
    breaker           the backlog is released all at once; no retry budget
    breaker, budget, ramp   as shipped

One pump in one process, so that the settings of a run can be changed beneath it: the ramp has no switch of its own,
and the budget looks back a minute. Bounds: at least 95 % of the calls that the dead service gets without a breaker are
spared, the backlog is drained within 1.5 times the time of the run that releases it all at once, and the rate seen by
the receiver is never above the service's limit. Next to the drain stands the least time that the receiver's own places
and the rate allow for the same backlog.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.places import Database
from bench.scenarios import Options, quiet
from bench.scenarios.limits import most_in_a_window
from tests.support.receiver import Answer, Call, Receiver

PACE = 1 / 20  # of the durations of the story, which lasts ten minutes
WELL, DEAD, SLOW, AS_BEFORE = 60.0, 240.0, 150.0, 150.0  # seconds of the story
GIVE_UP = 400.0  # after its return: by then some messages wait for the next of their own, ever longer retry times
MESSAGES = 10_000
PLACES = 50  # calls that the receiver takes at once, and the service's concurrency
SLOW_PLACES = 5
CALL = 0.02  # seconds for one call
RATE = 1_000  # the service's limit, a second
SPARED, DRAIN = 0.95, 1.5

RUNS: dict[str, dict[str, Any]] = {
    "without breaker": {"breaker": False, "budget": 1.0, "ramp": False},
    "breaker": {"breaker": True, "budget": 1.0, "ramp": False},
    "breaker, budget, ramp": {"breaker": True, "budget": 0.2, "ramp": True},
}


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    for on in options.databases:
        heads = ("calls while dead", "turned away", "opened", "drained in", "peak/s", "at once")
        options.say(f"{on:10}{'':22}" + "".join(f"{head:>{len(head) + 2}}" for head in heads))
        told = {}
        for name, settings in RUNS.items():
            database = options.site.fresh(on)
            with quiet():
                told[name] = _run(database, settings, options)
            database.close()
            options.say(_line(on, name, told[name]))
        found[on] = told
        found["missed"] += [f"{on}: {sentence}" for sentence in _missed(told, options)]
    return found


def _run(database: Database, settings: dict[str, Any], options: Options) -> dict[str, Any]:
    story = Story(PACE * max(0.2, options.scale))
    messages = options.scaled(MESSAGES, least=300)
    with Receiver() as receiver:
        host = Host(story)
        receiver.decide(host.answer)
        told = database.folder / "told.json"
        asked = {"url": receiver.url, "messages": messages, "pace": story.pace, "told": str(told), **settings}
        host.begins_at = asked["begins_at"] = time.time() + 3  # the pump's process has started by then
        database.run("-m", "bench.scenarios.outage", json.dumps(asked))
        return host.account() | json.loads(told.read_text())


def _line(on: str, name: str, told: dict[str, Any]) -> str:
    drained = f"{told['drained_in']:.1f} s" if told["drained_in"] else f"{told['unfinished']:,} left"
    return (
        f"{on:10}{name:22}{told['calls_while_dead']:18,}{told['turned_away']:13,}{told['opened']:8}{drained:>12}"
        f"{told['peak_rate']:8,}{told['at_once']:9}"
    )


def _missed(told: dict[str, dict[str, Any]], options: Options) -> list[str]:
    bare, at_once, whole = told["without breaker"], told["breaker"], told["breaker, budget, ramp"]
    missed = [f"{name}: {one['lost']} messages were lost" for name, one in told.items() if one["lost"]]
    for name in ("breaker", "breaker, budget, ramp"):
        if told[name]["unfinished"]:
            missed.append(f"{name}: {told[name]['unfinished']} messages were left")
        spared = 1 - told[name]["calls_while_dead"] / max(1, bare["calls_while_dead"])
        told[name]["spared"] = round(spared, 4)
        if spared < SPARED:
            missed.append(f"{name}: {spared:.1%} of the calls were spared, {SPARED:.0%} are asked for")
    if whole["drained_in"] and (unthrottled := at_once["drained_in"]):
        ratios = [whole["drained_in"] / unthrottled, whole["drained_in"] / whole["least_drain"]]
        whole["times_unthrottled"], whole["times_least"] = (round(ratio, 2) for ratio in ratios)
        options.say(
            f"drained in {ratios[0]:.2f} times the unthrottled time; in {ratios[1]:.2f} times the least that the "
            f"receiver allows, {whole['least_drain']:.1f} s; {whole['spared']:.1%} of the calls spared"
        )
        if ratios[0] > DRAIN:
            missed.append(f"drained in {whole['drained_in']:.1f} s, {DRAIN} times {unthrottled:.1f} s are allowed")
    for name, one in told.items():
        if one["peak_rate"] > RATE * 1.02:
            missed.append(f"{name}: {one['peak_rate']:,} calls came in one second, {RATE:,} are allowed")
        if one["at_once"] > PLACES:
            missed.append(f"{name}: {one['at_once']} calls were under way at once, {PLACES} are allowed")
    return missed


# ---- the other side -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Story:
    """When what happens, in seconds since the beginning."""

    pace: float

    @property
    def dies(self) -> float:
        return WELL * self.pace

    @property
    def comes_back(self) -> float:
        return self.dies + DEAD * self.pace

    @property
    def is_as_before(self) -> float:
        return self.comes_back + SLOW * self.pace

    def places(self, at: float) -> int:
        if at < self.dies or at >= self.is_as_before:
            return PLACES
        return SLOW_PLACES if at >= self.comes_back else 0

    def least_drain(self, backlog: int) -> float:
        """Seconds from its return that the receiver needs at least for so many calls."""
        slowly = SLOW * self.pace * SLOW_PLACES / CALL
        if backlog <= slowly:
            return backlog * CALL / SLOW_PLACES
        return SLOW * self.pace + (backlog - slowly) / min(RATE, PLACES / CALL)


class Host:
    """Answers as the story goes, and keeps account."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.begins_at = 0.0
        self.busy: deque[float] = deque()  # when each call being served will be over
        self.at: list[float] = []
        self.served: list[float] = []
        self.calls_while_dead = self.turned_away = self.at_once = 0

    def answer(self, call: Call) -> Answer:
        now = time.time() - self.begins_at
        while self.busy and self.busy[0] <= now:
            self.busy.popleft()
        self.at.append(now)
        places = self.story.places(now)
        if len(self.busy) < places:
            self.busy.append(now + CALL)
            self.at_once = max(self.at_once, len(self.busy))
            self.served.append(now)
            return Answer(200, delay=CALL)
        self.calls_while_dead += places == 0
        self.turned_away += places > 0
        return Answer(503)

    def account(self) -> dict[str, Any]:
        before = sum(at < self.story.comes_back for at in self.served)
        return {
            "calls": len(self.at),
            "calls_while_dead": self.calls_while_dead,
            "turned_away": self.turned_away,
            "peak_rate": most_in_a_window(sorted(self.at), 1.0),
            "at_once": self.at_once,
            "backlog": len(self.served) - before,
            "least_drain": round(self.story.least_drain(len(self.served) - before), 2),
            "drained_at": round(max(self.served, default=0.0), 2),
            "served_in_half_seconds": _histogram(self.served),
        }


def _histogram(times: list[float]) -> list[int]:
    counts = [0] * (int(max(times, default=0) * 2) + 1)
    for at in times:
        counts[int(at * 2)] += 1
    return counts


# ---- the pump's process ---------------------------------------------------------------------------------------------
def main() -> None:
    asked = json.loads(sys.argv[1])
    import django

    django.setup()
    from integrations.models import Event, Message, Service
    from integrations.policies import breaker, limits

    pace, story = asked["pace"], Story(asked["pace"])
    limits.BUDGET_SPAN, limits.BUDGET_BUCKET = max(1, round(60 * pace)), 1
    if not asked["ramp"]:
        breaker.ceiling = lambda state, concurrency: concurrency
    service = Service.objects.create(
        name="other-side",
        base_url=asked["url"],
        # The defaults, as long as they are, at the pace of the story.
        retry={"initial": 5 * pace, "max": 21_600 * pace, "budget": asked["budget"], "max_attempts": 100},
        breaker={"enabled": asked["breaker"], "open_for": max(0.5, 60 * pace), "open_max": 3_600 * pace},
        limits={"rate": RATE, "concurrency": PLACES},
    )
    feeder = threading.Thread(target=_feed, args=(service, asked, story))
    feeder.start()
    asyncio.run(_deliver(asked, story))
    feeder.join()
    unfinished = Message.objects.unfinished().count()
    delivered = Message.objects.filter(status="delivered").order_by("-finished_at")
    last = delivered.values_list("finished_at", flat=True).first()
    took = last.timestamp() - asked["begins_at"] - story.comes_back if last and not unfinished else None
    told = {
        "drained_in": took and round(took, 2),
        "unfinished": unfinished,
        "lost": asked["messages"] - unfinished - delivered.count(),
        "opened": Event.objects.filter(type="breaker.opened").count(),
    }
    Path(asked["told"]).write_text(json.dumps(told))


def _feed(service: Any, asked: dict[str, Any], story: Story) -> None:
    """Accepts the messages evenly until the service comes back, some every 50 ms."""
    from django.db import connection

    from integrations.models import Draft, Message

    draft = Draft(service=service, method="POST", path="/hook", body=b'{"n": 1}', content_type="application/json")
    accepted = 0
    while accepted < asked["messages"]:
        share = min(1.0, max(0.0, time.time() - asked["begins_at"]) / story.comes_back)
        if wanted := int(asked["messages"] * share) - accepted:
            Message.objects.accept([draft] * wanted)
            accepted += wanted
        time.sleep(0.05)
    connection.close()


async def _deliver(asked: dict[str, Any], story: Story) -> None:
    """One pump, until nothing is left or too much time has passed."""
    from integrations.models import Message
    from integrations.workers.pump import Pump

    pump = Pump("outage")
    loop = asyncio.get_running_loop()
    running = loop.create_task(pump.run())
    end = asked["begins_at"] + story.comes_back + GIVE_UP * story.pace
    while time.time() < end:
        await asyncio.sleep(0.25)
        if time.time() > asked["begins_at"] + story.comes_back + 1 and not await loop.run_in_executor(
            None, Message.objects.unfinished().exists
        ):
            break
    pump.stop()
    await running
    await pump.close()


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_LOG_LEVEL", "WARNING")
    main()
