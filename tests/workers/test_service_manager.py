"""Under systemd, as a service of Type=notify with a watchdog."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installation import Installation


@pytest.mark.any_database
@pytest.mark.parametrize("address", ["{folder}/notify", "@switchboard{folder}"], ids=["file", "abstract"])
def test_systemd_hears_that_it_is_ready_that_it_lives_and_that_it_stops(
    start_installation: Callable[..., Installation], tmp_path: Path, address: str
) -> None:
    address = address.format(folder=tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address.replace("@", "\0"))
        systemd.settimeout(20)
        installation = start_installation("--no-web", "--no-workers", on="sqlite", NOTIFY_SOCKET=address)
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
        installation.stop()
        signs = [systemd.recv(100)]
        while signs[-1] != b"STOPPING=1":
            signs.append(systemd.recv(100))
    assert set(signs[:-1]) <= {b"READY=1\nWATCHDOG=1"}
