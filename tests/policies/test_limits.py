"""Send slots, the retry budget, and the fair share."""

from __future__ import annotations

import math
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from integrations.policies.limits import USED_OF_RATE, Limits, Recent, Timeout, budget_left, record, share, slots

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def paced(rate: float, per: float = 1) -> Limits:
    """Limits whose slots are exactly per/rate seconds apart."""
    return Limits(rate=rate / USED_OF_RATE, per=per)


def seconds(times: tuple[datetime, ...]) -> list[float]:
    return [(time - NOW).total_seconds() for time in times]


# --- Slots ----------------------------------------------------------------------------------------------------------


def test_without_a_rate_everything_goes_at_once() -> None:
    assert slots(Limits(), NOW + SECOND, NOW, 3, SECOND) == ((NOW,) * 3, None)


@pytest.mark.parametrize(
    ("limits", "next_in", "wanted", "horizon", "given_at", "next_after"),
    [
        ({"rate": 10}, None, 3, 1, [0, 0.1, 0.2], 0.3),
        ({"rate": 10}, -5, 3, 1, [0, 0.1, 0.2], 0.3),
        ({"rate": 10}, 0.25, 2, 1, [0.25, 0.35], 0.45),
        ({"rate": 2}, None, 99, 1, [0, 0.5, 1.0], 1.5),
        ({"rate": 2}, 1.5, 99, 1, [], 1.5),
        ({"rate": 1, "per": 60}, None, 5, 1, [0], 60),
        ({"rate": 1, "per": 60}, 60, 5, 1, [], 60),
        ({"rate": 10}, 0.2, 0, 1, [], 0.2),
        ({"rate": 10}, 3600, 5, 1, [1], 1.1),
        ({"rate": 1}, 0, 2, 0, [0], 1),
    ],
)
def test_slots_are_evenly_spaced_up_to_the_horizon(limits, next_in, wanted, horizon, given_at, next_after) -> None:
    next_slot = None if next_in is None else NOW + timedelta(seconds=next_in)
    times, following = slots(paced(**limits), next_slot, NOW, wanted, timedelta(seconds=horizon))
    assert seconds(times) == given_at
    assert following == NOW + timedelta(seconds=next_after)


def test_a_rate_that_does_not_divide_a_second_is_never_exceeded() -> None:
    times, _ = slots(Limits(rate=3), None, NOW, 1000, timedelta(hours=1))
    assert (times[999] - times[0]).total_seconds() >= 333


@pytest.mark.slow
@given(
    rate=st.integers(1, 5000),
    per=st.sampled_from([1.0, 60.0]),
    late=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50),
)
def test_no_period_has_more_calls_than_allowed_however_late_each_arrives(
    rate: int, per: float, late: list[float]
) -> None:
    """If no send is later than twice the patience, late and punctual sends together stay within the limit."""
    limits = Limits(rate=rate, per=per)
    wanted = 2 * rate + 2
    times, _ = slots(limits, None, NOW, wanted, timedelta(days=400))
    at = sorted(time + 2 * limits.patience * late[index % len(late)] for index, time in enumerate(times))
    allowed = rate + 1 if rate <= 200 else math.floor(rate * 1.02)
    most = max(bisect_left(at, start + timedelta(seconds=per)) - index for index, start in enumerate(at))
    assert most <= allowed


@pytest.mark.parametrize("rate", [0.5, 5, 50, 200, 1000, 100_000])
def test_nearly_all_of_a_rate_is_used(rate: float) -> None:
    times, _ = slots(Limits(rate=rate), None, NOW, 101, timedelta(hours=1))
    assert 100 / (times[-1] - times[0]).total_seconds() >= 0.95 * rate


@given(
    rate=st.floats(0.01, 1000),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 4), st.integers(0, 20)), max_size=30),
)
def test_no_two_sends_are_closer_than_the_rate_allows(rate: float, steps: list[tuple[float, float, int]]) -> None:
    """Several processes whose clocks differ by up to four seconds take turns at one row."""
    limits, next_slot, true_time, sent = Limits(rate=rate), None, NOW, []
    for passed, skew, wanted in steps:
        true_time += timedelta(seconds=passed)
        now = true_time + timedelta(seconds=skew)
        times, next_slot = slots(limits, next_slot, now, wanted, 2 * SECOND)
        assert all(now <= time <= now + 2 * SECOND for time in times)
        sent += times
    assert all(later - earlier >= limits.interval for earlier, later in pairwise(sent))


def test_a_clock_that_moved_back_a_day_does_not_stop_a_service() -> None:
    _, next_slot = slots(paced(1), None, NOW + timedelta(days=1), 2, SECOND)
    times, next_slot = slots(paced(1), next_slot, NOW, 1, SECOND)
    assert times == (NOW + SECOND,)
    assert next_slot == NOW + 2 * SECOND


# --- Retry budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "retries", "budget", "left"),
    [
        (0, 0, 0.2, 10),
        (40, 4, 0.2, 6),
        (40, 10, 0.2, 0),
        (40, 30, 0.2, 0),
        (100, 0, 0.2, 20),
        (100, 0, 0.29, 29),
        (1000, 150, 0.2, 50),
        (1000, 0, 0, 10),
        (1000, 900, 0.95, 50),
        (1000, 1000, 0.95, 0),
    ],
)
def test_retries_are_a_share_of_the_calls_with_a_floor(calls, retries, budget, left) -> None:
    assert budget_left(record((), NOW, calls, retries), budget, NOW) == left


def test_a_budget_of_all_calls_is_no_limit() -> None:
    """When only retries are left, as after an outage, each of them is also a call."""
    assert budget_left(record((), NOW, 1000, 1000), 1, NOW) > 1_000_000


def test_calls_count_for_a_minute_and_no_longer() -> None:
    recent = record((), NOW, 0, 10)
    assert budget_left(recent, 0.2, NOW + timedelta(seconds=59)) == 0
    assert budget_left(recent, 0.2, NOW + timedelta(seconds=60)) == 10


def test_recent_stays_small_and_sums_within_a_bucket() -> None:
    recent: Recent = ()
    for second in range(600):
        recent = record(recent, NOW + timedelta(seconds=second), 2, 1)
    assert len(recent) == 12
    assert recent[-1][1:] == (10, 5)


def test_recording_nothing_keeps_nothing() -> None:
    assert record((), NOW, 0, 0) == ()


def test_a_clock_that_moved_back_neither_forgets_nor_pins_retries() -> None:
    tomorrow = NOW + timedelta(days=1)
    recent = record(record((), tomorrow, 0, 5), tomorrow + 10 * SECOND, 0, 5)
    assert budget_left(recent, 0.2, NOW) == 0
    recent = record(recent, NOW, 1, 0)
    assert budget_left(recent, 0.2, NOW + timedelta(seconds=65)) == 10


@given(st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_a_budget_is_never_negative_and_its_rows_stay_in_order(steps) -> None:
    recent: Recent = ()
    now = NOW
    for step, calls, retries in steps:
        now += timedelta(seconds=step)
        recent = record(recent, now, calls, retries)
        assert budget_left(recent, 0.2, now) >= 0
        assert list(recent) == sorted(recent)
        assert len({start for start, _, _ in recent}) == len(recent) <= 12


# --- Share ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capacity", "wants", "given_to"),
    [
        (10, [], []),
        (0, [5, 5], [0, 0]),
        (-3, [5], [0]),
        (10, [5, 5], [5, 5]),
        (10, [100, 1], [9, 1]),
        (10, [100, 100, 1], [5, 4, 1]),
        (7, [3, 3, 3], [3, 2, 2]),
        (2, [9, 9, 9], [1, 1, 0]),
        (100, [1, 2, 3], [1, 2, 3]),
        (10, [0, -1, 50], [0, 0, 10]),
    ],
)
def test_places_are_shared_fairly(capacity: int, wants: list[int], given_to: list[int]) -> None:
    assert share(capacity, wants) == given_to


@given(st.integers(0, 500), st.lists(st.integers(0, 100), max_size=30))
def test_a_share_is_full_and_max_min_fair(capacity: int, wants: list[int]) -> None:
    given_to = share(capacity, wants)
    assert sum(given_to) == min(capacity, sum(wants))
    assert all(0 <= got <= want for got, want in zip(given_to, wants, strict=True))
    unsatisfied = [got for got, want in zip(given_to, wants, strict=True) if got < want]
    if unsatisfied:
        assert max(given_to) <= min(unsatisfied) + 1


# --- Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"per": 0}, "per"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1001}, "concurrency"),
        ({"rate": 1e-9}, "per"),
        ({"burst": 5}, "burst"),
    ],
)
def test_limits_out_of_bounds_are_refused(settings: dict, field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Limits(**settings)
    assert refusal.value.errors()[0]["loc"] == (field,)


def test_the_defaults_are_the_contract() -> None:
    assert Limits().model_dump() == {"rate": None, "per": 1, "concurrency": 10}
    assert Timeout().model_dump() == {"connect": 5, "total": 30}


def test_connecting_has_no_more_time_than_the_whole_call() -> None:
    assert Timeout(connect=5, total=2).connect_within == 2
    assert Timeout().connect_within == 5


@pytest.mark.parametrize("settings", [{"connect": 0.01}, {"connect": 61}, {"total": 0}, {"total": 300.1}])
def test_timeouts_out_of_bounds_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError):
        Timeout(**settings)
