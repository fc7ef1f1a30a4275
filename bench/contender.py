"""What every contender is measured by: how a run is watched to its end, and what its processes took meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from bench.checks import Run
from bench.places import Database
from bench.sink import Sink

READY_WITHIN = 60.0  # seconds
STALLED = 30.0  # seconds without progress: the run is over, and its figure will be rejected
IDLE_LOOK = 4.0  # seconds over which idle CPU is measured

ATTEMPTS = "SELECT count(*), count(DISTINCT message_id) FROM integrations_attempt WHERE outcome = 'succeeded'"
DELIVERED = "SELECT count(*) FROM integrations_message WHERE status = 'delivered'"


class Contender(ABC):
    """One way to deliver queued messages. A module in bench/peers/ lists its own in CONTENDERS."""

    name: str
    command: str  # as somebody would type it
    share = 1.0  # of --messages; slow ones get fewer
    keeps_state = True  # whether it marks messages delivered, and not only records attempts

    def run(self, database: Database, on: str, sink: Sink, messages: int) -> Run:
        """Queues the messages, starts the processes, lets go, and waits until everything is recorded."""
        sink.reset()
        self.queue(database, sink, messages)
        process = self.start(database)
        try:
            self.wait_until_ready(database, process)
            tree = Tree(process.pid)
            idle = tree.share_of_a_core(IDLE_LOOK)
            used = tree.cpu_seconds()
            began = time.monotonic()
            self.release(database)
            ended = _wait_until_recorded(database, sink, messages)
            facts = {
                "idle_cpu_percent": idle * 100,
                "cpu_us_per_message": (tree.cpu_seconds() - used) / messages * 1e6,
                "peak_rss_mb": tree.peak_rss_mb(),
            }
        finally:
            end(process)
        calls, unique = sink.counts()
        recorded, recorded_messages = database.ask(ATTEMPTS)
        return Run(
            contender=self.name,
            on=on,
            command=self.command,
            sent=messages,
            seconds=ended - began,
            arrived=calls,
            unique=unique,
            recorded=recorded,
            recorded_messages=recorded_messages,
            delivered=database.ask(DELIVERED)[0] if self.keeps_state else None,
            facts=facts,
        )

    @abstractmethod
    def queue(self, database: Database, sink: Sink, messages: int) -> None:
        """Queues the messages so that nobody takes them yet."""

    @abstractmethod
    def start(self, database: Database) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def wait_until_ready(self, database: Database, process: subprocess.Popen[bytes]) -> None: ...

    @abstractmethod
    def release(self, database: Database) -> None:
        """Lets the queued messages go, all at once: the clock starts here."""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], database: Database) -> None:
    """Until it holds. Raises where the process ends or too long passes."""
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it did not start:\n{(database.folder / 'output.log').read_text()[-3000:]}")
        time.sleep(0.1)


def _wait_until_recorded(database: Database, sink: Sink, messages: int) -> float:
    """The moment when the last attempt was seen in the database; the sink is asked first, which costs less."""
    progress, changed = -1, time.monotonic()
    while True:
        now = time.monotonic()
        counted = sink.counts()[1]
        if counted >= messages:
            recorded = database.ask(ATTEMPTS)[0]
            counted += recorded
            if recorded >= messages:
                return time.monotonic()
        if counted != progress:
            progress, changed = counted, now
        elif now - changed > STALLED:
            return changed
        time.sleep(0.01)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends it as an operator would, and then whatever is left of its process group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=25)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Tree:
    """A process with its descendants."""

    def __init__(self, pid: int) -> None:
        root = psutil.Process(pid)
        self.processes = [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        total = 0.0
        for process in self.processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def share_of_a_core(self, seconds: float) -> float:
        before = self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / seconds

    def peak_rss_mb(self) -> float:
        """The most that any one of the processes ever held."""
        return max((_peak_rss(process) for process in self.processes), default=0.0) / 1e6


def _peak_rss(process: psutil.Process) -> float:
    with suppress(OSError):  # Linux keeps the peak
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    with suppress(psutil.Error):
        return float(process.memory_info().rss)
    return 0.0
