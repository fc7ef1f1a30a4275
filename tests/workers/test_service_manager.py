"""Under systemd, as a service of Type=notify with a watchdog."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integrations.workers.service_manager import ALIVE, READY, STOPPING, tell
from tests.support.installation import Installation


@contextmanager
def systemd(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(20)
        yield listening


def test_systemd_hears_that_it_is_ready_that_it_lives_and_that_it_stops(
    start_installation: Callable[..., Installation], tmp_path: Path
) -> None:
    address = str(tmp_path / "notify")
    with systemd(address) as listening:
        installation = start_installation("--no-web", "--no-workers", on="sqlite", NOTIFY_SOCKET=address)
        lives = f"{READY}\n{ALIVE}".encode()
        assert listening.recv(100) == lives
        installation.stop()
        signs = [listening.recv(100)]
        while signs[-1] != STOPPING.encode():
            signs.append(listening.recv(100))
    assert set(signs[:-1]) <= {lives}


def test_a_socket_without_a_file_is_heard_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", f"@switchboard{tmp_path}")
    with systemd(f"\0switchboard{tmp_path}") as listening:
        tell(ALIVE)
        assert listening.recv(100) == b"WATCHDOG=1"


def test_a_sign_that_reaches_no_systemd_stops_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    tell(ALIVE)
    monkeypatch.delenv("NOTIFY_SOCKET")
    tell(ALIVE)
