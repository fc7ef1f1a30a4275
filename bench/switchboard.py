"""Switchboard itself: as a cluster, as an operator runs it, as one pump in one process, and its HTTP client alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import ClassVar

from bench.contender import Contender, OnOurTables, wait_for
from bench.places import Database, Site
from bench.sink import Sink

LANES = 2


class Switchboard(OnOurTables):
    arguments: ClassVar[tuple[str, ...]]
    lanes: ClassVar[int]

    def queue(self, ground: Database, sink: Sink, messages: int) -> None:
        ground.run("-m", "bench.prepare", str(messages), sink.url)

    def start(self, ground: Database) -> subprocess.Popen[bytes]:
        return ground.start("manage.py", *self.arguments)

    def wait_until_ready(self, ground: Database, process: subprocess.Popen[bytes]) -> None:
        alive = "SELECT count(*) FROM integrations_worker WHERE stopped_at IS NULL"
        wait_for(lambda: ground.ask(alive) == [self.lanes], process, ground)

    def release(self, ground: Database, process: subprocess.Popen[bytes]) -> None:
        resume = "UPDATE integrations_service SET status = 'active'"
        ground.ask(resume, *(["NOTIFY switchboard_due"] if ground.url else []))


class Cluster(Switchboard):
    name = "switchboard cluster"
    family = "cluster"
    arguments = ("up", "--no-web", "--workers", str(LANES))
    lanes = LANES
    command = f"manage.py {' '.join(arguments)}"


class Pump(Switchboard):
    name = "switchboard pump"
    family = "pump"
    arguments = ("deliver", "--seconds", "3600")
    lanes = 1
    command = f"manage.py {' '.join(arguments)}"


class ClientAlone(Contender[Database]):
    """The limit of sink and client: no database, no policy, nothing recorded but a count in memory."""

    name = "switchboard client alone"
    command = "a plain loop of integrations.outbound.client.Client.send"
    family = "client"
    stores = ("nothing",)
    keeps_state = False

    def prepare(self, site: Site, on: str) -> Database:
        return site.fresh("sqlite")  # for its settings: no process connects

    def queue(self, ground: Database, sink: Sink, messages: int) -> None:
        ground.env |= {"BENCH_SINK": f"{sink.url}/hook", "BENCH_MESSAGES": str(messages)}

    def start(self, ground: Database) -> subprocess.Popen[bytes]:
        return ground.start("-m", "bench.client_alone")

    def wait_until_ready(self, ground: Database, process: subprocess.Popen[bytes]) -> None:
        wait_for(lambda: "ready" in ground.output, process, ground)

    def release(self, ground: Database, process: subprocess.Popen[bytes]) -> None:
        os.kill(process.pid, signal.SIGUSR2)

    def records(self, ground: Database) -> tuple[int, int]:
        said = re.search(r"succeeded (\d+)", ground.output)
        succeeded = int(said[1]) if said else 0
        return succeeded, succeeded


CONTENDERS = [Cluster(), Pump(), ClientAlone()]
