"""The pace of bulk work: the size of its steps, the rate that a receiver bears, and when failures stop it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

FIRST_STEP = 300  # rows; no fewer later: half of the time of such a step does not depend on its rows
LARGEST_STEP = 2_000  # rows: some 100 KB of ids and statements


def next_step(rows: int, seconds: float, takes: float, smallest: int = FIRST_STEP, largest: int = LARGEST_STEP) -> int:
    """Return the number of rows for the next step, which may take ``takes`` seconds, after one of ``rows`` took
    ``seconds``: up to twice as many."""
    fitting = int(rows * takes / max(seconds, 1e-6))
    return max(smallest, min(fitting, rows * 2, largest))


# ---- the adaptive pace of an operation -----------------------------------------------------------------------------
START = 2.0  # messages a second
FASTEST, SLOWEST = 1000.0, 0.1
TRIAL = 2.0  # seconds that a rate runs before it is judged
REACHED = 0.7  # share of a rate that was really called; with less, a trial says nothing about the rate
LONG_TRIAL = 10.0  # seconds after which a trial that did not reach its rate begins again
FEWEST_FAILURES, TOLERATED = 2, 0.05  # a single failure, and one in twenty, happen to any receiver
SLOWER, SLOWER_BY = 2.0, 0.25  # calls that take twice as long, and 0.25 s longer, are a receiver that falls behind
FEWEST_DURATIONS = 5
SILENCE = 1.5  # seconds without a new message after failures: receivers count by the second
CLOSE = 1.1  # once the slowest bad rate is this near to the fastest good one, the pace is found
LOOK_AGAIN = 300.0  # seconds after which a found pace is tried a little faster: the receiver may have grown
RAISED = 1.25
# Messages, and seconds of the rate next to the time of two calls. After a stall of the workers all of them are called
# at once, which takes a receiver above its limit although the rate is below it.
FEWEST_QUEUED, QUEUED_FOR = 4, 0.3
LARGEST_OUT = 200  # calls of an operation that may be out at a time


@dataclass(frozen=True, slots=True)
class Pace:
    """The state of an adaptive pace. Times are epoch seconds."""

    since: float  # the begin of the trial of this rate
    rate: float = START  # messages a second
    good: float = 0.0  # the fastest rate that went well
    bad: float | None = None  # the slowest rate that did not
    silent_until: float = 0.0
    calls: int = 0  # in this trial
    failed: int = 0
    seconds: float = 0.0  # of these calls together
    usual: float | None = None  # seconds of a call while the receiver was well
    found_at: float | None = None
    changed_at: float = 0.0
    why: str = "it starts slowly"

    def observe(self, calls: int, failed: int, seconds: float) -> Pace:
        return replace(self, calls=self.calls + calls, failed=self.failed + failed, seconds=self.seconds + seconds)


def adjust(pace: Pace, now: float) -> Pace:
    """Decide the rate from the calls of its trial: double it, search between good and bad, or halve it."""
    if pace.failed >= FEWEST_FAILURES and pace.failed > TOLERATED * pace.calls:
        return _halved(pace, now, f"{pace.failed} of {pace.calls} calls failed at {pace.rate:.3g} a second")
    mean = pace.seconds / pace.calls if pace.calls else 0.0
    if (
        pace.usual is not None
        and pace.calls >= FEWEST_DURATIONS
        and mean > max(SLOWER * pace.usual, pace.usual + SLOWER_BY)
    ):
        return _halved(pace, now, f"calls took {mean:.2g} s instead of {pace.usual:.2g} s at {pace.rate:.3g} a second")
    elapsed = now - pace.since
    if 0 <= elapsed < TRIAL:
        return pace
    fresh = replace(pace, since=now, calls=0, failed=0, seconds=0.0)
    if elapsed < 0:  # the clock moved back
        return fresh
    if pace.calls < REACHED * pace.rate * elapsed:  # calls take their time, or something holds the workers up
        return pace if elapsed < LONG_TRIAL else fresh
    usual = mean if pace.usual is None else min(mean, pace.usual * 1.1)
    return _after_a_good_trial(replace(fresh, usual=usual, good=max(pace.good, pace.rate)), now)


def _after_a_good_trial(pace: Pace, now: float) -> Pace:
    if pace.rate < pace.good:
        return _changed(pace, now, pace.good, f"calls succeed again; {pace.good:.3g} a second went well before")
    if pace.bad is None:
        return _changed(pace, now, min(pace.rate * 2, FASTEST), f"calls succeeded at {pace.rate:.3g} a second")
    if pace.bad > pace.good * CLOSE:
        rate = (pace.good + pace.bad) / 2
        why = f"calls succeeded at {pace.good:.3g} a second and failed or slowed down at {pace.bad:.3g}"
        return _changed(pace, now, min(rate, FASTEST), why)
    if pace.found_at is None:
        why = f"{pace.good:.3g} a second goes well, {pace.bad:.3g} does not"
        return replace(pace, found_at=now, changed_at=now, why=why)
    if now - pace.found_at > LOOK_AGAIN:
        return replace(pace, bad=pace.bad * RAISED, found_at=None)
    return pace


def _changed(pace: Pace, now: float, rate: float, why: str) -> Pace:
    if rate == pace.rate:
        return pace
    return replace(pace, rate=rate, since=now, changed_at=now, why=why, found_at=None)


def _halved(pace: Pace, now: float, why: str) -> Pace:
    """Halve the rate. If a rate that went well before does not now, the fastest good rate is not known any more."""
    half = max(SLOWEST, pace.rate / 2)
    good = half if pace.rate <= pace.good else pace.good
    calm = replace(pace, good=good, bad=pace.rate, calls=0, failed=0, seconds=0.0, silent_until=now + SILENCE)
    return replace(_changed(calm, now, half, why), since=now + SILENCE, found_at=None)


def room(out: int, failed_in_a_row: int, opens_after: int | None) -> int:
    """Return how many more calls may be out at a time, so that all of them together do not open the breaker.

    ``opens_after``: failures in a row that open it; None without a breaker.
    """
    allowed = LARGEST_OUT if opens_after is None else min(LARGEST_OUT, opens_after - 1 - failed_in_a_row)
    return max(0, allowed - out)


def may_queue(pace: Pace, out: int) -> int:
    """Return how many more messages an operation may have queued and not called: few, since they cannot be taken
    back when calls begin to fail."""
    seconds = QUEUED_FOR + 2 * (pace.usual or 0.0)
    return max(0, max(FEWEST_QUEUED, math.ceil(pace.rate * seconds)) - out)


# ---- the end of an operation whose calls fail ----------------------------------------------------------------------
LATEST = 100  # calls that a failure rate looks back
FEWEST = 5  # calls before it stops an operation: as many failures in a row open the usual breaker, and no more come


def passes(latest: str, limit: float) -> bool:
    """Return whether too many of the latest calls failed; ``latest`` has a 1 for each failure, else a 0."""
    return len(latest) >= FEWEST and latest.count("1") > limit * len(latest)
