"""Two machines, one PostgreSQL, one Redis: one of them loses the database amid its work, and finds it again.

The machines are network namespaces (machines.py). Where those cannot be made, two clusters on this machine take their
place, nothing is cut, and the test says so.
"""

from __future__ import annotations

import time
import warnings
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from integrations.models import identifiers
from tests.faults.machines import Machines, are_possible
from tests.faults.traffic import Traffic, rows, unfinished
from tests.support.backends import MARK, Servers
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.postgres, pytest.mark.servers_only, pytest.mark.timeout(280)]

EAST, WEST = "east", "west"
LIMITS = {"concurrency": 8, "rate": 60}
BUSY_AFTERWARDS = 15.0  # seconds of traffic when the machine is back
DELAY = 0.1  # seconds of a call
NEXT_WITHIN = 60.0


@dataclass
class Site:
    """Two clusters, a web server, and the links that can be cut."""

    web: Installation
    clusters: dict[str, Installation]
    machines: Machines | None
    receiver: Receiver
    traffic: Traffic

    def cut(self, name: str) -> None:
        if self.machines:
            self.machines.cut(name)

    def join(self, name: str) -> None:
        if self.machines:
            self.machines.join(name)

    def delivered_by(self, name: str, since: float = 0.0) -> int:
        """How many calls with a result a machine has recorded, of those that began after a moment."""
        cluster = f"worker.host = '{name}'" if self.machines else f"worker.cluster LIKE '%-{self._pid(name)}-%'"
        return int(
            rows(
                self.web,
                "SELECT count(*) FROM integrations_attempt attempt"
                " JOIN integrations_worker worker ON worker.id = attempt.worker_id"
                f" WHERE {cluster} AND attempt.outcome = 'succeeded'"
                f" AND attempt.started_at > to_timestamp({since})",
            )[0][0]
        )

    def _pid(self, name: str) -> int:
        process = self.clusters[name].process
        assert process
        return process.pid


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Servers, web and receiver here, and a cluster of two lanes on each machine."""
    monkeypatch.setenv(MARK, "")  # the servers set it to their own mark
    machines = Machines(EAST, WEST) if are_possible() else None
    if machines is None:
        warnings.warn("no network namespaces here: nothing was cut off", stacklevel=1)
        yield from _site(tmp_path, None)
        return
    with machines:
        yield from _site(tmp_path, machines)


def _site(folder: Path, machines: Machines | None) -> Iterator[Site]:
    servers = Servers(machines.data if machines else "")
    receiver = Receiver(host=machines.world if machines else "127.0.0.1")
    reachable = {"SWITCHBOARD_ALLOW_PRIVATE": "10.0.0.0/8,127.0.0.0/8"}
    web = Installation(folder / "web", servers, ("--no-workers",), reachable, on="postgres")
    clusters = {name: _cluster(web, machines, name) for name in (EAST, WEST)}
    try:
        receiver.start()
        receiver.answer(200, delay=DELAY)
        web.start()
        for cluster in clusters.values():
            cluster.start()
        traffic = Traffic(web, receiver)
        with web.api() as api:
            changed = api.patch("services/billing", json={"limits": LIMITS, "breaker": {"enabled": False}})
            assert changed.status_code == 200, changed.text
        alive = "SELECT count(*) FROM integrations_worker WHERE stopped_at IS NULL"
        until(lambda: rows(web, alive) == [(4,)], NEXT_WITHIN, lambda: clusters[EAST].log[-3000:])
        yield Site(web, clusters, machines, receiver, traffic)
    finally:
        for installation in (*clusters.values(), web):
            installation.close()
        receiver.close()
        servers.close()


def _cluster(web: Installation, machines: Machines | None, name: str) -> Installation:
    cluster = web.another("--no-web")
    if machines:
        cluster.inside = machines.inside(name)
        database = web.env["SWITCHBOARD_DATABASE_URL"].rpartition("/")[2]
        redis = web.env["SWITCHBOARD_REDIS_URL"].rpartition("=")[2]
        cluster.env["SWITCHBOARD_DATABASE_URL"] = f"postgres://postgres@{machines.data}:5432/{database}"
        cluster.env["SWITCHBOARD_REDIS_URL"] = f"redis://{machines.data}:6379/{redis}"
    return cluster


@pytest.mark.long
@pytest.mark.parametrize("away", [8.0, 35.0], ids=["shorter than a lease", "longer than a lease"])
def test_a_machine_cut_off_from_the_database_loses_nothing_and_sends_nothing_twice(site: Site, away: float) -> None:
    traffic = site.traffic
    traffic.stream(round(LIMITS["rate"] * (away + BUSY_AFTERWARDS)), pause=0.005)
    site.receiver.wait_for(100, timeout=60)
    until(lambda: site.delivered_by(EAST) > 20 and site.delivered_by(WEST) > 20, 60, lambda: "one machine is idle")

    site.cut(EAST)
    cut_at = time.time()
    until(lambda: site.delivered_by(WEST, cut_at) > 0, NEXT_WITHIN, lambda: "no machine delivers")
    print(f"\n{away:g} s away: the other machine delivers {time.time() - cut_at:.1f} s after the cut", end="; ")
    time.sleep(max(0.0, cut_at + away - time.time()))
    site.join(EAST)
    joined_at = time.time()
    until(lambda: site.delivered_by(EAST, joined_at) > 0 or not unfinished(site.web), 60, lambda: "it stays away")
    print(f"it is back {time.time() - joined_at:.1f} s after its return", end="; ")
    traffic.join()
    until(
        lambda: all(site.delivered_by(name, joined_at) for name in (EAST, WEST)) or _more(traffic),
        NEXT_WITHIN,
        lambda: f"since the return: {site.delivered_by(EAST, joined_at)} and {site.delivered_by(WEST, joined_at)}",
    )
    traffic.wait_until_ended()
    traffic.check()
    limits_held(site.receiver)
    nothing_was_sent_before_its_lease_had_ended(site)
    if site.machines and away > 20:
        assert rows(site.web, "SELECT count(*) FROM integrations_worker WHERE lost") > [(0,)], "it kept its lease"


def _more(traffic: Traffic) -> bool:
    """Keeps something to do for both; False, so that it can stand in a condition."""
    traffic.send()
    return False


def limits_held(receiver: Receiver) -> None:
    assert receiver.max_in_flight <= LIMITS["concurrency"]
    at = sorted(call.at for call in receiver.calls)
    # One more than the limit, and one for this receiver, which shares an interpreter with the test.
    assert max(bisect_left(at, start + 1) - index for index, start in enumerate(at)) <= LIMITS["rate"] + 2


def nothing_was_sent_before_its_lease_had_ended(site: Site) -> None:
    """A message that came twice was claimed again only after the lease of its first claim."""
    leases = {
        (identifiers.public_id("msg", pk, nonce), number): lease.timestamp()
        for pk, nonce, number, lease in rows(
            site.web,
            "SELECT message.id, message.nonce, attempt.number, worker.lease_until FROM integrations_attempt attempt"
            " JOIN integrations_message message ON message.id = attempt.message_id"
            " JOIN integrations_worker worker ON worker.id = attempt.worker_id WHERE attempt.outcome = 'lost'",
        )
    }
    times: dict[str, list[float]] = defaultdict(list)
    for call in site.receiver.calls:
        times[call.header("webhook-id") or ""].append(call.at)
    twice = {identifier: sorted(at) for identifier, at in times.items() if len(at) > 1}
    print(f"{len(leases)} claims were lost, {len(twice)} messages came twice")
    for identifier, at in twice.items():
        ends = sorted(lease for (message, _), lease in leases.items() if message == identifier)
        for again, lease in zip(at[1:], ends, strict=False):
            assert again >= lease, f"{identifier} was sent again {lease - again:.1f} s before the lease had ended"
