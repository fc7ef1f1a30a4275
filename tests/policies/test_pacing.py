"""The adaptive pace, against receivers that exist as a formula."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from integrations.policies import pacing
from integrations.policies.pacing import Pace, adjust

STEP = 0.05  # seconds from one look at the calls to the next
OPENS_AFTER = 5  # failures in a row

Receiver = Callable[[float], bool]  # whether a call at this time succeeds


def counts_all(limit: int) -> Receiver:
    """Refuses a call if the last second had more; refused calls count, so that overload feeds itself."""
    calls: deque[float] = deque()

    def answer(now: float) -> bool:
        while calls and calls[0] <= now - 1:
            calls.popleft()
        calls.append(now)
        return len(calls) <= limit

    return answer


def counts_by_the_clock(limit: int) -> Receiver:
    """Refuses calls above the limit in a second of the clock."""
    counted = {"second": 0, "calls": 0}

    def answer(now: float) -> bool:
        if int(now) != counted["second"]:
            counted.update(second=int(now), calls=0)
        counted["calls"] += 1
        return counted["calls"] <= limit

    return answer


def fills_a_bucket(limit: int) -> Receiver:
    level = {"at": 0.0, "free": float(limit)}

    def answer(now: float) -> bool:
        level["free"] = min(limit, level["free"] + (now - level["at"]) * limit)
        level["at"] = now
        if level["free"] < 1:
            return False
        level["free"] -= 1
        return True

    return answer


def run(receiver: Receiver, seconds: float, latency: float = 0.02) -> tuple[list[tuple[float, float]], int, Pace]:
    """Run an operation; returns (time, rate) for each step, the most failures in a row, and the last pace."""
    pace, credit, in_a_row, most = Pace(since=0.0), 0.0, 0, 0
    out: list[tuple[float, bool]] = []
    rates = []
    for number in range(int(seconds / STEP)):
        now = number * STEP
        ended = [succeeded for at, succeeded in out if at <= now]
        out = [(at, succeeded) for at, succeeded in out if at > now]
        for succeeded in ended:
            in_a_row = 0 if succeeded else in_a_row + 1
            most = max(most, in_a_row)
        pace = adjust(pace.observe(len(ended), ended.count(False), latency * len(ended)), now)
        credit = min(credit + pace.rate * STEP, pace.rate * 0.5)
        if now >= pace.silent_until:
            free = pacing.room(len(out), in_a_row, OPENS_AFTER) or int(not out)  # after a silence one call may go
            wanted = min(int(credit), free)
            credit -= wanted
            out += [(now + latency, receiver(now + place * 1e-3)) for place in range(wanted)]
        rates.append((now, pace.rate))
    return rates, most, pace


@pytest.mark.parametrize(
    "receiver", [counts_all(50), counts_by_the_clock(50), fills_a_bucket(50)], ids=["all", "clock", "bucket"]
)
def test_the_pace_of_a_receiver_is_found_and_kept_and_no_breaker_opens(receiver: Receiver) -> None:
    rates, most, pace = run(receiver, 240)
    assert most < OPENS_AFTER
    in_band = [40 <= rate <= 60 for _, rate in rates]
    first = next(place for place in range(len(in_band)) if all(in_band[place : place + int(60 / STEP)]))
    assert first * STEP < 90, "seconds until it is within 20 % for a minute"
    assert pace.found_at is not None
    assert "goes well" in pace.why


def test_it_doubles_while_the_receiver_is_well_and_stops_at_the_fastest() -> None:
    rates, _, _ = run(lambda now: True, 12)
    assert list(dict.fromkeys(rate for _, rate in rates))[:4] == [2, 4, 8, 16]
    pace = Pace(since=0.0, rate=800.0, good=800.0, calls=1_600)
    assert adjust(pace, 2.0).rate == pacing.FASTEST
    assert adjust(replace(pace, rate=pacing.FASTEST, calls=2_000), 2.0).rate == pacing.FASTEST


def test_calls_that_take_longer_halve_it() -> None:
    pace = Pace(since=0.0, rate=40.0, good=20.0, usual=0.1, calls=20, seconds=20 * 0.5)
    slower = adjust(pace, 1.0)
    assert (slower.rate, slower.bad, slower.good) == (20.0, 40.0, 20.0)
    assert slower.why == "calls took 0.5 s instead of 0.1 s at 40 a second"
    assert adjust(replace(pace, seconds=20 * 0.15), 1.0).rate == 40.0, "50 ms more are no sign"


def test_a_single_failure_changes_nothing() -> None:
    assert adjust(Pace(since=0.0, rate=40.0, calls=3, failed=1), 1.0).rate == 40.0
    assert adjust(Pace(since=0.0, rate=40.0, calls=79, failed=3), 1.9).rate == 40.0, "less than one in twenty"
    assert adjust(Pace(since=0.0, rate=40.0, calls=3, failed=2), 1.0).rate == 20.0


def test_a_receiver_that_gets_worse_is_followed_down_and_up_again() -> None:
    limits = {"now": 50}

    def answer(now: float) -> bool:
        limits["now"] = 50 if now < 100 else 10 if now < 200 else 50
        return counters[limits["now"]](now)

    counters = {limit: counts_all(limit) for limit in (50, 10)}
    rates, most, _ = run(answer, 200)
    assert most < OPENS_AFTER
    assert all(rate <= 12 for now, rate in rates if now > 180)


def test_a_rate_that_was_not_reached_is_not_called_good() -> None:
    """Slow calls leave no room for more: the pace must not grow on the strength of calls that were never made."""
    rates, _, pace = run(lambda now: True, 60, latency=1.0)
    assert max(rate for _, rate in rates) <= 8
    assert pace.good <= 6, "four calls a second end"


@pytest.mark.parametrize(
    ("out", "in_a_row", "opens_after", "room"),
    [
        (0, 0, 5, 4),
        (3, 0, 5, 1),
        (4, 0, 5, 0),
        (1, 2, 5, 1),
        (0, 4, 5, 0),
        (1, 4, 5, 0),
        (0, 0, 1, 0),
        (7, 3, None, 193),
    ],
)
def test_all_calls_that_are_out_may_fail_without_opening_the_breaker(
    out: int, in_a_row: int, opens_after: int | None, room: int
) -> None:
    assert pacing.room(out, in_a_row, opens_after) == room


def test_few_messages_wait_for_their_call() -> None:
    assert [pacing.may_queue(Pace(0, rate), 0) for rate in (2, 20, 100)] == [4, 6, 30]
    assert pacing.may_queue(Pace(0, 100, usual=0.35), 0) == 100, "calls that take long are many at a time"
    assert pacing.may_queue(Pace(0, 20), 19) == 0


@pytest.mark.parametrize(
    ("latest", "limit", "passes"),
    [
        ("1111", 0.5, False),
        ("11111", 0.5, True),
        ("10101", 0.5, True),
        ("1010", 0.1, False),
        ("10" * 50, 0.5, False),
        ("00001", 0.1, True),
    ],
)
def test_failures_stop_an_operation(latest: str, limit: float, passes: bool) -> None:
    assert pacing.passes(latest, limit) is passes
