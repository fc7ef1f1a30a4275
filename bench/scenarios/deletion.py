"""Deletion: a service with 300,000 waiting messages is deleted, or emptied, while others are accepted.

A client posts to another service at an even pace. While the workers delete, the operation is paused every other
TURN, so that posts alone and during it are measured by turns. The request for the deletion may take a second; the p95
of the posts may grow by a tenth and none of them may be refused; no process may grow by more than 50 MiB. Emptying is
the click on the service's page, asked for by the API.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from statistics import quantiles
from typing import Any

import psutil

from bench.contender import end, wait_for
from bench.load import queue
from bench.places import Database
from bench.scenarios import Options, quiet
from bench.scenarios.ingest import _answers
from bench.seed import BACKLOG
from tests.support.installation import free_port

WAITING = 300_000
TURN = 6.0  # seconds of work, and of a pause
SETTLED = 1.0  # seconds after a change that count for neither
PACE = 0.02  # seconds from one post to the next
AT_MOST = 600.0  # seconds for the work
GROWTH = 1.1
LARGER = 50.0  # MiB
ANSWERED = 1.0  # seconds
LEFT = f"""SELECT count(*) FROM integrations_message m JOIN integrations_service s ON s.id = m.service_id
WHERE s.name = '{BACKLOG}' AND m.status = 'pending'"""


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    for on in options.databases:
        for verb in ("delete", "cancel"):
            database = options.site.fresh(on)
            with quiet():
                database.run("-m", "bench.seed", "--pending", str(options.scaled(WAITING)))
                figures = _run(database, verb, options)
            database.close()
            found[f"{on}, {verb}"] = figures
            options.say(
                f"{on:10}{verb:8}answered in {figures['answered']:5.2f} s, done in {figures['seconds']:5.0f} s   posts "
                f"p95 {figures['p95 alone']:5.1f} ms alone, {figures['p95']:5.1f} ms during it   "
                f"web {figures['web']} MiB, others {figures['others']} MiB"
            )
            found["missed"] += [f"{on}, {verb}: {sentence}" for sentence in _missed(figures)]
    return found


def _run(database: Database, verb: str, options: Options) -> dict[str, Any]:
    port = free_port()
    others = {"name": "others", "base_url": "http://127.0.0.1:9", "status": "paused"}
    queue(database, [{"service": others, "messages": 0}])
    token = database.run("manage.py", "token", "bench", "--role", "admin").strip()
    process = database.start("manage.py", "up", "--port", str(port), SWITCHBOARD_TOKEN_RATE="100000")
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), process, database)
        time.sleep(5)  # the lanes
        posts = Posts(port, token)
        sizes = Sizes(process.pid)
        began = time.monotonic()
        api = Api(port, token)
        if verb == "delete":
            status, operation = api.call("DELETE", f"/services/{BACKLOG}?force=true")
        else:
            wanted = {"kind": "cancel", "filter": f"service:{BACKLOG} status:pending", "reason": "bench", "rate": None}
            status, operation = api.call("POST", "/operations", wanted)
        answered = time.monotonic() - began
        if status != 202:
            raise RuntimeError(f"{status}: {operation}")
        address, alone, beside, seconds = f"/operations/{operation['id']}", Answers(), Answers(), 0.0
        while operation["finished_at"] is None and seconds < AT_MOST:
            turned = time.monotonic()
            time.sleep(SETTLED)
            posts.take()
            while operation["finished_at"] is None and time.monotonic() - turned < TURN:
                time.sleep(0.5)
                sizes.look()
                _, operation = api.call("GET", address)
            beside.add(posts.take())
            seconds += time.monotonic() - turned
            api.call("POST", f"{address}/pause")  # a conflict once it has ended
            time.sleep(SETTLED)
            posts.take()
            time.sleep(TURN - SETTLED)
            alone.add(posts.take())
            api.call("POST", f"{address}/resume")
            _, operation = api.call("GET", address)
        posts.end()
        left = database.ask(LEFT)[0]
    finally:
        end(process)
    return {
        "answered": round(answered, 3),
        "seconds": round(seconds, 1),
        "state": operation["state"],
        "done": operation["done"],
        "left": left,
        "p95 alone": _p95(alone.durations),
        "p95": _p95(beside.durations),
        "worst": round(max(beside.durations) * 1000, 1),
        "statuses": dict(alone.statuses + beside.statuses),
        "posts": len(beside.durations),
        **sizes.found(),
    }


def _p95(durations: list[float]) -> float:
    return round(quantiles(durations, n=20)[-1] * 1000, 2)


def _missed(figures: dict[str, Any]) -> list[str]:
    missed = []
    if figures["state"] != "finished" or figures["left"]:
        missed.append(f"{figures['state']} after {figures['seconds']:.0f} s with {figures['left']:,} messages left")
    if figures["answered"] > ANSWERED:
        missed.append(f"answered after {figures['answered']} s, {ANSWERED} s are allowed")
    if figures["p95"] > figures["p95 alone"] * GROWTH:
        missed.append(f"p95 of posts {figures['p95']} ms, {figures['p95 alone']} ms alone; a tenth more is allowed")
    if set(figures["statuses"]) != {202}:
        missed.append(f"posts were answered {figures['statuses']}")
    for role in ("web", "others"):
        before, most = figures[role]
        if most - before > LARGER:
            missed.append(f"{role} grew from {before} to {most} MiB")
    return missed


class Answers:
    """The durations and statuses of the posts of a span."""

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.statuses: Counter[int] = Counter()

    def add(self, others: Answers) -> None:
        self.durations += others.durations
        self.statuses += others.statuses


class Posts:
    """A client that posts at an even pace, in a thread, and measures each post."""

    def __init__(self, port: int, token: str) -> None:
        self._api = Api(port, token)
        self._now = Answers()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._post)
        self._thread.start()

    def _post(self) -> None:
        next_at = time.monotonic()
        while not self._ends.is_set():
            answers, began = self._now, time.monotonic()
            status, _ = self._api.call("POST", "/messages", {"service": "others", "path": "/hook", "body": {"a": 1}})
            answers.durations.append(time.monotonic() - began)
            answers.statuses[status] += 1
            next_at = max(next_at + PACE, time.monotonic())
            time.sleep(max(0.0, next_at - time.monotonic()))

    def take(self) -> Answers:
        """Return the measurements since the last time."""
        taken, self._now = self._now, Answers()
        return taken

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


class Api:
    """One connection to the API."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self._connection.request(method, f"/api/v1{path}", body and json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None


class Sizes:
    """The resident memory of the web server, and of the largest other process, in MiB: at first, and at most."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self._first: dict[str, float] = self._sizes()
        self._most = dict(self._first)

    def _sizes(self) -> dict[str, float]:
        sizes = {"web": 0.0, "others": 0.0}
        for process in self._root.children(recursive=True):
            try:
                role = "web" if "serve" in process.cmdline() else "others"
                sizes[role] = max(sizes[role], round(process.memory_info().rss / 2**20, 1))
            except psutil.NoSuchProcess:
                continue
        return sizes

    def look(self) -> None:
        for role, size in self._sizes().items():
            self._most[role] = max(self._most[role], size)

    def found(self) -> dict[str, list[float]]:
        return {role: [self._first[role], self._most[role]] for role in self._first}
