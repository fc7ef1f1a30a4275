"""Clocks that jump and processes that stand still: when a lane may judge others."""

from __future__ import annotations

from dataclasses import dataclass

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
