"""How many exports may run at once. Counts in this process.

An export of a million messages takes minutes of a processor, whether or not its reader is still interested.
"""

from __future__ import annotations

import threading
from collections import Counter

from integrations.api.problems import Problem

PER_PERSON = 2
IN_ALL = 10  # fewer than Django has threads: even as WSGI alone, exports leave some for pages
RETRY = 10  # seconds


class ExportSlots:
    """The exports that run, counted for each person."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the garbage collector may release a slot while its thread takes one
        self._taken: Counter[int] = Counter()

    def take(self, person: int) -> Slot:
        """Take a slot for the account with this id. Raises Problem(429) or Problem(503) if none is free."""
        with self._lock:
            if self._taken[person] >= PER_PERSON:
                detail = f"You have {PER_PERSON} exports in progress, which is the limit. Wait until one has ended, or"
                raise Problem(429, f"{detail} cancel its download.", headers={"Retry-After": str(RETRY)})
            if self._taken.total() >= IN_ALL:
                detail = f"{IN_ALL} exports are in progress, which is the limit for all users. Try again soon."
                raise Problem(503, detail, headers={"Retry-After": str(RETRY)})
            self._taken[person] += 1
        return Slot(self, person)

    def release(self, person: int) -> None:
        with self._lock:
            self._taken[person] -= 1
            self._taken += Counter()  # drop the persons without an export


class Slot:
    """The place of one export."""

    def __init__(self, slots: ExportSlots, person: int) -> None:
        self._slots, self._person = slots, person
        self._is_taken = True

    def release(self) -> None:
        """Free the slot. Later calls do nothing."""
        if self._is_taken:
            self._is_taken = False
            self._slots.release(self._person)


slots = ExportSlots()
