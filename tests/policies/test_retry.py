"""The time of a retry: the formula, Retry-After, and the three reasons to give up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from integrations.policies.retry import (
    DeadReason,
    RetryPolicy,
    delay_after,
    is_named,
    next_attempt,
    parse_retry_after,
    preview,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STEADY = {"jitter": 0}


def delay(policy: RetryPolicy, attempts: int, retry_after: float | None = None) -> float:
    return delay_after(policy, attempts, retry_after=retry_after, random=Random(1))


def again(policy: RetryPolicy, attempts: int, *, after: float = 0, expires: float | None = None, retry_after=None):
    """Return the next attempt of a message first due at NOW, decided ``after`` seconds later."""
    return next_attempt(
        policy,
        attempts=attempts,
        first_due=NOW,
        expires_at=None if expires is None else NOW + timedelta(seconds=expires),
        now=NOW + timedelta(seconds=after),
        retry_after=retry_after,
        random=Random(1),
    )


# --- Delays ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_contract() -> None:
    assert RetryPolicy().model_dump(mode="json") == {
        "max_attempts": 10,
        "initial": 5,
        "factor": 4,
        "max": 21600,
        "jitter": 0.2,
        "schedule": None,
        "deadline": None,
        "budget": 0.2,
        "retry_on": ["5xx", 408, 425, 429],
        "on_gone": "dead",
    }


def test_the_defaults_span_about_twenty_hours() -> None:
    times = preview(RetryPolicy(), NOW)
    assert len(times) == 10
    assert timedelta(hours=19) < times[-1] - times[0] < timedelta(hours=21)


@pytest.mark.parametrize(
    ("settings", "delays"),
    [
        ({}, [5, 20, 80, 320, 1280, 5120, 20480, 21600, 21600]),
        ({"initial": 1, "factor": 2, "max": 10}, [1, 2, 4, 8, 10, 10]),
        ({"initial": 3, "factor": 1}, [3, 3, 3]),
        ({"initial": 0}, [0, 0, 0]),
        ({"initial": 50, "max": 7}, [7, 7]),
        ({"max": 0}, [0, 0]),
        ({"schedule": [5, 30, 120]}, [5, 30, 120, 120]),
        ({"schedule": []}, [0]),
    ],
)
def test_each_wait_follows_the_formula_or_the_schedule(settings: dict, delays: list[float]) -> None:
    policy = RetryPolicy(**settings, **STEADY)
    assert [delay(policy, attempts) for attempts in range(1, len(delays) + 1)] == pytest.approx(delays)


@pytest.mark.parametrize("initial", [0, 1e-9, 5, 2_592_000])
@pytest.mark.parametrize("factor", [1, 4, 1000])
def test_nothing_overflows_at_attempt_one_thousand(initial: float, factor: float) -> None:
    policy = RetryPolicy(initial=initial, factor=factor, max_attempts=1000, **STEADY)
    for attempts in (999, 1000):
        assert 0 <= delay(policy, attempts) <= policy.max
    if initial == 0:
        assert delay(policy, 1000) == 0
    longest = RetryPolicy(initial=initial, factor=factor, max=2_592_000, max_attempts=1000, jitter=1)
    due = again(longest, 999)
    assert isinstance(due, datetime)
    assert NOW <= due <= NOW + timedelta(days=60)
    assert again(longest, 1000) == DeadReason.ATTEMPTS


@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0, 1))
def test_jitter_stays_within_its_share_on_both_sides(seed: int, attempts: int, jitter: float) -> None:
    plain = delay_after(RetryPolicy(jitter=0), attempts, retry_after=None, random=Random(seed))
    made = delay_after(RetryPolicy(jitter=jitter), attempts, retry_after=None, random=Random(seed))
    assert plain * (1 - jitter) - 1e-6 <= made <= plain * (1 + jitter) + 1e-6


def test_jitter_goes_both_ways() -> None:
    random = Random(7)
    made = [delay_after(RetryPolicy(), 1, retry_after=None, random=random) for _ in range(200)]
    assert min(made) < 4.5
    assert max(made) > 5.5


@pytest.mark.parametrize("jitter", [0.1, 0.2, 1])
def test_jitter_spreads_retries_evenly(jitter: float) -> None:
    """10,000 messages that failed together are retried over the whole span, no tenth of it busier than the others."""
    random, policy, draws = Random(11), RetryPolicy(initial=100, jitter=jitter), 10_000
    made = [delay_after(policy, 1, retry_after=None, random=random) for _ in range(draws)]
    low, span = 100 * (1 - jitter), 200 * jitter
    tenths = [0] * 10
    for wait in made:
        tenths[min(9, int((wait - low) / span * 10))] += 1
    assert sum(made) / draws == pytest.approx(100, abs=span / 100)
    assert all(0.9 * draws / 10 < count < 1.1 * draws / 10 for count in tenths), tenths  # 3.3 standard deviations


def test_no_jitter_is_no_spread() -> None:
    assert {delay_after(RetryPolicy(jitter=0), 1, retry_after=None, random=Random(n)) for n in range(20)} == {5}


@pytest.mark.parametrize(
    ("retry_after", "wait"), [(None, 5), (0, 5), (3, 5), (5, 5), (90, 90), (86_400, 86_400), (1e9, 86_400)]
)
def test_retry_after_only_prolongs_and_by_a_day_at_most(retry_after: float | None, wait: float) -> None:
    assert delay(RetryPolicy(**STEADY), 1, retry_after) == wait


def test_a_wait_longer_than_retry_afters_cap_is_kept() -> None:
    assert delay(RetryPolicy(schedule=[200_000], **STEADY), 1, retry_after=1e9) == 200_000


# --- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("1.2", 2),
        ("0.001", 1),
        ("3.", 3),
        ("9" * 40, 1e40),
        ("Sun, 22 Nov 2026 12:01:30 GMT", 90),
        ("Sunday, 22-Nov-26 12:01:30 GMT", 90),
        ("Sun Nov 22 12:01:30 2026", 90),
        ("Sun, 22 Nov 2026 12:00:00 GMT", 0),
        ("Sun, 22 Nov 2026 11:59:59 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 99 Nov 2026 12:00:00 GMT", None),
        ("Sun, 22 Nov 99999 12:00:00 GMT", None),
        ("Sun, 22 Nov 2026 12:00:00 +9999999999", None),
        (None, None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("0x10", None),
        ("1_000", None),
        ("٣", None),
        ("5, 6", None),
        ("soon", None),
        ("2026-11-22T12:01:30Z", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, NOW) == seconds


def test_a_fraction_of_a_second_until_the_date_is_rounded_up() -> None:
    assert parse_retry_after("Sun, 22 Nov 2026 12:00:02 GMT", NOW + timedelta(milliseconds=300)) == 2


@given(st.text() | st.from_regex(r"(Sun|Monday),? [0-9A-Za-z :+-]{8,40}", fullmatch=True))
def test_no_header_ever_raises(header: str) -> None:
    seconds = parse_retry_after(header, NOW)
    assert seconds is None or seconds >= 0


# --- Giving up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "attempts", "ends"),
    [
        ({"max_attempts": 1}, 1, True),
        ({"max_attempts": 3}, 2, False),
        ({"max_attempts": 3}, 3, True),
        ({"max_attempts": 3}, 4, True),
        ({"schedule": []}, 1, True),
        ({"schedule": [1, 1]}, 2, False),
        ({"schedule": [1, 1]}, 3, True),
        ({"schedule": [1] * 20, "max_attempts": 10}, 9, False),
        ({"schedule": [1] * 20, "max_attempts": 10}, 10, True),
    ],
)
def test_attempts_end_where_the_policy_says(settings: dict, attempts: int, ends: bool) -> None:
    assert (again(RetryPolicy(**settings, **STEADY), attempts) == DeadReason.ATTEMPTS) is ends


def test_a_retry_is_due_after_its_delay() -> None:
    assert again(RetryPolicy(**STEADY), 2, after=100) == NOW + timedelta(seconds=120)


@pytest.mark.parametrize(
    ("settings", "circumstances", "result"),
    [
        ({}, {"expires": 5}, NOW + timedelta(seconds=5)),
        ({}, {"expires": 4.999}, DeadReason.EXPIRED),
        ({}, {"expires": 60, "retry_after": 61}, DeadReason.EXPIRED),
        ({"deadline": 5}, {}, NOW + timedelta(seconds=5)),
        ({"deadline": 4.999}, {}, DeadReason.DEADLINE),
        ({"deadline": 100}, {"after": 96}, DeadReason.DEADLINE),
        ({"deadline": 100}, {"retry_after": 101}, DeadReason.DEADLINE),
        ({"deadline": 1}, {"expires": 1}, DeadReason.EXPIRED),
        ({"deadline": 1, "max_attempts": 1}, {"expires": 1}, DeadReason.ATTEMPTS),
    ],
)
def test_no_attempt_starts_after_expiry_or_deadline(settings: dict, circumstances: dict, result: object) -> None:
    assert again(RetryPolicy(**settings, **STEADY), 1, **circumstances) == result


@given(
    max_attempts=st.integers(1, 40),
    schedule=st.none() | st.lists(st.floats(0, 1000), max_size=10),
    deadline=st.none() | st.floats(0.1, 5000),
    expires=st.none() | st.floats(0, 5000),
    seed=st.integers(0, 1000),
)
def test_every_message_ends_within_all_its_limits(max_attempts, schedule, deadline, expires, seed) -> None:
    policy = RetryPolicy(max_attempts=max_attempts, schedule=schedule, deadline=deadline)
    expires_at = None if expires is None else NOW + timedelta(seconds=expires)
    random, attempts, now = Random(seed), 1, NOW
    while isinstance(
        due := next_attempt(
            policy, attempts=attempts, first_due=NOW, expires_at=expires_at, now=now, retry_after=None, random=random
        ),
        datetime,
    ):
        assert due >= now
        assert expires_at is None or due <= expires_at
        assert deadline is None or due <= NOW + timedelta(seconds=deadline)
        attempts, now = attempts + 1, due
    assert attempts <= (max_attempts if schedule is None else len(schedule) + 1)


# --- Preview --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "circumstances", "seconds"),
    [
        ({"max_attempts": 1}, {}, [0]),
        ({"max_attempts": 4}, {}, [0, 5, 25, 105]),
        ({"schedule": [1, 2]}, {}, [0, 1, 3]),
        ({"deadline": 25}, {}, [0, 5, 25]),
        ({}, {"expires_at": NOW + timedelta(seconds=24)}, [0, 5]),
        ({}, {"limit": 2}, [0, 5]),
    ],
)
def test_a_preview_lists_every_attempt_to_the_last(settings: dict, circumstances: dict, seconds: list[int]) -> None:
    times = preview(RetryPolicy(**settings), NOW, **circumstances)
    assert [(time - NOW).total_seconds() for time in times] == seconds


# --- Settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"max_attempts": 0},
        {"max_attempts": 1001},
        {"initial": -1},
        {"factor": 0.5},
        {"max": -1},
        {"jitter": 1.1},
        {"jitter": float("nan")},
        {"max": float("inf")},
        {"schedule": [-1]},
        {"schedule": [1] * 51},
        {"deadline": 0},
        {"budget": 1.01},
        {"retry_on": ["6xx"]},
        {"retry_on": ["5XX "]},
        {"retry_on": [99]},
        {"retry_on": [600]},
        {"on_gone": "ignore"},
        {"unknown": 1},
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError) as refusal:
        RetryPolicy(**settings)
    assert refusal.value.errors()[0]["loc"][0] in settings


def test_settings_survive_their_json_form() -> None:
    policy = RetryPolicy(schedule=[1, 2.5], retry_on=["4xx", 503], deadline=7)
    assert RetryPolicy.model_validate(policy.model_dump(mode="json")) == policy
    assert RetryPolicy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    ("status_code", "named"), [(500, True), (599, True), (408, True), (404, False), (499, False), (600, False)]
)
def test_a_class_names_all_its_statuses(status_code: int, named: bool) -> None:
    assert is_named(status_code, RetryPolicy().retry_on) is named
