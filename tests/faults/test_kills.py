"""kill -9 of any one process of `manage.py up`, and of itself: nothing is lost, and the next message soon arrives.

Two of the victims are in the everyday suite, all of them in `make faults`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from tests.faults.traffic import (
    NEXT_WITHIN,
    Traffic,
    busiest_worker,
    helpers,
    lost_rows,
    shape,
    unfinished,
    wait_for_lanes,
)
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

MESSAGES = 200


@pytest.fixture
def traffic(installation: Installation, sink: Receiver) -> Traffic:
    sink.answer(200, delay=0.15)  # so that calls are in flight when the kill comes
    wait_for_lanes(installation)
    return Traffic(installation, sink)


@pytest.mark.postgres
def test_a_killed_busy_worker_loses_nothing(installation: Installation, traffic: Traffic) -> None:
    kill_under_traffic(installation, traffic, busy_worker)
    assert lost_rows(installation), "it was not busy when it died"
    wait_for_lanes(installation)
    is_as_new(installation, traffic)


def test_a_killed_up_started_again_loses_nothing(installation: Installation, traffic: Traffic) -> None:
    old = installation.everything()
    began(traffic)
    installation.kill()
    killed_at = time.monotonic()
    until(lambda: not alive(old), 5, lambda: f"orphans: {[process.cmdline() for process in alive(old)]}")
    installation.start()
    traffic.send_and_wait()
    report("up", killed_at)
    traffic.join()
    traffic.wait_until_ended()
    assert lost_rows(installation), "nothing was in flight when it died"
    traffic.check()
    wait_for_lanes(installation)
    is_as_new(installation, traffic)


@pytest.mark.long
@pytest.mark.parametrize("victim", ["web", "cluster", "sentinel", "pusher", "monitor"])
def test_a_killed_process_loses_nothing(installation: Installation, traffic: Traffic, victim: str) -> None:
    def pid() -> int:
        tree = installation.processes()
        process = helpers(installation)[victim] if victim in ("pusher", "monitor") else tree[victim][0]
        return process.pid

    kill_under_traffic(installation, traffic, lambda _: pid(), victim)
    wait_for_lanes(installation)
    is_as_new(installation, traffic)


@pytest.mark.long
def test_a_killed_idle_worker_loses_nothing(installation: Installation, traffic: Traffic) -> None:
    """No call is in flight: the lane only waits for messages."""
    half_before(installation, traffic)
    kill(installation.processes()["lane"][0].pid)
    half_after(installation, traffic, "idle worker")


@pytest.mark.long
def test_a_worker_killed_while_it_waits_for_a_slice_loses_nothing(installation: Installation, traffic: Traffic) -> None:
    """django-q2's own freeze: it dies with the lock of the shared queue, and no other worker gets anything again."""
    half_before(installation, traffic)
    before = children_of_sentinel(installation)
    kill(installation.processes()["lane"][0].pid)
    until(lambda: bool(children_of_sentinel(installation) - before), 5, lambda: "no worker came in its place")
    (waiting,) = children_of_sentinel(installation) - before
    time.sleep(1)  # it has to come to the queue, and gets no slice before the watchdog has seen the silence
    kill(waiting)
    half_after(installation, traffic, "waiting worker")


@pytest.mark.long
def test_all_workers_killed_while_they_are_busy_lose_nothing(installation: Installation, traffic: Traffic) -> None:
    began(traffic)
    for lane in installation.processes()["lane"]:
        kill(lane.pid)
    killed_at = time.monotonic()
    traffic.send_and_wait()
    report("all workers", killed_at)
    traffic.join()
    traffic.wait_until_ended()
    traffic.check()
    wait_for_lanes(installation)
    is_as_new(installation, traffic)


# ---- steps ----------------------------------------------------------------------------------------------------------
def kill_under_traffic(
    installation: Installation, traffic: Traffic, choose: Callable[[Installation], int], name: str = "busy worker"
) -> None:
    began(traffic)
    kill(choose(installation))
    killed_at = time.monotonic()
    traffic.send_and_wait()
    report(name, killed_at)
    traffic.join()
    traffic.wait_until_ended()
    traffic.check()


def began(traffic: Traffic) -> None:
    """The stream runs, and calls are in flight."""
    traffic.stream(MESSAGES)
    traffic.receiver.wait_for(MESSAGES // 4, timeout=30)
    traffic.receiver.wait_until(lambda: traffic.receiver.in_flight >= 4, 10, "calls in flight")


def half_before(installation: Installation, traffic: Traffic) -> None:
    traffic.stream(MESSAGES // 2)
    traffic.join()
    traffic.wait_until_ended()


def half_after(installation: Installation, traffic: Traffic, name: str) -> None:
    killed_at = time.monotonic()
    traffic.send_and_wait()
    report(name, killed_at)
    traffic.stream(MESSAGES // 2)
    traffic.join()
    traffic.wait_until_ended()
    traffic.check()
    wait_for_lanes(installation)
    is_as_new(installation, traffic)


def is_as_new(installation: Installation, traffic: Traffic) -> None:
    """Nothing of the fault stays: a message goes through at once, and a stop is clean."""
    took = traffic.send_and_wait(5)
    assert took < 2, f"a message took {took:.1f} s after the fault was over"
    traffic.wait_until_ended()
    traffic.check()
    took = installation.stop()
    assert took < 8, f"the stop took {took:.1f} s: a process waits for a dead one"
    assert not shape(installation)
    assert not unfinished(installation)


def busy_worker(installation: Installation) -> int:
    until(lambda: busiest_worker(installation) > 0, 10, lambda: "no worker holds a claim")
    return busiest_worker(installation)


def children_of_sentinel(installation: Installation) -> set[int]:
    (sentinel,) = installation.processes()["sentinel"]
    return {child.pid for child in sentinel.children()}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def report(victim: str, killed_at: float) -> None:
    took = time.monotonic() - killed_at
    print(f"\n{victim}: the next message was there {took:.1f} s after the kill")
    assert took < NEXT_WITHIN
