"""Faults under traffic: nothing is lost, each call has its row, and everything goes on by itself.

Each scenario prints Jepsen's five sets (chaos.py), the recovery time, memory and descriptors, and compares what API,
pages, metrics and receiver say. The short forms are in the everyday suite; `make faults` runs the long ones as well.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.chaos import Chaos
from tests.faults.inflict import (
    Proxy,
    SmallDisk,
    foreign_lock,
    kill_one,
    repeated,
    stopped,
    terminate_backends,
    wait,
)
from tests.faults.preload import Clock, poison
from tests.faults.traffic import NEXT_WITHIN, alive_workers, rows, wait_for_lanes
from tests.support.backends import Servers
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]

long, postgres = pytest.mark.long, pytest.mark.postgres
servers_only = [pytest.mark.servers_only, postgres]
PAST_A_LEASE = 40.0  # seconds; two leases

Start = Callable[[Installation], Chaos]


@pytest.fixture
def start(sink: Receiver) -> Iterator[Start]:
    """Start an installation and its traffic's service. A call takes 0.1 s, so that some are always in flight."""
    started: list[Installation] = []

    def start_one(installation: Installation) -> Chaos:
        started.append(installation)
        sink.answer(200, delay=0.1)
        if installation.process is None:
            installation.start()
        wait_for_lanes(installation)
        return Chaos(installation, sink)

    yield start_one
    for installation in started:
        installation.close()


@pytest.fixture
def chaos(start: Start, start_installation: Callable[..., Installation]) -> Chaos:
    return start(start_installation(SWITCHBOARD_TOKEN_RATE="0"))


# ---- processes that stand still -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("victims", "seconds"),
    [
        pytest.param("lanes", 3.0),
        pytest.param("lane", PAST_A_LEASE, marks=long),
        pytest.param("lanes", PAST_A_LEASE, marks=long),
        pytest.param("tree", PAST_A_LEASE, marks=long),
        pytest.param("web", PAST_A_LEASE, marks=long),
    ],
)
def test_processes_that_stand_still_lose_nothing(chaos: Chaos, victims: str, seconds: float) -> None:
    with chaos.traffic():
        chosen = choose(chaos.installation, victims)
        with stopped(chosen):
            wait(seconds)
        chaos.measure_recovery()
    chaos.judge(f"{victims} stopped for {seconds:g} s", counters=seconds > 10)
    if victims == "lane":
        lost_by = rows(
            chaos.installation,
            "SELECT DISTINCT worker.pid FROM integrations_attempt attempt"
            " JOIN integrations_worker worker ON worker.id = attempt.worker_id WHERE attempt.outcome = 'lost'",
        )
        assert {pid for (pid,) in lost_by} <= {process.pid for process in chosen}, "the healthy lane lost its claims"
        lanes = rows(
            chaos.installation, "SELECT DISTINCT pid FROM integrations_worker WHERE cluster NOT LIKE '%-suspects'"
        )
        assert len(lanes) == 3, "the healthy lane was replaced, too"


def choose(installation: Installation, victims: str) -> list[psutil.Process]:
    tree = installation.processes()
    if victims == "tree":
        return [process for role, found in tree.items() if role != "web" for process in found]
    return {"lane": tree["lane"][:1], "lanes": tree["lane"], "web": tree["web"]}[victims]


# ---- a database that takes no writes --------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds", [0.0, pytest.param(PAST_A_LEASE, marks=long)])
def test_a_foreign_lock_loses_nothing_and_is_said(chaos: Chaos, seconds: float) -> None:
    with chaos.traffic():
        with foreign_lock(chaos.installation):
            chaos.says_no_writes("locked")
            wait(seconds)
        chaos.measure_recovery()
    verdict = chaos.judge(f"foreign lock, {seconds:g} s more", counters=seconds > 10)
    assert verdict.duplicated == 0, "results that the lanes held were lost"


@pytest.mark.parametrize("seconds", [0.0, pytest.param(PAST_A_LEASE, marks=long)])
def test_a_full_disk_loses_nothing_and_is_said(full_disk: tuple[Chaos, SmallDisk], seconds: float) -> None:
    chaos, disk = full_disk
    with chaos.traffic():
        with disk.full():
            if disk.is_mounted:
                chaos.says_no_writes("disk is full", within=60)
            wait(seconds)
        chaos.measure_recovery()
    verdict = chaos.judge(f"disk full, {seconds:g} s more", counters=seconds > 10)
    assert verdict.duplicated == 0, "results that the lanes held were lost"


@pytest.fixture
def full_disk(
    request: pytest.FixtureRequest, start: Start, tmp_path: Path, database: str
) -> Iterator[tuple[Chaos, SmallDisk]]:
    """An installation whose database is on a small disk of its own; on PostgreSQL in a tablespace, its log is not."""
    if database == "sqlite":
        folder = tmp_path / "installation"
        disk = SmallDisk(folder, "24m")
        installation = Installation(folder, request.getfixturevalue("servers"), on="sqlite")
        installation._log = tmp_path / "up.log"
    else:
        servers: Servers = request.getfixturevalue("own_servers")
        servers.start("postgres")
        disk = SmallDisk(servers.folder / "space", "40m", owner=(servers.folder / "postgres").stat().st_uid)
        installation = Installation(tmp_path / "installation", servers, on="postgres")
        move_database(installation, servers, disk.folder)
    installation.env["SWITCHBOARD_TOKEN_RATE"] = "0"
    try:
        yield start(installation), disk
    finally:
        installation.close()
        if database == "postgres":
            servers.stop("postgres")
        disk.close()


def move_database(installation: Installation, servers: Servers, folder: Path) -> None:
    import psycopg

    name = (installation.env["SWITCHBOARD_DATABASE_URL"] or "").rpartition("/")[2]
    with psycopg.connect(servers.postgres_url(), autocommit=True) as session:
        session.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        session.execute(f'ALTER DATABASE "{name}" SET TABLESPACE small')


# ---- the way to PostgreSQL ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seconds", [4.0, pytest.param(60.0, marks=long)])
@pytest.mark.servers_only
@postgres
def test_commits_whose_reply_is_cut_lose_nothing(
    start: Start, start_installation: Callable[..., Installation], servers: Servers, seconds: float
) -> None:
    proxy = Proxy(servers.folder / "postgres" / ".s.PGSQL.5432")
    installation = start_installation(start=False, SWITCHBOARD_TOKEN_RATE="0")
    direct = installation.env["SWITCHBOARD_DATABASE_URL"] or ""
    through = f"postgres://postgres@127.0.0.1:{proxy.port}/{direct.rpartition('/')[2]}?sslmode=disable"
    installation.env["SWITCHBOARD_DATABASE_URL"] = through
    try:
        chaos = start(installation)
        with chaos.traffic():
            with proxy.cutting(0.05):
                wait(seconds)
            chaos.measure_recovery()
        print(f"\nCOMMITs cut: {proxy.before} before, {proxy.after} after")
        assert proxy.before + proxy.after > 3, "the proxy cut nothing"
        chaos.judge(f"COMMIT cut for {seconds:g} s", counters=seconds > 10)
    finally:
        installation.close()
        proxy.close()


@pytest.mark.parametrize("times", [3, pytest.param(30, marks=long)])
@pytest.mark.servers_only
@postgres
def test_sessions_that_the_server_ends_lose_nothing(chaos: Chaos, times: int) -> None:
    url = chaos.installation.env["SWITCHBOARD_DATABASE_URL"] or ""
    with chaos.traffic():
        with repeated(lambda: terminate_backends(url), pause=1.0):
            wait(times + 0.5)
        chaos.measure_recovery()
    chaos.judge(f"all sessions ended {times} times", counters=times > 10)


# ---- clocks that are set --------------------------------------------------------------------------------------------
HOUR, DAY = 3600, 24 * 3600
STROBE = 0.2  # seconds between two times of a clock that is set to and fro


@pytest.mark.parametrize("days", [2, pytest.param(100, marks=long)])
def test_a_clock_that_leaps_ahead_loses_nothing_and_deletes_nothing(
    start: Start, start_installation: Callable[..., Installation], tmp_path: Path, days: int
) -> None:
    """The clock of SQLite is the machine's. It stays ahead: what it has accepted there would be in the future else."""
    installation = start_installation(on="sqlite", start=False, SWITCHBOARD_TOKEN_RATE="0")
    clock = Clock(installation, tmp_path / "clock")
    chaos = start(installation)
    with chaos.traffic():
        before = delivered(installation)
        clock.set(days * DAY)
        wait(3)
        chaos.measure_recovery()
    chaos.judge(f"clock +{days} d", needs=frozenset({"clock"}), counters=days > 2)
    assert delivered(installation) > before, "history was deleted"
    if clock.can_be_set:
        assert "no history is deleted" in installation.manage("doctor", check=False).stdout


def delivered(installation: Installation) -> int:
    return int(rows(installation, "SELECT count(*) FROM integrations_message WHERE status = 'delivered'")[0][0])


@long
@pytest.mark.servers_only
def test_clocks_of_workers_that_move_lose_nothing(
    start_installation: Callable[..., Installation], sink: Receiver, tmp_path: Path
) -> None:
    """Two days ahead, an hour behind, and to and fro by an hour, on a machine that runs workers alone. The clocks of
    PostgreSQL and of the web server are right all the time."""
    web = start_installation("--no-workers", SWITCHBOARD_TOKEN_RATE="0")
    workers = web.another("--no-web")
    clock = Clock(workers, tmp_path / "clock")
    sink.answer(200, delay=0.1)
    try:
        workers.start()
        until(lambda: len(alive_workers(web)) == 2, 60, "no two lanes")
        chaos = Chaos(web, sink)
        with chaos.traffic():
            for ahead in (2 * DAY, -HOUR):
                with clock.ahead(ahead):
                    wait(20)
            with repeated(lambda: clock.set(random.choice((-HOUR, 0, HOUR))), pause=STROBE):
                wait(20)
            clock.set(0)
            chaos.measure_recovery()
        chaos.judge("clocks of workers moved", counters=True)
    finally:
        workers.close()


# ---- messages that kill their worker --------------------------------------------------------------------------------
@long
@pytest.mark.timeout(700)
@pytest.mark.parametrize("form", ["exit", "segv", "late", "hang"])
def test_a_message_that_kills_its_worker_ends_dead_and_takes_no_other_with_it(
    start: Start, start_installation: Callable[..., Installation], tmp_path: Path, form: str
) -> None:
    installation = start_installation(start=False, SWITCHBOARD_TOKEN_RATE="0")
    poison(installation, tmp_path / "poison")
    chaos = start(installation)
    with chaos.traffic():
        began = time.monotonic()
        message = {"service": "chaos", "path": f"/poison/{form}", "body": {"order": 0}}
        with installation.api() as api:
            poisonous = api.post("messages", json=message).json()["id"]
            until(lambda: api.get(f"messages/{poisonous}").json()["status"] == "dead", 400, "it lives")
            took = time.monotonic() - began
            ended = api.get(f"messages/{poisonous}").json()
        chaos.measure_recovery()
    assert ended["dead_reason"] == "worker_lost"
    print(f"\n{form}: dead after {took:.0f} s and {ended['attempts']} attempts")
    chaos.judge(f"poison: {form}", dead=frozenset({poisonous}), needs=frozenset({"service"}), counters=True)


# ---- random kills ---------------------------------------------------------------------------------------------------
EVERY = 8.0  # seconds
KILLED = ("up", "web", "cluster", "sentinel", "lane", "helper")
MEMORY_GROWTH = 64.0  # MiB


@long
@pytest.mark.timeout(1200)
def test_a_kill_every_8_seconds_for_10_minutes_loses_nothing(chaos: Chaos) -> None:
    seed = int(os.environ.get("SWITCHBOARD_TEST_SEED", "0")) or random.randrange(10**6)
    dice, killed = random.Random(seed), []
    end = time.monotonic() + 600
    with chaos.traffic():
        while time.monotonic() < end:
            wait(EVERY)
            killed.append(kill_one(chaos.installation, KILLED, dice))
        chaos.measure_recovery(2 * NEXT_WITHIN)  # from several kills
    wait_for_lanes(chaos.installation)
    print(f"\nseed {seed}: {len(killed)} kills, {killed.count('up')} of `up`")
    chaos.judge(f"{len(killed)} kills", counters=True)
