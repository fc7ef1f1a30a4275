"""Pumps in processes of their own, on the database of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import ROOT
from tests.support.waiting import until

READY_WITHIN = 30.0  # seconds; a start takes a second of CPU
ENDS_WITHIN = 30.0  # seconds until all queued messages have ended
OFF = {"enabled": False}  # a breaker that stays closed, whatever fails


class Pumps:
    """Processes of `manage.py deliver`, in turn of two clusters, as two machines would have them."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment, self._log = environment, log
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int = 4, *, suspects: bool = False) -> None:
        """Starts so many and waits for their first sign of life. ``suspects``: and one for what others have lost."""
        for number in range(count):
            self._start(f"cluster-{number % 2 + 1}")
        if suspects:
            self._start("suspects", "--suspects")
        until(lambda: self._beating() >= len(self.processes), READY_WITHIN, lambda: f"no pumps:\n{self.log[-3000:]}")

    def kill_a_busy_one(self) -> None:
        """Kill -9 while it holds claims. Its lease is ended at once, so that the test need not wait 20 s."""
        from integrations.models import Message, Worker, database_now

        deadline = time.monotonic() + ENDS_WITHIN
        while True:
            for worker in Worker.objects.alive(database_now()).exclude(cluster__startswith="suspects"):
                os.kill(worker.pid, signal.SIGSTOP)  # what it holds now, it holds when it dies
                if Message.objects.held_by(worker.pk).exists():
                    os.kill(worker.pid, signal.SIGKILL)
                    next(process for process in self.processes if process.pid == worker.pid).wait(timeout=10)
                    Worker.objects.filter(pk=worker.pk).update(lease_until=database_now())
                    return
                os.kill(worker.pid, signal.SIGCONT)
            assert time.monotonic() < deadline, "no pump holds a claim"
            time.sleep(0.005)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=10)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _start(self, cluster: str, *arguments: str) -> None:
        with self._log.open("ab") as output:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "manage.py", "deliver", "--seconds", "600", *arguments],
                    cwd=ROOT,
                    env=self.environment | {"SWITCHBOARD_CLUSTER": cluster},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def _beating(self) -> int:
        from integrations.models import Worker, database_now

        return Worker.objects.alive(database_now()).filter(pid__in=[process.pid for process in self.processes]).count()


@pytest.fixture
def pumps(transactional_db: None, request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[Pumps]:
    """Not started yet; ended before the test's rows go."""
    from django.db import connection

    name = connection.settings_dict["NAME"]
    if database == "postgres":
        url = request.getfixturevalue("servers").postgres_url(name)
    else:
        url = f"sqlite:///{name}"
    wanted = {"SWITCHBOARD_DATABASE_URL": url, "SWITCHBOARD_ALLOW_PRIVATE": "127.0.0.0/8", "PYTHONUNBUFFERED": "1"}
    pumps = Pumps(dict(os.environ) | wanted, tmp_path / "pumps.log")
    yield pumps
    pumps.close()


def nothing_is_unfinished() -> bool:
    from integrations.models import Message

    return not Message.objects.unfinished().exists()
