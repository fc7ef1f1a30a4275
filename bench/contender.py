"""Measure a contender: watch its run to the end, and count the CPU and memory of its processes until then."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import psutil

from bench.checks import Run
from bench.places import DATABASES, Database, Ground, Site
from bench.sink import Sink

READY_WITHIN = 60.0  # seconds
STALLED = 30.0  # seconds without progress: the run is over, and its figure will be rejected
IDLE_LOOK = 2.0  # seconds over which idle CPU is measured; scenarios/latency.py looks longer

G = TypeVar("G", bound=Ground)


class Contender(ABC, Generic[G]):
    """One way to deliver queued messages. A module in bench/peers/ lists its own in CONTENDERS."""

    name: str
    command: str  # as a person would type it
    family = ""  # "python" or "node": the best one of each is compared with Switchboard
    stores: tuple[str, ...] = DATABASES  # where it can keep its messages
    share = 1.0  # of --messages; slow ones get fewer
    keeps_state = True  # whether it marks messages delivered, and not only records attempts

    def missing(self) -> str:
        """Why it cannot run on this machine, in a few words; empty where it can."""
        return ""

    @abstractmethod
    def prepare(self, site: Site, on: str) -> G:
        """A fresh ground for one run."""

    def run(self, ground: G, on: str, sink: Sink, messages: int) -> Run:
        """Queues the messages, starts the processes, lets go, and waits until everything is recorded."""
        sink.reset()
        self.queue(ground, sink, messages)
        process = self.start(ground)
        try:
            self.wait_until_ready(ground, process)
            tree = Tree(process.pid)
            idle = tree.share_of_a_core(IDLE_LOOK)
            used = tree.cpu_seconds()
            began = time.monotonic()
            self.release(ground, process)
            ended = self._wait_until_recorded(ground, sink, messages)
            facts = {
                "idle_cpu_percent": idle * 100,
                "cpu_us_per_message": (tree.cpu_seconds() - used) / messages * 1e6,
                "peak_rss_mb": tree.peak_rss_mb(),
            }
        finally:
            end(process)
        calls, unique = sink.counts()
        recorded, recorded_messages = self.records(ground)
        return Run(
            contender=self.name,
            family=self.family,
            on=on,
            command=self.command,
            sent=messages,
            seconds=ended - began,
            arrived=calls,
            unique=unique,
            recorded=recorded,
            recorded_messages=recorded_messages,
            delivered=self.delivered(ground) if self.keeps_state else None,
            facts=facts,
        )

    def _wait_until_recorded(self, ground: G, sink: Sink, messages: int) -> float:
        """The moment when the last result was seen to be recorded; the sink is asked first, which costs less."""
        progress, changed = -1, time.monotonic()
        while True:
            now = time.monotonic()
            counted = sink.counts()[1]
            if counted >= messages:
                recorded = self.recorded(ground)
                counted += recorded
                if recorded >= messages:
                    return time.monotonic()
            if counted != progress:
                progress, changed = counted, now
            elif now - changed > STALLED:
                return changed
            time.sleep(0.01)

    @abstractmethod
    def queue(self, ground: G, sink: Sink, messages: int) -> None:
        """Queue the messages so that no worker takes them yet."""

    @abstractmethod
    def start(self, ground: G) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def wait_until_ready(self, ground: G, process: subprocess.Popen[bytes]) -> None: ...

    @abstractmethod
    def release(self, ground: G, process: subprocess.Popen[bytes]) -> None:
        """Lets the queued messages go, all at once: the clock has just started."""

    def recorded(self, ground: G) -> int:
        """How many results are recorded by now; it is asked often."""
        return self.records(ground)[0]

    @abstractmethod
    def records(self, ground: G) -> tuple[int, int]:
        """How many successful calls are recorded, and of how many different messages."""

    def delivered(self, ground: G) -> int:
        """How many messages are marked delivered, where it keeps such a state."""
        raise NotImplementedError


ATTEMPTS = "SELECT count(*), count(DISTINCT message_id) FROM integrations_attempt WHERE outcome = 'succeeded'"
DELIVERED = "SELECT count(*) FROM integrations_message WHERE status = 'delivered'"


class OnOurTables(Contender[Database]):
    """A contender on Switchboard's own tables."""

    def prepare(self, site: Site, on: str) -> Database:
        return site.fresh(on)

    def records(self, ground: Database) -> tuple[int, int]:
        attempts, messages = ground.ask(ATTEMPTS)
        return attempts, messages

    def delivered(self, ground: Database) -> int:
        return ground.ask(DELIVERED)[0]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], ground: Ground) -> None:
    """Until it holds. Raises where the process ends or too long passes."""
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"it did not start:\n{ground.output[-3000:]}")
        time.sleep(0.1)


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
