"""The size of the steps of bulk work."""

from __future__ import annotations

FIRST_STEP = 300  # rows; no fewer later: half of the time of such a step does not depend on its rows
LARGEST_STEP = 2_000  # rows: some 100 KB of ids and statements
STEP_TAKES = 0.03  # seconds that a step may take: on SQLite no other process writes during it


def next_step(rows: int, seconds: float, smallest: int = FIRST_STEP, largest: int = LARGEST_STEP) -> int:
    """Return the number of rows for the next step, after one of ``rows`` took ``seconds``: up to twice as many."""
    fitting = int(rows * STEP_TAKES / max(seconds, 1e-6))
    return max(smallest, min(fitting, rows * 2, largest))
