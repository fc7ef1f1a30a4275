"""Ingest: POST /messages with everything on, against a bare view that makes one insert, and against the batch.

Two processes each, alternating. The bare view is Django without middleware under granian as WSGI (bench/apps/bare.py).
Switchboard has its token, rate limit, Idempotency-Key, rules, and the body's row. Responses of 202 are counted in
the tables. CPU is that of the server's processes and of PostgreSQL's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any

from bench import dependencies
from bench.contender import Tree, end, wait_for
from bench.load import queue
from bench.places import Database
from bench.scenarios import Options, quiet
from tests.support.backends import ROOT
from tests.support.installation import free_port

ROUNDS = 3
SECONDS = 5.0  # of each run
CONNECTIONS = 32
BATCH = 1_000
RATIO = 0.7  # of the bare view, at least
BATCH_RATIO = 5.0  # messages for a second of CPU, in batches against one by one
PROCESSES = 2


def run(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = {"missed": []}
    for on in options.databases:
        database = options.site.fresh(on)
        with quiet(), _bare(options, on) as bare, _switchboard(options, database) as own:
            found[on] = _compare(on, bare, own, options, found["missed"])
        database.close()
    return found


def _compare(on: str, bare: Server, own: Server, options: Options, missed: list[str]) -> dict[str, Any]:
    seconds = max(1.0, SECONDS * options.scale)
    single = {"path": "/api/v1/messages", "keys": True, "connections": CONNECTIONS}
    batch = {"path": "/api/v1/messages/batch", "keys": True, "connections": 2, "batch": BATCH}
    plans = {"bare": (bare, {"path": "/insert", "connections": CONNECTIONS}), "single": (own, single)}
    plans["batch"] = (own, batch)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in plans}
    for server, plan in plans.values():
        server.post(plan, 1.0)  # warm
    for _ in range(ROUNDS):
        for name, (server, plan) in plans.items():
            runs[name].append(server.post(plan, seconds))
            missed += [f"{on}, {name}: {words}" for words in runs[name][-1].pop("lost")]
    figures = {
        name: {key: round(median(one[key] for one in same), 2) for key in ("rate", "p50", "p99", "cpu_us")}
        for name, same in runs.items()
    }
    for name, one in figures.items():
        options.say(
            f"{on:10}{name:8}{one['rate']:8,.0f} messages/s   p50 {one['p50']:6.1f} ms   p99 {one['p99']:6.1f} ms   "
            f"{one['cpu_us']:6.0f} µs of CPU each"
        )
    ratio = figures["single"]["rate"] / figures["bare"]["rate"]
    per_core = figures["single"]["cpu_us"] / figures["batch"]["cpu_us"]
    options.say(f"{on:10}single is {ratio:.2f} of bare; a batch does {per_core:.1f} times as much per core")
    if ratio < RATIO:
        missed.append(f"{on}: {ratio:.2f} of the bare view's rate, {RATIO} is asked for")
    if per_core < BATCH_RATIO:
        missed.append(f"{on}: a batch does {per_core:.1f} times as much per core, {BATCH_RATIO} is asked for")
    return figures | {"single to bare": round(ratio, 2), "batch to single per core": round(per_core, 2), "runs": runs}


class Server:
    """Something to post to, and how many rows it has made."""

    def __init__(
        self,
        options: Options,
        process: subprocess.Popen[bytes],
        port: int,
        database: Database,
        rows: str,
        token: str = "",
    ) -> None:
        self.port, self.database, self.rows, self.token = port, database, rows, token
        self.roots = [process.pid, *([options.site.servers._guardian.pid] if database.url else [])]
        self.posted = 0

    def post(self, plan: dict[str, Any], seconds: float) -> dict[str, Any]:
        before = self.database.ask(self.rows)[0]
        plan = plan | {"port": self.port, "token": self.token, "seconds": seconds, "first": self.posted}
        busy = self._cpu_seconds()
        done = subprocess.run(
            [sys.executable, "-m", "bench.posts", json.dumps(plan)], cwd=ROOT, capture_output=True, text=True
        )
        busy = self._cpu_seconds() - busy
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        result = json.loads(done.stdout)
        self.posted += result["requests"]
        each = plan.get("batch", 1)
        messages = result["requests"] * each
        rows = self.database.ask(self.rows)[0] - before
        result["lost"] = [f"{rows:,} rows for {messages:,} messages"] if rows != messages else []
        if set(result["statuses"]) - {"200", "202"}:
            result["lost"].append(f"answers {result['statuses']}")
        result["rate"] *= each
        result["cpu_us"] = busy / messages * 1e6
        return result

    def _cpu_seconds(self) -> float:
        return sum(Tree(root).cpu_seconds() for root in self.roots)


@contextmanager
def _switchboard(options: Options, database: Database) -> Iterator[Server]:
    port = free_port()
    queue(database, [{"service": {"name": "ingest", "base_url": "http://127.0.0.1:9"}, "messages": 0}])
    token = database.run("manage.py", "token", "ingest", "--role", "operator").strip()
    arguments = ("up", "--port", str(port), "--web-workers", str(PROCESSES), "--no-workers")
    process = database.start("manage.py", *arguments, SWITCHBOARD_TOKEN_RATE="100000")
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/healthz"), process, database)
        time.sleep(2)  # the other process
        yield Server(options, process, port, database, "SELECT count(*) FROM integrations_messagecontent", token)
    finally:
        end(process)


@contextmanager
def _bare(options: Options, on: str) -> Iterator[Server]:
    port, database = free_port(), options.site.fresh(on)  # its own database, so that no run adds rows for another
    python = dependencies.python()
    env = {"BARE_DATABASE": database.url or str(database.folder / "switchboard.sqlite3")}
    database.program = python
    database.run("-m", "bench.apps.bare", **env)
    arguments = ("--interface", "wsgi", "--workers", str(PROCESSES), "--blocking-threads", "4", "--port", str(port))
    process = database.start("-m", "granian", *arguments, "--log-level", "error", "bench.apps.bare:application", **env)
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/"), process, database)
        time.sleep(2)
        yield Server(options, process, port, database, "SELECT count(*) FROM bare")
    finally:
        end(process)


def _answers(url: str) -> bool:
    with suppress(OSError):
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(url, timeout=2)
        return True
    return False
