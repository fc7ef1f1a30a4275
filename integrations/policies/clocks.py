"""Clocks that leap and processes that stand still: when a lane may judge others, and when history may be deleted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

GAP = 5.0  # seconds between two sweeps, which are due every second, that count as a stall
RECOVERY = 5.0  # seconds after a stall that other lanes have to renew their leases: one renewal


@dataclass(slots=True)
class Steadiness:
    """Whether a lane has run without a stall, in seconds of any clock that ascends.

    A lock on the database or a stopped machine holds up all lanes at once. The first lane that goes on would find the
    leases of the others run out, though they hold answers that they are about to write.
    """

    last: float | None = None
    stalled_at: float | None = None

    def note(self, moment: float) -> None:
        if self.last is not None and moment - self.last > GAP:
            self.stalled_at = moment
        self.last = moment

    @property
    def is_steady(self) -> bool:
        """Whether no stall ended within the last RECOVERY seconds."""
        return self.last is None or self.stalled_at is None or self.last - self.stalled_at > RECOVERY


# ---- leaps ----------------------------------------------------------------------------------------------------------
LEAP = timedelta(hours=1)  # between two looks at the clock, which workers take every minute
HOLD = timedelta(days=1)  # of steady time after a leap, before history is deleted again
LONGEST_REST = timedelta(days=7)  # a machine may be off for a night or a weekend: the hold then goes on where it was


@dataclass(frozen=True, slots=True)
class ClockHistory:
    """The database's time when a worker last looked, and the leap that holds deletions, if there is one."""

    seen_at: datetime | None = None
    leapt_from: datetime | None = None
    leapt_to: datetime | None = None
    steady: timedelta = timedelta(0)  # time since the leap in which workers looked regularly

    @property
    def is_on_hold(self) -> bool:
        return self.leapt_to is not None

    @property
    def hold_left(self) -> timedelta:
        return HOLD - self.steady if self.is_on_hold else timedelta(0)

    def is_leap(self, now: datetime) -> bool:
        return self.seen_at is not None and now - self.seen_at > LEAP


def look(history: ClockHistory, now: datetime) -> ClockHistory:
    """Return the history after a look at the clock.

    A clock that was set ahead makes everything look old, and deleted rows do not come back. It cannot be told from a
    time in which nothing ran, so that holds deletions too.
    """
    passed = now - history.seen_at if history.seen_at else timedelta(0)
    if history.is_leap(now):
        goes_on = history.is_on_hold and passed <= LONGEST_REST
        return ClockHistory(now, history.seen_at, now, history.steady if goes_on else timedelta(0))
    steady = history.steady + max(passed, timedelta(0))
    if not history.is_on_hold or steady >= HOLD:
        return ClockHistory(now)
    return replace(history, seen_at=now, steady=steady)
