"""Backtests, compared with the state machine fed call by call."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integrations.policies import breaker
from integrations.policies.backtest import Backtest, RecordedCall, backtest
from integrations.policies.breaker import BreakerPolicy, BreakerState, Sample
from integrations.policies.retry import RetryPolicy
from tests.policies.test_breaker_properties import policies

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RETRY = RetryPolicy()
THREE = BreakerPolicy(consecutive_failures=3, open_for=60)


def call(
    second: float,
    status: int = 200,
    *,
    message: int | None = None,
    number: int = 1,
    duration: float = 0.1,
    fault: str = "",
) -> RecordedCall:
    started_at = NOON + timedelta(seconds=second)
    return RecordedCall(
        int(second) if message is None else message,
        number,
        started_at,
        started_at + timedelta(seconds=duration),
        fault or ("" if status < 300 else "status"),
        None if fault else status,
    )


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - NOON).total_seconds()


# ---- an outage ------------------------------------------------------------------------------------------------------
def test_an_outage_opens_spares_probes_and_closes() -> None:
    calls = [call(second, 503 if 10 <= second < 100 else 200) for second in range(200)]
    tried = backtest(calls, THREE, RETRY)
    (opening,) = tried.openings
    assert (seconds(opening.opened_at), opening.cause) == (12.1, "3 failures in a row")
    # Open until 72.1; the call at 73 is the probe and fails, open until 133.1; the one at 134 succeeds.
    assert (opening.reopened, seconds(opening.closed_at)) == (1, 134.1)
    assert (tried.calls, tried.failed) == (200, 90)
    assert opening.spared == (134 - 13) - 1
    assert opening.spared_succeeded == 34
    assert tried.delayed == opening.spared
    assert opening.longest_wait(NOON) == pytest.approx(134.1 - 13)


def test_a_breaker_that_never_finds_a_success_is_open_at_the_end() -> None:
    (opening,) = backtest([call(second, 500) for second in range(600)], THREE, RETRY).openings
    assert opening.closed_at is None
    assert opening.reopened == 9
    assert opening.longest_wait(NOON + timedelta(seconds=600)) == 597


def test_a_message_that_is_spared_twice_is_delayed_once() -> None:
    calls = [call(second, 500) for second in range(3)]
    calls += [call(10, 500, message=7), call(20, 500, message=7, number=2), call(30, 500, message=8)]
    tried = backtest(calls, THREE, RETRY)
    assert (tried.spared, tried.delayed) == (3, 2)


def test_what_began_before_the_opening_is_made_and_counts_no_more() -> None:
    slow = call(1.5, 500, message=50, duration=30)
    tried = backtest([*(call(second, 500) for second in range(3)), slow, call(70)], THREE, RETRY)
    (opening,) = tried.openings
    assert (opening.spared, opening.reopened, seconds(opening.closed_at)) == (0, 0, 70.1)


def test_the_callers_faults_and_quiet_days_open_nothing() -> None:
    assert backtest([], THREE, RETRY) == Backtest(0, 0)
    assert backtest([call(second, 404) for second in range(50)], THREE, RETRY).openings == []
    off = THREE.model_copy(update={"enabled": False})
    assert backtest([call(second, 500) for second in range(50)], off, RETRY).openings == []


def test_several_probes_go_at_once_and_all_must_succeed() -> None:
    policy = THREE.model_copy(update={"half_open_calls": 2})
    calls = [call(second, 500) for second in range(3)]
    calls += [call(70, duration=5), call(71, duration=5), call(72), call(80)]
    (opening,) = backtest(calls, policy, RETRY).openings
    assert (opening.spared, seconds(opening.closed_at)) == (1, 76)


# ---- retries --------------------------------------------------------------------------------------------------------
def test_a_response_that_is_no_longer_retried_ends_its_message() -> None:
    calls = [call(0, 408, message=1), call(10, 408, message=1, number=2), call(20, 200, message=1, number=3)]
    tried = backtest(calls, THREE, RetryPolicy(retry_on=("5xx",)))
    assert (tried.given_up, tried.given_up_delivered, tried.unmade, tried.failed) == (1, 1, 2, 0)
    assert backtest(calls, THREE, RETRY).given_up == 0


def test_fewer_attempts_end_a_message_that_was_tried_again() -> None:
    calls = [call(10.0 * number, 500, message=1, number=number) for number in (1, 2, 3)]
    assert backtest(calls, BreakerPolicy(enabled=False), RetryPolicy(max_attempts=2)).unmade == 1
    assert backtest(calls, BreakerPolicy(enabled=False), RetryPolicy(schedule=())).unmade == 2
    assert backtest(calls, BreakerPolicy(enabled=False), RetryPolicy(max_attempts=3)).unmade == 0
    # A lost call used no attempt.
    lost = [calls[0]._replace(fault="worker_lost", status_code=None), *calls[1:]]
    assert backtest(lost, BreakerPolicy(enabled=False), RetryPolicy(max_attempts=2)).unmade == 0


# ---- the same as the machine, call by call ---------------------------------------------------------------------------
recordings = st.lists(
    st.tuples(
        st.floats(0, 20, allow_nan=False).map(lambda gap: round(gap, 2)),
        st.sampled_from([200, 200, 500, 503, 404]),
        st.floats(0.01, 3).map(lambda duration: round(duration, 2)),
    ),
    max_size=40,
)


@pytest.mark.slow
@given(policies(), recordings)
@settings(max_examples=200)
def test_batches_change_nothing(policy: BreakerPolicy, recorded: list[tuple[float, int, float]]) -> None:
    clock, calls = 0.0, []
    for place, (gap, status, duration) in enumerate(recorded):
        clock += gap
        calls.append(call(clock, status, message=place, duration=duration))
    tried = backtest(calls, policy, RETRY)
    opened, spared = call_by_call(calls, policy)
    assert [opening.opened_at for opening in tried.openings] == opened
    assert tried.spared == spared


def call_by_call(calls: list[RecordedCall], policy: BreakerPolicy) -> tuple[list[datetime], int]:
    """Return the times at which the breaker opened from closed, and the number of calls that it spared. At equal times,
    results come before starts."""
    state, opened, spared = BreakerState(), list[datetime](), 0
    in_flight: dict[int, int] = {}
    moments = sorted(
        [(one.ended_at, 0, place) for place, one in enumerate(calls)]
        + [(one.started_at, 1, place) for place, one in enumerate(calls)]
    )
    for now, is_start, place in moments:
        one = calls[place]
        if is_start:
            state, _ = breaker.tick(state, policy, now)
            probes = sum(generation == state.generation for generation in in_flight.values())
            if breaker.allowance(state, policy, probes, now) == 0:
                spared += 1
            else:
                in_flight[place] = state.generation
        elif place in in_flight:
            failed, neutral = one.status_code in (500, 503), one.status_code == 404
            slow = breaker.is_slow(policy, (one.ended_at - one.started_at).total_seconds())
            sample = Sample(failed, slow, neutral, in_flight.pop(place), now, place)
            state, _ = breaker.tick(state, policy, now)
            was = state.state
            state, changes = breaker.apply_results(state, policy, [sample], now, concurrency=1, backlog=False)
            if changes and changes[0].type == "opened" and was == "closed":
                opened.append(now)
    return opened, spared


# ---- how long it takes ----------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("window", ["count", "time"])
def test_a_hundred_thousand_calls_take_seconds_at_most(window: str) -> None:
    random = Random(4)
    share = [random.choice((0.02, 0.02, 0.02, 0.95)) for _ in range(144)]  # ten minutes each
    calls = [
        call(
            second, 503 if random.random() < share[int(second // 600)] else 200, message=place, duration=random.random()
        )
        for place, second in enumerate(sorted(random.uniform(0, 86_400) for _ in range(100_000)))
    ]
    policy = BreakerPolicy(window={"type": window, "size": 60})
    began = time.process_time()
    tried = backtest(calls, policy, RETRY)
    took = time.process_time() - began
    assert tried.openings
    assert took < 5, f"{took:.2f} s"  # a third of a second to a second on a quiet machine
