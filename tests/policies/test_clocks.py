"""Whether a lane may judge others after a stall, and a clock that leaps."""

from __future__ import annotations

import pytest

from integrations.policies.clocks import Steadiness


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
