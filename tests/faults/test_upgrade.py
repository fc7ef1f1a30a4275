"""An upgrade while a program sends and old workers go on: nothing is lost, and no writer waits long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.traffic import Traffic, rows, wait_for_lanes
from tests.support import releases
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

KEPT_OUT = 2.0  # seconds that a program may wait for one message to be accepted

pytestmark = [pytest.mark.faults, pytest.mark.postgres, pytest.mark.long]


class TimedTraffic(Traffic):
    slowest = 0.0  # seconds until one message was accepted

    def _send(self, api: httpx.Client, number: int, deadline: float) -> str:
        began = time.monotonic()
        sent = super()._send(api, number, deadline)
        self.slowest = max(self.slowest, time.monotonic() - began)
        return sent


@pytest.mark.parametrize("version", sorted(releases.COMMITS))
def test_a_release_is_upgraded_under_traffic_while_its_workers_go_on(
    version: str, start_installation: Callable[..., Installation], sink: Receiver, tmp_path: Path, database: str
) -> None:
    checkout = releases.check_out(version, tmp_path / "checkout")
    old = releases.use_version(start_installation(start=False, migrated=False), checkout).start()
    wait_for_lanes(old)
    traffic = TimedTraffic(old, sink)
    traffic.stream(1200)
    until(lambda: len(traffic.accepted) > 100, 60, "the old version accepts")

    # The new version migrates, and both deliver; programs still send to the old one.
    new = old.another(*(() if database == "sqlite" else ("--migrate",)))
    new.start()
    until(lambda: len(clusters(old)) >= 2, 60, lambda: new.log[-2000:])
    assert not new.log.count("Traceback"), new.log[-4000:]
    traffic.join()

    # Programs send to the new one, and the old one ends.
    traffic.installation = new
    traffic.stream(500)
    old.stop()
    traffic.join()
    traffic.installation = old  # which knows where the database is
    traffic.wait_until_ended()
    traffic.check()
    assert traffic.errors == []
    assert traffic.slowest < KEPT_OUT
    assert len(clusters(old)) >= 2, "one of the two versions has delivered nothing"


def clusters(installation: Installation) -> list[str]:
    """The clusters whose workers have delivered messages: each version has its own."""
    query = "SELECT cluster FROM integrations_worker GROUP BY cluster HAVING SUM(delivered) > 0"
    return [name for (name,) in rows(installation, query)]
