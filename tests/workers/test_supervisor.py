"""A web server that hangs is replaced, as a lane is. The long form is tests/faults/test_hung_web.py."""

from __future__ import annotations

import time

from integrations.workers.supervisor import WEB_HUNG, WEB_STARTS_WITHIN, Heartbeat, beat


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
