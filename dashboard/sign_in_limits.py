"""How often an address may fail to sign in, and how many passwords are hashed at once. Both count in this process.

django-axes counts failures for each pair of name and address, so it lets one address try any number of names.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network

FAILURES = 30  # of one address; many people may share it, as behind a proxy that is not trusted
ANOTHER_EVERY = 30.0  # seconds until one more failure is allowed

# A hash takes 0.37 s of a processor, so that two saturate two cores and 96 attempts at once stopped the console.
HASHES = 2
WAITING = 4  # attempts that may wait for those, up to 0.7 s; each of them holds a thread


class FailureLimit:
    """A bucket of failures for each address. An IPv6 network of 64 bits is one address: a client has all of it."""

    KEPT = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[float, float]] = {}  # by address: (failures, as of)

    def take(self, address: str) -> float:
        """Count an attempt as a failure. Return 0, or the seconds until an attempt is allowed."""
        key, now = _network(address), time.monotonic()
        with self._lock:
            failures = self._left(key, now)
            if failures + 1 > FAILURES:
                return (failures + 1 - FAILURES) * ANOTHER_EVERY
            self._failures.pop(key, None)
            self._failures[key] = (failures + 1, now)
            if len(self._failures) > self.KEPT:
                del self._failures[next(iter(self._failures))]  # the address that has not tried for longest
        return 0

    def give_back(self, address: str) -> None:
        """Forget an attempt that succeeded, or was not made."""
        key, now = _network(address), time.monotonic()
        with self._lock:
            self._failures[key] = (max(0.0, self._left(key, now) - 1), now)

    def _left(self, key: str, now: float) -> float:
        failures, since = self._failures.get(key, (0.0, now))
        return max(0.0, failures - (now - since) / ANOTHER_EVERY)


def _network(address: str) -> str:
    try:
        found = ip_address(address)
    except ValueError:  # a Unix socket has none
        return address
    if not isinstance(found, IPv6Address) or found.ipv4_mapped:
        return address
    return str(ip_network(f"{found}/64", strict=False))


class HashingSlots:
    """Slots for those who want a password hashed: a few at a time, a few more that wait, none beyond."""

    def __init__(self) -> None:
        self._hashing = threading.BoundedSemaphore(HASHES)
        self._present = threading.BoundedSemaphore(HASHES + WAITING)

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Wait for a slot; False at once if too many wait already."""
        if not self._present.acquire(blocking=False):
            yield False
            return
        try:
            with self._hashing:
                yield True
        finally:
            self._present.release()


failures = FailureLimit()
hashing = HashingSlots()
