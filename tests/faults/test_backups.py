"""Backup, destruction and restore of a running installation; and backups that are ended in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.traffic import Traffic, rows, tell, unfinished
from tests.support.backends import Servers, postgres_programs
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

NOTHING_FOR = 6.0  # seconds without a call that show that none comes: more than a heartbeat and several claims

pytestmark = [pytest.mark.faults, pytest.mark.postgres, pytest.mark.long]


@pytest.fixture
def with_programs(start_installation: Callable[..., Installation]) -> Installation:
    """An installation, not started, that finds PostgreSQL's programs."""
    return start_installation(start=False, PATH=f"{postgres_programs()}{os.pathsep}{os.environ['PATH']}")


def test_a_destroyed_installation_comes_back_and_sends_nothing_twice_by_itself(
    with_programs: Installation, sink: Receiver, servers: Servers, tmp_path: Path, database: str
) -> None:
    installation = with_programs.start()
    sink.answer(200, delay=0.5)  # so that messages wait while the backup is taken
    traffic = Traffic(installation, sink)
    traffic.stream(400)
    until(lambda: len(traffic.accepted) > 150, 60, "traffic")
    installation.manage("backup", str(tmp_path / "backup"))
    traffic.join()
    traffic.wait_until_ended()
    installation.close()  # with SIGKILL, as a power cut would

    if database == "sqlite":
        for file in installation.data.glob("switchboard.sqlite3*"):
            file.unlink()
    else:
        installation.env["SWITCHBOARD_DATABASE_URL"] = servers.new_postgres_database()
    said = installation.manage("restore", str(tmp_path / "backup")).stdout
    restored = tell(installation)
    assert set(restored) < set(traffic.accepted), "messages that were accepted after the backup are gone"
    held = {public_id for public_id, story in restored.items() if story.status == "pending"}
    assert {story.status for story in restored.values()} <= {"pending", "delivered"}
    assert f"{len(held)} unfinished messages are held" in said
    assert held
    before = Counter(sink.ids())
    assert all(before[public_id] == 1 for public_id in restored), "they were delivered after the backup"

    installation.start()
    newer = traffic.send()
    until(lambda: newer in sink.ids(), 60, "a new message is delivered at once")
    time.sleep(NOTHING_FOR)
    assert Counter(sink.ids()) - before == Counter([newer])
    assert set(unfinished(installation)) <= {"pending"}

    with installation.api() as api:
        plan = {"kind": "retry_now", "filter": "is:held", "reason": "the receiver has lost them", "rate": 1000}
        assert api.post("operations", json=plan).status_code == 202
    traffic.wait_until_ended()
    assert Counter(sink.ids()) - before == Counter([newer, *held]), "an operator's release sends each once"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_backup_that_is_ended_in_the_middle_leaves_none(
    number: signal.Signals, with_programs: Installation, tmp_path: Path
) -> None:
    _fill(with_programs)
    target = tmp_path / "backups" / "one"
    command = [*with_programs.program, "backup", str(target)]
    process = subprocess.Popen(command, cwd=with_programs.started_in, env=with_programs.env)
    until(lambda: [*target.parent.glob(".one.*.partial/database.*")], 30, "it has begun")
    process.send_signal(number)
    assert process.wait(30) != 0
    assert not target.exists()
    if number == signal.SIGTERM:
        assert list(target.parent.iterdir()) == []
    shutil.rmtree(target.parent)
    with_programs.manage("backup", str(target))
    with_programs.manage("restore", str(target), "--check")


def _fill(installation: Installation) -> None:
    """Make the database so large that a backup takes a second."""
    code = (
        "from integrations.models import *; service = Service.objects.create(name='billing', base_url='http://b.test');"
        "[Message.objects.accept([Draft(service, 'POST', '/', body, 'text/plain') for body in [b'x' * 1000] * 5000]) "
        "for _ in range(40)]"
    )
    installation.manage("shell", "-c", code)
    assert rows(installation, "SELECT count(*) FROM integrations_message") == [(200_000,)]
