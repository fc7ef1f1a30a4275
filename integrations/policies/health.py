"""Decide by its regular checks whether a service is up."""

from __future__ import annotations

import re
from typing import Literal

HealthState = Literal["unknown", "up", "down"]

DOWN_AFTER = 2  # failed checks in a row: a single failure may be temporary
EXPECTED = re.compile(r"(?:[1-5]xx|[1-5][0-9]{2})(?: *, *(?:[1-5]xx|[1-5][0-9]{2}))*")


def next_state(
    state: HealthState, failed_in_a_row: int, *, is_good: bool
) -> tuple[HealthState, int, Literal["up", "down"] | None]:
    """Return the state after a check, the failed checks in a row, and the change to report.

    A service that is up at its first check is not reported; a service that is down is.
    """
    if is_good:
        return "up", 0, "up" if state == "down" else None
    failed_in_a_row += 1
    if state != "down" and failed_in_a_row >= DOWN_AFTER:
        return "down", failed_in_a_row, "down"
    return state, failed_in_a_row, None


def is_expected(status_code: int | None, expect: str) -> bool:
    """Whether ``expect``, such as ``2xx`` or ``200, 204, 3xx``, contains a status."""
    if status_code is None:
        return False
    return {str(status_code), f"{status_code // 100}xx"} & {entry.strip() for entry in expect.split(",")} != set()
