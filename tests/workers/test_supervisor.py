"""A web server or a lane that hangs is replaced. The long forms are in tests/faults: test_hung_web, test_chaos."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta

import psutil
import pytest
from django.db import connection

from integrations.models import Worker, database_now, storage
from integrations.models.storage import Trouble
from integrations.models.worker import LEASE
from integrations.workers.supervisor import FROZEN, WEB_HUNG, WEB_STARTS_WITHIN, Child, Heartbeat, Supervisor, beat
from tests.support.waiting import until


def _look(heartbeat: Heartbeat, start: float, seconds: float) -> bool:
    """Look once a second for so long; whether it is lost at the end."""
    return [heartbeat.is_lost(start + second) for second in range(1, int(seconds) + 1)][-1]


def test_a_web_server_that_beats_no_more_is_lost_after_15_s() -> None:
    heartbeat, now = Heartbeat(), time.monotonic()
    beat(heartbeat.write_end)
    assert not heartbeat.is_lost(now)
    assert not _look(heartbeat, now, WEB_HUNG)
    assert heartbeat.is_lost(now + WEB_HUNG + 1)
    beat(heartbeat.write_end)
    assert not heartbeat.is_lost(now + WEB_HUNG + 2)


def test_a_web_server_has_a_minute_to_start() -> None:
    heartbeat, now = Heartbeat(), time.monotonic()
    beat(heartbeat.write_end)  # by the process before
    heartbeat.restart(now)
    assert not _look(heartbeat, now, WEB_STARTS_WITHIN)
    assert heartbeat.is_lost(now + WEB_STARTS_WITHIN + 1)


def test_a_supervisor_that_stood_still_itself_kills_no_web_server() -> None:
    heartbeat, now = Heartbeat(), time.monotonic()
    beat(heartbeat.write_end)
    assert not heartbeat.is_lost(now)
    assert not heartbeat.is_lost(now + 40)
    assert not heartbeat.is_lost(now + 41)


def test_a_full_pipe_keeps_no_web_server_waiting() -> None:
    heartbeat = Heartbeat()
    for _ in range(100_000):
        beat(heartbeat.write_end)


# ---- lanes that hang ------------------------------------------------------------------------------------------------
@pytest.fixture
def cluster() -> Iterator[Child]:
    """A child with two processes in its session, which stand for the lanes of a cluster."""
    child = Child("cluster", [], {})
    child.process = subprocess.Popen(["sh", "-c", "sleep 600 & sleep 600 & wait"], start_new_session=True)
    until(lambda: len(psutil.Process(child.process.pid).children()) == 2)
    yield child
    child.kill()


@pytest.fixture
def supervisor(db: None, cluster: Child) -> Supervisor:
    """One that has seen too few heartbeats for FROZEN."""
    supervisor = Supervisor(host="127.0.0.1", port=0, lanes=2, web=0, workers=False)
    supervisor._last_all_alive = supervisor._last_request = time.monotonic() - FROZEN - 1
    return supervisor


def _lanes(cluster: Child) -> list[psutil.Process]:
    assert cluster.process
    return psutil.Process(cluster.process.pid).children()


def _beat(supervisor: Supervisor, pid: int, ago: float, *, lost: bool = False) -> None:
    now = database_now()
    at = now - timedelta(seconds=ago)
    Worker.objects.create(
        cluster=supervisor.cluster,
        host="here",
        pid=pid,
        started_at=at,
        heartbeat_at=at,
        lease_until=at + LEASE,
        stopped_at=now if lost else None,
        lost=lost,
    )


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_frozen_lane_does_not_cost_the_healthy_lane_its_claims(supervisor: Supervisor, cluster: Child) -> None:
    """The whole cluster was killed, and the calls of the healthy lane were lost and made again."""
    healthy, frozen = _lanes(cluster)
    _beat(supervisor, healthy.pid, 1)
    _beat(supervisor, frozen.pid, 23, lost=True)  # the healthy lane has taken its claims back by now
    supervisor._watch(cluster)
    until(lambda: _ended(frozen), 5, "the frozen lane lives")
    assert not _ended(healthy)
    assert cluster.is_running
    supervisor._watch(cluster)
    assert cluster.is_running, "the new lane has time to start"


def test_a_cluster_whose_frozen_lane_has_no_successor_is_replaced(supervisor: Supervisor, cluster: Child) -> None:
    healthy, frozen = _lanes(cluster)
    _beat(supervisor, healthy.pid, 1)
    _beat(supervisor, frozen.pid, 23)
    supervisor._watch(cluster)
    supervisor._last_all_alive -= FROZEN + 1
    supervisor._watch(cluster)
    assert not cluster.is_running
    until(lambda: _ended(healthy), 5, "the healthy lane lives")


def test_a_cluster_without_a_lane_that_beats_is_replaced_at_once(supervisor: Supervisor, cluster: Child) -> None:
    for lane in _lanes(cluster):
        _beat(supervisor, lane.pid, 10)
    supervisor._watch(cluster)
    assert not cluster.is_running


def test_a_dead_lane_without_a_successor_costs_no_second_wait(supervisor: Supervisor, cluster: Child) -> None:
    """Its number may be another process's by now, which is left alone."""
    healthy, _ = _lanes(cluster)
    _beat(supervisor, healthy.pid, 1)
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        _beat(supervisor, stranger.pid, 23, lost=True)
        supervisor._watch(cluster)
        assert stranger.poll() is None
        assert not cluster.is_running
    finally:
        stranger.kill()
        stranger.wait()


def test_a_lane_that_was_taken_for_lost_and_goes_on_is_not_frozen(supervisor: Supervisor, cluster: Child) -> None:
    one, other = _lanes(cluster)
    _beat(supervisor, one.pid, 40, lost=True)
    for lane in (one, other):
        _beat(supervisor, lane.pid, 1)
    supervisor._watch(cluster)
    assert not _ended(one)
    assert not supervisor._kill_silent_lanes(cluster, database_now())


def test_lanes_that_cannot_write_their_heartbeats_are_left_alone(
    supervisor: Supervisor, cluster: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 22 s of a full disk the cluster was killed, and calls whose results it held were made again."""
    trouble: list[Trouble] = [Trouble("its disk is full", "Free space on it")]
    monkeypatch.setattr(storage, "trouble", lambda: trouble[0] if trouble else None)
    supervisor._watch(cluster)
    assert cluster.is_running
    trouble.clear()
    supervisor._watch(cluster)
    assert cluster.is_running, "they have time to beat again"
    supervisor._last_all_alive -= FROZEN + 1
    supervisor._watch(cluster)
    assert not cluster.is_running


def test_a_lane_that_stands_still_with_the_write_lock_is_killed_alone(
    supervisor: Supervisor, cluster: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "sqlite":
        return  # PostgreSQL ends the transaction of a lane that stands still
    one, other = _lanes(cluster)
    trouble = Trouble("it is locked", "End it", is_lock=True, holder=one.pid)
    monkeypatch.setattr(storage, "trouble", lambda: trouble)
    supervisor._watch(cluster)
    until(lambda: _ended(one), 5, "the lane that holds the lock lives")
    assert not _ended(other)
    assert cluster.is_running


def test_a_locked_database_does_not_hold_up_the_supervisor(
    supervisor: Supervisor, cluster: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane was stopped with SQLite's write lock. To request another one took 20 s, failed, and began the wait again:
    no lane was ever replaced."""
    supervisor._last_all_alive = time.monotonic() - FROZEN + 5
    before = supervisor._last_all_alive
    monkeypatch.setattr(storage, "trouble", lambda: Trouble("it is locked", "End it", is_lock=True, holder=1))
    monkeypatch.setattr(supervisor, "_request_lanes", lambda _: pytest.fail("it waits for the lock"))
    supervisor._watch(cluster)
    assert supervisor._last_all_alive == before


def test_a_lock_of_another_program_costs_no_lane(
    supervisor: Supervisor, cluster: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = Trouble("it is locked", "End it", is_lock=True, holder=os.getpid())
    monkeypatch.setattr(storage, "trouble", lambda: trouble)
    supervisor._watch(cluster)
    assert cluster.is_running
