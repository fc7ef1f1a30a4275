"""The breaker's rules one by one. Properties for any order of events are in test_breaker_properties.py."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from integrations.errors import Conflict
from integrations.policies.breaker import (
    BreakerPolicy,
    BreakerState,
    Sample,
    Transition,
    allowance,
    apply_results,
    ceiling,
    command,
    is_slow,
    open_period,
    summary,
    tick,
    window_as_json,
    window_from_json,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
POLICY = BreakerPolicy()
RATE_ONLY = BreakerPolicy(consecutive_failures=0, minimum_calls=4, window={"type": "count", "size": 10})
SLOW = BreakerPolicy(
    consecutive_failures=0,
    minimum_calls=4,
    slow_call_rate=0.5,
    slow_call_duration=2,
    window={"type": "count", "size": 10},
)
TIME = BreakerPolicy(consecutive_failures=0, minimum_calls=4, window={"type": "time", "size": 10})


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def calls(letters: str, *, generation: int = 0, when: datetime = NOW, first: int = 1) -> list[Sample]:
    """'.' good, 'f' failed, 's' slow, 'b' slow and failed, 'n' neutral; attempts are numbered from ``first``."""
    return [
        Sample(letter in "fb", letter in "sb", letter == "n", generation, when, first + place)
        for place, letter in enumerate(letters)
    ]


def fold(state: BreakerState, policy: BreakerPolicy, letters: str, when: float = 0, **circumstances):
    circumstances = {"concurrency": 10, "backlog": False} | circumstances
    samples = calls(letters, generation=state.generation, when=at(when))
    return apply_results(state, policy, samples, at(when), **circumstances)


def opened(policy: BreakerPolicy = POLICY) -> BreakerState:
    return fold(BreakerState(), policy, "fffff")[0]


def half_open(policy: BreakerPolicy = POLICY) -> BreakerState:
    state, changes = tick(opened(policy), policy, at(policy.open_for))
    assert [change.type for change in changes] == ["half_opened"]
    return state


# --- Opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "letters", "cause", "attempts"),
    [
        (POLICY, "ffff", None, ()),
        (POLICY, "fffff", "5 failures in a row", (1, 2, 3, 4, 5)),
        (POLICY, "ff.fffff", "5 failures in a row", (4, 5, 6, 7, 8)),
        (POLICY, "ffffnnf", "5 failures in a row", (1, 2, 3, 4, 7)),
        (POLICY, "ffffsf", None, ()),
        (BreakerPolicy(consecutive_failures=1), "f", "1 failure", (1,)),
        (BreakerPolicy(consecutive_failures=0), "f" * 19, None, ()),
        (RATE_ONLY, "fff", None, ()),
        (RATE_ONLY, "f.f", None, ()),
        (RATE_ONLY, "f..f", "2 of 4 calls failed (50 %)", (1, 4)),
        (RATE_ONLY, "ff..", None, ()),  # the rate is reached by a success, and a success never opens
        (RATE_ONLY, "ff..f", "3 of 5 calls failed (60 %)", (1, 2, 5)),
        (RATE_ONLY, "...f", None, ()),
        (RATE_ONLY, "fnf", None, ()),
        (RATE_ONLY, "ss.s", None, ()),
        (SLOW, "ss.", None, ()),
        (SLOW, "ss..", None, ()),
        (SLOW, "ss..s", "3 of 5 calls were slow (60 %)", (1, 2, 5)),
        (SLOW, "..bb", "2 of 4 calls failed (50 %)", (3, 4)),
        (SLOW, "f..s", None, ()),  # one failed, one slow: neither rate alone is reached
    ],
)
def test_a_breaker_opens_when_a_rule_says_so(policy, letters, cause, attempts) -> None:
    state, changes = fold(BreakerState(), policy, letters)
    if cause is None:
        assert (state.state, changes) == ("closed", ())
    else:
        assert (state.state, changes) == ("open", (Transition("opened", cause, attempts),))


def test_an_opening_says_when_it_ends_and_why_it_is() -> None:
    state = opened()
    assert (state.opened_at, state.retry_at, state.reason) == (NOW, at(60), "5 failures in a row")
    assert (state.reopenings, state.generation) == (0, 1)
    assert allowance(state, POLICY, 0, NOW) == 0


def test_failures_in_a_row_are_counted_over_batches_and_all_are_named() -> None:
    state = BreakerState()
    for number in range(4):
        state, changes = apply_results(state, POLICY, calls("f", first=number), NOW, concurrency=10, backlog=False)
        assert changes == ()
    _, (change,) = apply_results(state, POLICY, calls("f", first=4), NOW, concurrency=10, backlog=False)
    assert change.attempts == (0, 1, 2, 3, 4)


def test_at_most_twenty_attempts_are_named() -> None:
    policy = BreakerPolicy(consecutive_failures=30)
    _, (change,) = fold(BreakerState(), policy.model_copy(update={"minimum_calls": 50}), "f" * 30)
    assert change.attempts == tuple(range(11, 31))


def test_the_rest_of_a_batch_that_trips_changes_nothing() -> None:
    assert fold(BreakerState(), POLICY, "fffff...") == fold(BreakerState(), POLICY, "fffff")


@pytest.mark.parametrize("oldest", "fsb")
def test_a_window_forgets_the_oldest_call(oldest: str) -> None:
    state, _ = fold(BreakerState(), SLOW, f"{oldest}........")
    state, _ = fold(state, SLOW, "..")
    assert state.window == "." * 10
    assert summary(state, SLOW, NOW)["window"] == {"calls": 10, "failures": 0, "slow": 0, "failure_rate": 0.0}


@pytest.mark.parametrize("oldest", ["ffff", "bbbb"])
def test_what_left_the_window_within_a_batch_trips_nothing(oldest: str) -> None:
    state = BreakerState(window=f"{oldest}......")
    assert fold(state, SLOW, "....ffffs")[0].state == "closed"
    assert fold(state, SLOW, "....fffff")[0].state == "open"


def test_an_open_breaker_shows_the_window_that_opened_it() -> None:
    state, _ = fold(BreakerState(), RATE_ONLY, "f..f")
    assert (state.window, state.consecutive) == ("f..f", 1)
    assert summary(state, RATE_ONLY, NOW)["window"] == {"calls": 4, "failures": 2, "slow": 0, "failure_rate": 0.5}


def test_a_smaller_window_keeps_the_newest_calls_and_another_kind_starts_empty() -> None:
    state = BreakerState(window="ffff......")
    small = BreakerPolicy(minimum_calls=1, window={"type": "count", "size": 7})
    assert summary(state, small, NOW)["window"]["failures"] == 1
    assert summary(state, TIME, NOW)["window"]["calls"] == 0
    assert summary(replace(state, window=((int(NOW.timestamp()), 5, 5, 0),)), small, NOW)["window"]["calls"] == 0


@pytest.mark.parametrize(("age", "counted"), [(0, 1), (9, 1), (9.99, 1), (10, 0), (11, 0), (1000, 0)])
def test_an_outcome_exactly_as_old_as_the_window_is_out(age: float, counted: int) -> None:
    state, _ = fold(BreakerState(), TIME, "f")
    assert summary(state, TIME, at(age))["window"]["calls"] == counted


def test_a_result_that_arrives_after_its_second_left_the_window_is_not_counted() -> None:
    state, _ = apply_results(BreakerState(), TIME, calls("f", when=at(-10)), NOW, concurrency=10, backlog=False)
    assert state.window == ()


@pytest.mark.parametrize(("gap", "state"), [(9, "open"), (10, "closed")])
def test_a_time_window_trips_on_what_is_still_in_it(gap: float, state: str) -> None:
    before, _ = fold(BreakerState(), TIME, "fff")
    assert fold(before, TIME, "f", gap)[0].state == state


def test_seconds_that_lie_ahead_count_as_now_and_age_from_there() -> None:
    state, _ = fold(BreakerState(), TIME, "..f", 86_400)
    state, _ = fold(state, TIME, ".")
    assert state.window == ((int(NOW.timestamp()), 4, 1, 0),)
    assert summary(state, TIME, at(10))["window"]["calls"] == 0


def test_a_clock_that_moved_back_never_opens_a_breaker_by_hiding_successes() -> None:
    state, _ = fold(BreakerState(), TIME, "ff...", 0)
    state, _ = fold(state, TIME, ".....", 5)
    assert fold(state, TIME, "f", 1)[0].state == "closed"


def test_slow_is_longer_than_the_limit() -> None:
    assert not is_slow(SLOW, 2)
    assert is_slow(SLOW, 2.001)
    assert not is_slow(POLICY, 1e9)


# --- Half-open ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "state"), [(59.999, "open"), (60, "half_open"), (1e6, "half_open")])
def test_an_open_breaker_probes_when_its_time_is_over(seconds: float, state: str) -> None:
    assert tick(opened(), POLICY, at(seconds))[0].state == state


@pytest.mark.parametrize(
    ("allowed", "in_flight", "succeeded", "left"),
    [(1, 0, 0, 1), (1, 1, 0, 0), (3, 1, 1, 1), (3, 2, 1, 0), (3, 9, 1, 0)],
)
def test_probes_in_flight_and_succeeded_share_the_places(allowed, in_flight, succeeded, left) -> None:
    policy = BreakerPolicy(half_open_calls=allowed)
    state = replace(half_open(policy), probes_succeeded=succeeded)
    assert allowance(state, policy, in_flight, NOW) == left


def test_a_neutral_probe_gives_its_place_back() -> None:
    state = half_open()
    assert fold(state, POLICY, "n") == (state, ())
    assert allowance(state, POLICY, 0, NOW) == 1


def test_a_breaker_closes_clean_when_every_probe_succeeded() -> None:
    policy = BreakerPolicy(half_open_calls=3)
    state, changes = fold(half_open(policy), policy, "..")
    assert (state.state, state.probes_succeeded, changes) == ("half_open", 2, ())
    state, (change,) = fold(state, policy, ".", 61)
    assert change == Transition("closed", "all 3 probes succeeded", (1, 2, 1))
    assert state == BreakerState(generation=3)


def test_a_slow_probe_that_succeeded_has_succeeded() -> None:
    assert fold(half_open(), POLICY, "s")[0].state == "closed"


def test_one_failed_probe_opens_again_for_a_full_new_period() -> None:
    policy = BreakerPolicy(half_open_calls=3, open_factor=2)
    state, (change,) = fold(half_open(policy), policy, "..f", 70)
    assert change == Transition("opened", "a probe failed", (3,))
    assert (state.reopenings, state.retry_at, state.probes_succeeded) == (1, at(70 + 120), 0)


def test_a_late_result_from_before_the_opening_changes_nothing() -> None:
    state = half_open()
    for letters in ("f", ".", "fffff"):
        assert apply_results(state, POLICY, calls(letters, generation=0), NOW, concurrency=10, backlog=False) == (
            state,
            (),
        )


def test_nothing_counts_while_it_is_open() -> None:
    state = opened()
    assert fold(state, POLICY, "....f") == (state, ())


def test_fewer_probes_than_have_succeeded_close_it_at_the_next_turn() -> None:
    state = replace(half_open(), probes_succeeded=2)
    policy = BreakerPolicy(half_open_calls=2)
    assert tick(state, policy, NOW)[0].state == "closed"


@pytest.mark.parametrize(
    ("settings", "reopenings", "seconds"),
    [
        ({}, 0, 60),
        ({}, 1000, 60),
        ({"open_factor": 2}, 3, 480),
        ({"open_factor": 2}, 6, 3600),
        ({"open_factor": 100}, 10**6, 3600),
        ({"open_for": 0.5, "open_max": 0.5, "open_factor": 9}, 4, 0.5),
    ],
)
def test_each_reopening_lasts_longer_up_to_the_cap(settings: dict, reopenings: int, seconds: float) -> None:
    assert open_period(BreakerPolicy(**settings), reopenings) == seconds


def test_a_clock_that_moved_back_keeps_it_open_for_one_period_at_most() -> None:
    state, changes = tick(opened(), POLICY, at(-86_400))
    assert (state.state, state.retry_at, changes) == ("open", at(-86_400 + 60), ())
    assert tick(state, POLICY, at(-86_400 + 60))[0].state == "half_open"


def test_an_open_breaker_without_a_time_is_due() -> None:
    assert tick(replace(opened(), retry_at=None), POLICY, NOW)[0].state == "half_open"


def test_a_turn_that_changes_nothing_gives_the_same_state_back() -> None:
    for state in (BreakerState(), opened(), half_open()):
        assert tick(state, POLICY, at(1))[0] is state


# --- Ramp -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("concurrency", "backlog", "ramp"),
    [(10, True, 1), (100, True, 10), (5, True, 1), (1, True, None), (100, False, None)],
)
def test_a_backlog_is_let_out_from_a_tenth_of_the_concurrency(concurrency, backlog, ramp) -> None:
    state, _ = fold(half_open(), POLICY, ".", concurrency=concurrency, backlog=backlog)
    assert state.ramp == ramp
    assert ceiling(state, concurrency) == (ramp or concurrency)


@pytest.mark.parametrize(
    ("ramp", "letters", "after_it"),
    [
        (1, ".", 2),
        (2, "..", 4),
        (4, "s...", 8),
        (4, "nn", 4),
        (8, "f", 4),
        (1, "f", 1),
        (3, "f", 1),
        (8, "..", None),
        (None, ".f", None),
    ],
)
def test_the_ramp_doubles_with_each_round_and_halves_on_a_failure(ramp, letters, after_it) -> None:
    assert fold(BreakerState(ramp=ramp), POLICY, letters)[0].ramp == after_it


def test_opening_ends_the_ramp() -> None:
    assert fold(BreakerState(ramp=4), POLICY, "fffff")[0].ramp is None


# --- Commands -------------------------------------------------------------------------------------------------------


def states() -> dict[str, BreakerState]:
    return {
        "closed": replace(fold(BreakerState(), POLICY, "f.f")[0], reopenings=2),
        "open": replace(opened(), reopenings=2),
        "half_open": replace(half_open(), reopenings=2),
        "forced_open": command(BreakerState(), POLICY, "open", NOW, reason="x")[0],
        "disabled": command(BreakerState(), POLICY, "disable", NOW, reason="x")[0],
        "observe": command(BreakerState(), POLICY, "observe", NOW, reason="x")[0],
    }


@pytest.mark.parametrize(
    ("start", "action", "state", "mode", "event"),
    [
        ("closed", "open", "open", "forced_open", "opened"),
        ("open", "open", "open", "forced_open", "mode"),
        ("half_open", "open", "open", "forced_open", "opened"),
        ("forced_open", "open", "open", "forced_open", None),
        ("disabled", "open", "open", "forced_open", "opened"),
        ("closed", "close", "closed", "auto", None),
        ("open", "close", "closed", "auto", "closed"),
        ("half_open", "close", "closed", "auto", "closed"),
        ("forced_open", "close", "closed", "auto", "closed"),
        ("observe", "close", "closed", "auto", "mode"),
        ("closed", "reset", "closed", "auto", None),
        ("open", "reset", "closed", "auto", "closed"),
        ("disabled", "reset", "closed", "auto", "mode"),
        ("open", "half_open", "half_open", "auto", "half_opened"),
        ("forced_open", "half_open", "half_open", "auto", "half_opened"),
        ("closed", "disable", "closed", "disabled", "mode"),
        ("open", "disable", "closed", "disabled", "closed"),
        ("disabled", "disable", "closed", "disabled", None),
        ("closed", "observe", "closed", "observe", "mode"),
        ("forced_open", "observe", "closed", "observe", "closed"),
        ("closed", "auto", "closed", "auto", None),
        ("open", "auto", "open", "auto", None),
        ("forced_open", "auto", "half_open", "auto", "half_opened"),
        ("disabled", "auto", "closed", "auto", "mode"),
        ("observe", "auto", "closed", "auto", "mode"),
    ],
)
def test_an_action_leads_where_the_contract_says(start, action, state, mode, event) -> None:
    before = states()[start]
    result, changes = command(before, POLICY, action, NOW, reason="maintenance")
    assert (result.state, result.mode) == (state, mode)
    assert [change.type for change in changes] == ([event] if event else [])
    assert result.generation == before.generation + len(changes)
    assert all("operator" in change.cause and change.cause.endswith(": maintenance") for change in changes)


@pytest.mark.parametrize("start", ["closed", "half_open", "disabled", "observe"])
def test_only_an_open_breaker_can_be_half_opened(start: str) -> None:
    with pytest.raises(Conflict, match=r"only an open breaker can be half-opened; this one is (closed|half-open)"):
        command(states()[start], POLICY, "half_open", NOW, reason="x")


def test_close_keeps_the_reopenings_and_reset_does_not() -> None:
    for start in ("closed", "open", "half_open"):
        closed, _ = command(states()[start], POLICY, "close", NOW)
        reset, _ = command(states()[start], POLICY, "reset", NOW)
        assert (closed.reopenings, closed.window, closed.consecutive) == (2, "", 0)
        assert (reset.reopenings, reset.window, reset.consecutive) == (0, "", 0)


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ValueError, match="no such action"):
        command(BreakerState(), POLICY, "explode", NOW)  # type: ignore[arg-type]


def test_a_forced_opening_refuses_all_until_its_time_and_then_probes() -> None:
    state, (change,) = command(BreakerState(), POLICY, "open", NOW, reason="their release", until=at(600))
    assert change == Transition("opened", "forced open by an operator: their release")
    assert (state.reason, state.mode_until, state.retry_at) == ("their release", at(600), at(600))
    assert tick(state, POLICY, at(599))[0] is state
    assert allowance(state, POLICY, 0, at(599)) == 0
    ended, (change,) = tick(state, POLICY, at(600))
    assert (ended.state, ended.mode, ended.mode_until, change.type) == ("half_open", "auto", None, "half_opened")


def test_a_forced_opening_without_an_end_stays() -> None:
    state, _ = command(BreakerState(), POLICY, "open", NOW, reason="x")
    assert tick(state, POLICY, at(1e8))[0] is state


@pytest.mark.parametrize("action", ["disable", "observe"])
def test_other_modes_end_closed_and_clean(action) -> None:
    state, _ = command(opened(), POLICY, action, NOW, reason="x", until=at(60))
    assert allowance(state, POLICY, 0, NOW) is None
    state, _ = fold(state, POLICY, "fffffff")
    ended, (change,) = tick(state, POLICY, at(60))
    assert (ended, change.type) == (BreakerState(generation=state.generation + 1), "mode")


def test_a_disabled_breaker_measures_nothing() -> None:
    state, _ = command(BreakerState(), POLICY, "disable", NOW, reason="x")
    assert fold(state, POLICY, "fffffff") == (state, ())


def test_a_long_reason_fits_into_the_row() -> None:
    state, _ = command(opened(), POLICY, "half_open", NOW, reason="x" * 500)
    assert len(state.reason) <= 500


# --- Switched off in the settings -----------------------------------------------------------------------------------


def test_a_breaker_that_is_switched_off_closes_and_lets_all_pass() -> None:
    off = BreakerPolicy(enabled=False)
    for state in (opened(), half_open()):
        closed, (change,) = tick(state, off, NOW)
        assert (closed.state, change.type) == ("closed", "closed")
        assert tick(closed, off, NOW) == (closed, ())
        assert allowance(state, off, 0, NOW) is None
        assert fold(closed, off, "fffffff") == (closed, ())


def test_what_was_measured_before_it_was_switched_off_is_forgotten() -> None:
    state, changes = tick(fold(BreakerState(), POLICY, "ffff")[0], BreakerPolicy(enabled=False), NOW)
    assert (state, changes) == (BreakerState(), ())


def test_an_operators_stop_holds_where_the_breaker_is_switched_off() -> None:
    off = BreakerPolicy(enabled=False)
    state, _ = command(BreakerState(), off, "open", NOW, reason="x", until=at(60))
    assert allowance(state, off, 0, NOW) == 0
    assert tick(state, off, NOW)[0] is state
    assert tick(state, off, at(60))[0].state == "closed"


# --- Observing ------------------------------------------------------------------------------------------------------


def test_observing_says_what_it_would_do_and_lets_all_pass() -> None:
    state, _ = command(BreakerState(), POLICY, "observe", NOW, reason="trying it out")
    generation = state.generation

    state, changes = fold(state, POLICY, "fffff")
    assert changes == (Transition("opened", "5 failures in a row", (1, 2, 3, 4, 5), observed=True),)
    assert (state.state, state.observed_open, state.retry_at) == ("closed", True, at(60))
    assert allowance(state, POLICY, 0, NOW) is None

    state, changes = fold(state, POLICY, "ff..", 30)  # these calls would have been refused
    assert changes == ()
    assert summary(state, POLICY, at(30))["window"]["calls"] == 9

    state, changes = tick(state, POLICY, at(60))
    assert [(change.type, change.observed) for change in changes] == [("half_opened", True)]
    state, changes = fold(state, POLICY, "f", 61)
    assert changes == (Transition("opened", "a probe failed", (1,), observed=True),)
    assert state.reopenings == 1

    state, _ = tick(state, POLICY, at(121))
    state, changes = fold(state, POLICY, ".", 122)
    assert changes == (Transition("closed", "the probe succeeded", (1,), observed=True),)
    assert state == BreakerState(mode="observe", reason="trying it out", generation=generation)


def test_observing_asks_for_as_many_probes_as_the_settings_say() -> None:
    policy = BreakerPolicy(half_open_calls=3)
    state, _ = command(BreakerState(), policy, "observe", NOW)
    state, _ = tick(fold(state, policy, "fffff")[0], policy, at(60))
    state, changes = fold(state, policy, "..", 60)
    assert (changes, state.observed_open) == ((), True)
    state, changes = fold(state, policy, ".ffff", 60)
    assert [change.type for change in changes] == ["closed"]
    assert (state.window, state.consecutive) == ("ffff", 4)


# --- Stored ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*states().values(), fold(BreakerState(), TIME, "f.")[0]])
def test_a_state_survives_its_stored_form(state: BreakerState) -> None:
    assert BreakerState.from_json(state.as_json()) == state
    through_text = json.loads(json.dumps(state.as_json(), default=datetime.isoformat))
    assert BreakerState.from_json(through_text) == state


def test_a_row_from_before_a_field_existed_takes_its_default() -> None:
    assert BreakerState.from_json({"state": "open", "window": None, "of_a_later_version": 1}).state == "open"


@pytest.mark.parametrize("window", ["", "..fsb", (), ((1, 2, 1, 0), (2, 3, 0, 1))])
def test_a_window_survives_json(window) -> None:
    assert window_from_json(json.loads(json.dumps(window_as_json(window)))) == window


# --- Settings -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_contract() -> None:
    assert BreakerPolicy().model_dump(mode="json") == {
        "enabled": True,
        "consecutive_failures": 5,
        "failure_rate": 0.5,
        "slow_call_rate": None,
        "slow_call_duration": None,
        "window": {"type": "count", "size": 50},
        "minimum_calls": 20,
        "open_for": 60,
        "open_factor": 1,
        "open_max": 3600,
        "half_open_calls": 1,
    }


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"failure_rate": 0}, "failure_rate"),
        ({"failure_rate": 1.01}, "failure_rate"),
        ({"slow_call_rate": 0, "slow_call_duration": 1}, "slow_call_rate"),
        ({"slow_call_rate": 0.5}, "slow_call_duration"),
        ({"window": {"size": 0}}, "window"),
        ({"window": {"size": 1001}}, "window"),
        ({"window": {"type": "hour"}}, "window"),
        ({"minimum_calls": 0}, "minimum_calls"),
        ({"minimum_calls": 51}, "minimum_calls"),
        ({"window": {"size": 10}}, "minimum_calls"),
        ({"open_for": 0.4}, "open_for"),
        ({"open_for": 86_401, "open_max": 90_000}, "open_for"),
        ({"open_for": 61, "open_max": 60}, "open_max"),
        ({"open_for": 7200}, "open_max"),
        ({"open_max": 604_801}, "open_max"),
        ({"open_factor": 0.9}, "open_factor"),
        ({"half_open_calls": 0}, "half_open_calls"),
        ({"half_open_calls": 101}, "half_open_calls"),
        ({"consecutive_failures": -1}, "consecutive_failures"),
        ({"failure_rate": float("nan")}, "failure_rate"),
        ({"threshold": 5}, "threshold"),
    ],
)
def test_settings_out_of_bounds_are_refused_at_their_field(settings: dict, field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        BreakerPolicy(**settings)
    assert [error["loc"][0] for error in refusal.value.errors()] == [field]


def test_a_time_window_may_ask_for_more_calls_than_it_has_seconds() -> None:
    assert BreakerPolicy(window={"type": "time", "size": 10}, minimum_calls=500).minimum_calls == 500
