"""A stop is graceful: calls in flight finish or go back, everything ends within 20 s, and nothing outlives `up`."""

from __future__ import annotations

import signal
import time

import pytest

from tests.faults.traffic import Traffic, rows, tell, unfinished, wait_for_lanes
from tests.support.installation import STOPS_WITHIN, Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(200)]

CALLS = 10


@pytest.fixture
def traffic(installation: Installation, sink: Receiver) -> Traffic:
    wait_for_lanes(installation)
    return Traffic(installation, sink)


def test_calls_in_flight_finish_before_the_end(installation: Installation, traffic: Traffic) -> None:
    in_flight(traffic, delay=1)
    took = stop(installation, signal.SIGTERM)
    print(f"\nstopped in {took:.1f} s with calls of 1 s in flight")
    is_clean(installation)
    assert not unfinished(installation)
    traffic.check()
    assert all(story.lost == 0 for story in tell(installation).values())


def test_a_call_that_hangs_is_given_back(installation: Installation, traffic: Traffic) -> None:
    in_flight(traffic, hang=True)
    took = stop(installation, signal.SIGTERM)
    print(f"\nstopped in {took:.1f} s with hanging calls in flight")
    is_clean(installation)
    assert unfinished(installation) == {"pending": CALLS}
    assert {tuple(story.outcomes) for story in tell(installation).values()} == {("lost",)}

    traffic.receiver.answer(200)
    installation.start()
    traffic.wait_until_ended()
    traffic.check()


@pytest.mark.long
def test_impatient_stops_are_one_stop(installation: Installation, traffic: Traffic) -> None:
    in_flight(traffic, delay=2)
    assert installation.process
    for _ in range(4):
        installation.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    stop(installation, signal.SIGTERM)
    is_clean(installation)
    traffic.check()


@pytest.mark.long
def test_ctrl_c_is_a_stop(installation: Installation, traffic: Traffic) -> None:
    in_flight(traffic, delay=1)
    stop(installation, signal.SIGINT)
    is_clean(installation)
    traffic.check()


@pytest.mark.long
def test_a_stop_under_load_loses_nothing(installation: Installation, traffic: Traffic) -> None:
    traffic.receiver.answer(200, delay=0.15)
    for _ in range(3):
        traffic.stream(100)
        traffic.receiver.wait_until(lambda: traffic.receiver.in_flight >= 4, 30, "calls in flight")
        stop(installation, signal.SIGTERM)
        is_clean(installation)
        installation.start()
        traffic.join()
        traffic.wait_until_ended()
    traffic.check()
    assert all(story.lost == 0 for story in tell(installation).values())


@pytest.mark.long
def test_a_stop_while_it_still_starts_is_clean(installation: Installation) -> None:
    for pause in (0.2, 1.0, 2.0, 3.0):
        installation.stop()
        installation.start(wait=False)
        time.sleep(pause)
        assert installation.process
        installation.process.terminate()
        installation.process.wait(timeout=STOPS_WITHIN)
        installation.process = None
        installation.wait_until_gone(1)
        installation.start()


@pytest.mark.long
def test_nothing_of_the_tree_outlives_a_killed_up(installation: Installation, traffic: Traffic) -> None:
    in_flight(traffic, hang=True)
    installation.kill()
    installation.wait_until_gone(5)
    seen = len(traffic.receiver.calls)
    time.sleep(2)
    assert len(traffic.receiver.calls) == seen


# ---- steps ----------------------------------------------------------------------------------------------------------
def in_flight(traffic: Traffic, **answer: float) -> None:
    """So many calls are at the receiver, which takes its time."""
    traffic.receiver.answer(200, **answer)
    for _ in range(CALLS):
        traffic.send()
    traffic.receiver.wait_until(
        lambda: len(traffic.receiver.calls) == CALLS and traffic.receiver.in_flight >= 1, 15, "calls in flight"
    )


def stop(installation: Installation, number: signal.Signals) -> float:
    """Send a signal to `manage.py up` alone and return the seconds until it ends."""
    assert installation.process
    began = time.monotonic()
    installation.process.send_signal(number)
    code = installation.process.wait(timeout=STOPS_WITHIN)
    installation.process = None
    assert code == 0, installation.log[-2000:]
    return time.monotonic() - began


def is_clean(installation: Installation) -> None:
    """No process, no claim and no lease is left."""
    until(lambda: not installation.everything(), 1, lambda: f"left: {installation.everything()}")
    assert "delivering" not in unfinished(installation)
    assert rows(installation, "SELECT pid FROM integrations_worker WHERE stopped_at IS NULL") == []
    assert rows(installation, "SELECT count(*) FROM integrations_worker WHERE lost") == [(0,)]
    assert rows(installation, "SELECT count(*) FROM django_q_ormq") == [(0,)], "the cluster's queue outlives it"
