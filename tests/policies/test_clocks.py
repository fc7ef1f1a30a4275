"""Whether a lane may judge others after a stall, and a clock that leaps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from integrations.policies.clocks import HOLD, ClockHistory, Steadiness, look

NOW = datetime(2026, 11, 27, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("sweeps_at", "is_steady"),
    [
        ([], True),
        ([100], True),
        ([0, 1, 2, 7], True),
        ([0, 1, 7], False),
        ([0, 40, 41, 45], False),
        ([0, 40, 41, 45, 45.5], True),
        ([0, 40, 45, 80], False),
    ],
)
def test_a_lane_judges_no_other_until_some_seconds_after_its_own_stall(sweeps_at: list[float], is_steady: bool) -> None:
    steadiness = Steadiness()
    for moment in sweeps_at:
        steadiness.note(moment)
    assert steadiness.is_steady is is_steady


def _after(*looks_at: timedelta) -> ClockHistory:
    history = ClockHistory()
    for moment in looks_at:
        history = look(history, NOW + moment)
    return history


@pytest.mark.parametrize(
    ("looks_at", "is_on_hold"),
    [
        ([0 * DAY], False),
        ([0 * DAY, HOUR, 2 * HOUR], False),
        ([0 * DAY, HOUR + MINUTE], True),
        ([0 * DAY, 100 * DAY], True),
        ([0 * DAY, -100 * DAY, -100 * DAY + MINUTE], False),
        ([0 * DAY, 100 * DAY, MINUTE], True),
        ([0 * DAY, *(100 * DAY + number * HOUR for number in range(24))], True),
        ([0 * DAY, *(100 * DAY + number * HOUR for number in range(25))], False),
    ],
)
def test_a_leap_holds_deletions_for_a_day_of_steady_time(looks_at: list[timedelta], is_on_hold: bool) -> None:
    assert _after(*looks_at).is_on_hold is is_on_hold


def test_a_machine_that_is_off_each_night_deletes_after_some_days() -> None:
    days = [day * DAY + hour * HOUR for day in range(5) for hour in range(10)]
    assert _after(*days[:11]).is_on_hold
    assert not _after(*days[:37]).is_on_hold
    assert _after(*days[:37]).hold_left == 0 * HOLD


def test_a_second_leap_starts_the_hold_again() -> None:
    history = _after(0 * DAY, *(100 * DAY + number * HOUR for number in range(20)), 200 * DAY)
    assert history.hold_left == DAY
    assert history.leapt_from == NOW + 100 * DAY + 19 * HOUR
