"""Clusters for a scenario: `manage.py up --no-web` as often as it wants, on one database."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.contender import end, wait_for
from bench.places import Database

UNFINISHED = "SELECT count(*) FROM integrations_message WHERE finished_at IS NULL"


@contextmanager
def clusters(database: Database, count: int = 2, lanes: int = 2) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many clusters with so many pumps each, from their first heartbeat to their end."""
    started = [database.start("manage.py", "up", "--no-web", "--workers", str(lanes)) for _ in range(count)]
    try:
        alive = "SELECT count(*) FROM integrations_worker WHERE stopped_at IS NULL"
        wait_for(lambda: database.ask(alive) == [count * lanes], started[0], database)
        yield started
    finally:
        for process in started:
            end(process)


def until(condition: Callable[[], bool], within: float) -> bool:
    """Waits for it; False where it does not come about within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def all_finished(database: Database, within: float) -> bool:
    return until(lambda: database.ask(UNFINISHED) == [0], within)
