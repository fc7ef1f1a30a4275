"""PostgreSQL and Redis go away under load: nothing is lost, no process spins, and delivery resumes by itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from tests.faults.traffic import Traffic, wait_for_lanes
from tests.support.backends import Servers
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.servers_only, pytest.mark.timeout(280)]

MESSAGES = 200
AWAY = 8.0  # seconds; a renewal is missed, the lease of 20 s is not
AWAY_LONG = 30.0  # seconds; every lease has run out when it returns
WARNINGS_PER_SECOND = 12  # from all processes together; more is a loop that does not wait
CORES_WHILE_AWAY = 0.5


@pytest.fixture
def installation(own_servers: Servers, tmp_path: Path) -> Iterator[Installation]:
    """On servers of its own, which may go away without harm to the other tests."""
    with Installation(tmp_path / "installation", own_servers, on="postgres") as installation:
        yield installation


@pytest.fixture
def traffic(installation: Installation, sink: Receiver) -> Traffic:
    sink.answer(200, delay=0.15)
    wait_for_lanes(installation)
    return Traffic(installation, sink)


@pytest.mark.parametrize("away", [AWAY, AWAY_LONG], ids=["shorter than a lease", "longer than a lease"])
def test_postgres_away_under_load_loses_nothing(
    installation: Installation, own_servers: Servers, traffic: Traffic, away: float
) -> None:
    began(traffic)
    own_servers.stop("postgres")
    does_not_spin(installation, away)
    assert any(error.startswith("503") for error in traffic.errors), traffic.errors[-3:]
    own_servers.start("postgres")
    back_at = time.monotonic()
    traffic.send_and_wait()
    print(f"\nthe next message was there {time.monotonic() - back_at:.1f} s after PostgreSQL was back")
    is_as_new(installation, traffic)


def test_postgres_restarted_under_load_loses_nothing(
    installation: Installation, own_servers: Servers, traffic: Traffic
) -> None:
    began(traffic)
    for _ in range(3):
        own_servers.stop("postgres")
        own_servers.start("postgres")
        time.sleep(1)
    traffic.send_and_wait()
    is_as_new(installation, traffic)


def test_redis_away_only_delays(installation: Installation, own_servers: Servers, traffic: Traffic) -> None:
    began(traffic)
    own_servers.stop("redis")
    away_since = time.monotonic()
    traffic.send_and_wait()
    print(f"\nthe next message was there {time.monotonic() - away_since:.1f} s after Redis went away")
    does_not_spin(installation, 75)  # five slices, and no lane could ask for its next
    took = traffic.send_and_wait(10)
    assert took < 1, "the lanes stopped with their queue"
    own_servers.start("redis")
    back_at = time.monotonic()
    traffic.send_and_wait()
    print(f"\nthe next message was there {time.monotonic() - back_at:.1f} s after Redis was back")
    is_as_new(installation, traffic)


def test_redis_flushed_only_delays(installation: Installation, traffic: Traffic) -> None:
    began(traffic)
    client = redis.Redis.from_url(installation.env["SWITCHBOARD_REDIS_URL"] or "")
    end = time.monotonic() + 20
    while time.monotonic() < end:
        client.flushdb()
        time.sleep(0.05)
    flushed_at = time.monotonic()
    traffic.send_and_wait()
    print(f"\nthe next message was there {time.monotonic() - flushed_at:.1f} s after the last flush")
    is_as_new(installation, traffic)


# ---- steps ----------------------------------------------------------------------------------------------------------
def began(traffic: Traffic) -> None:
    traffic.stream(MESSAGES, pause=0.03)
    traffic.receiver.wait_for(MESSAGES // 4, timeout=30)
    traffic.receiver.wait_until(lambda: traffic.receiver.in_flight >= 2, 10, "calls in flight")


def is_as_new(installation: Installation, traffic: Traffic) -> None:
    traffic.join()
    traffic.wait_until_ended()
    traffic.check()
    wait_for_lanes(installation)
    until(lambda: traffic.send_and_wait(10) < 1, 10, lambda: "messages are slower than before")
    traffic.wait_until_ended()
    traffic.check()
    installation.stop()
    installation.wait_until_gone(1)


def does_not_spin(installation: Installation, seconds: float) -> None:
    """Over so many seconds, all processes together use little and say little."""
    said, began_at = warnings(installation), time.monotonic()
    processes = installation.everything()
    used = processor_seconds(processes)
    time.sleep(seconds)
    took = time.monotonic() - began_at
    cores = (processor_seconds(processes) - used) / took
    said = (warnings(installation) - said) / took
    print(f"\n{took:.0f} s away: {cores:.2f} cores and {said:.1f} warnings a second")
    assert cores < CORES_WHILE_AWAY
    assert said < WARNINGS_PER_SECOND


def warnings(installation: Installation) -> float:
    """Events of the log, but for those that answer a call of the API."""
    return len(
        re.findall(r"^\S+ (?:warning|error) (?!django\.request|integrations\.api)", installation.log, re.MULTILINE)
    )


def processor_seconds(processes: list[psutil.Process]) -> float:
    """Of the processes that still live."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total
