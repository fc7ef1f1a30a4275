"""A web server that is stopped, and not dead, is replaced by the supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.support.installation import Installation
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(280)]


def test_a_web_server_that_hangs_is_replaced(start_installation: Callable[..., Installation]) -> None:
    """After SIGSTOP for 150 s it was never replaced."""
    installation = start_installation("--no-workers")
    (victim,) = installation.processes()["web"]
    os.kill(victim.pid, signal.SIGSTOP)
    until(lambda: victim.pid not in _pids(installation), 60, lambda: "it is not replaced")
    installation.wait_for_web()


def _pids(installation: Installation) -> set[int]:
    return {process.pid for process in installation.processes().get("web", [])}
