"""When to send a request again: pure functions."""

from __future__ import annotations

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
DOUBLINGS = 30  # after a thousand failures in a row the power would overflow


def delay(failures: int, initial: float, longest: float, retry_after: float | None, share: float) -> float:
    """Return the seconds to wait after so many failures in a row.

    The wait doubles with each failure, up to ``longest``. ``share`` (0 to 1, random) spreads it over the upper half, so
    that clients that failed together do not come back together. ``Retry-After`` is the least wait, up to ``longest``.
    """
    full = min(longest, initial * 2.0 ** min(failures - 1, DOUBLINGS))
    return min(longest, max(full * (0.5 + share / 2), retry_after or 0))


def seconds(header: str | None) -> float | None:
    """Read a ``Retry-After`` in seconds, as Switchboard writes it. A date, which proxies may send, is None."""
    return float(header) if header and header.isascii() and header.isdigit() else None
