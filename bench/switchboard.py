"""Switchboard itself: as a cluster, as an operator runs it, and as one pump in one process."""

from __future__ import annotations

import subprocess
from typing import ClassVar

from bench.contender import Contender, wait_for
from bench.places import Database
from bench.sink import Sink

LANES = 2


class Switchboard(Contender):
    arguments: ClassVar[tuple[str, ...]]
    lanes: ClassVar[int]

    def queue(self, database: Database, sink: Sink, messages: int) -> None:
        database.run("-m", "bench.prepare", str(messages), sink.url)

    def start(self, database: Database) -> subprocess.Popen[bytes]:
        return database.start("manage.py", *self.arguments)

    def wait_until_ready(self, database: Database, process: subprocess.Popen[bytes]) -> None:
        alive = "SELECT count(*) FROM integrations_worker WHERE stopped_at IS NULL"
        wait_for(lambda: database.ask(alive) == [self.lanes], process, database)

    def release(self, database: Database) -> None:
        resume = "UPDATE integrations_service SET status = 'active'"
        database.ask(resume, *(["NOTIFY switchboard_due"] if database.url else []))


class Cluster(Switchboard):
    name = "switchboard cluster"
    arguments = ("up", "--no-web", "--workers", str(LANES))
    lanes = LANES
    command = f"manage.py {' '.join(arguments)}"


class Pump(Switchboard):
    name = "switchboard pump"
    arguments = ("deliver", "--seconds", "3600")
    lanes = 1
    command = f"manage.py {' '.join(arguments)}"


CONTENDERS = [Cluster(), Pump()]
