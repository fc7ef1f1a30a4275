"""Properties of a breaker in any order of events: several processes, lost probes, clocks that jump, operators."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from integrations.errors import Conflict
from integrations.policies.breaker import (
    BreakerPolicy,
    BreakerState,
    Sample,
    Transition,
    allowance,
    apply_results,
    command,
    open_period,
    summary,
    tick,
)

pytestmark = pytest.mark.slow

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TYPES = {"closed": "closed", "open": "opened", "half_open": "half_opened"}
STATES = {type_: state for state, type_ in TYPES.items()}


@st.composite
def policies(draw: st.DrawFn) -> BreakerPolicy:
    kind, size = draw(st.sampled_from(["count", "time"])), draw(st.integers(1, 12))
    slow = draw(st.booleans())
    return BreakerPolicy(
        enabled=draw(st.integers(0, 9)) > 0,
        consecutive_failures=draw(st.integers(0, 4)),
        failure_rate=draw(st.sampled_from([0.1, 0.5, 1])),
        slow_call_rate=draw(st.sampled_from([0.2, 0.5])) if slow else None,
        slow_call_duration=1 if slow else None,
        window={"type": kind, "size": size},
        minimum_calls=draw(st.integers(1, size)),
        open_for=draw(st.sampled_from([0.5, 5, 60])),
        open_factor=draw(st.sampled_from([1, 2, 100])),
        open_max=draw(st.sampled_from([60, 3600])),
        half_open_calls=draw(st.integers(1, 4)),
    )


class SharedBreaker(RuleBasedStateMachine):
    """One row, several processes: each claims under the lock, and the calls in flight are derived from the claims."""

    @initialize(policy=policies(), concurrency=st.integers(1, 40))
    def set_up(self, policy: BreakerPolicy, concurrency: int) -> None:
        self.policy, self.concurrency = policy, concurrency
        self.state, self.now, self.attempts = BreakerState(), START, 0
        self.in_flight: list[tuple[int, int, bool]] = []  # (attempt, generation, is a probe)
        self.told = "closed"  # the state according to the events alone
        self.most_places = policy.half_open_calls  # of any setting since this half-open period began
        self.probes_succeeded = 0  # in it, counted apart from the state

    def take(self, result: tuple[BreakerState, tuple[Transition, ...]]) -> None:
        """Every change of state or mode is one Transition and one generation; nothing else is."""
        state, changes = result
        real = [change for change in changes if not change.observed]
        differs = (state.state, state.mode) != (self.state.state, self.state.mode)
        assert len(real) == differs
        assert state.generation == self.state.generation + len(real)
        if state.state != self.state.state:
            assert real[0].type == TYPES[state.state]
        elif real:
            assert real[0].type == "mode"
        for change in changes:
            assert change.cause
            assert len(change.attempts) <= 20
            assert not change.observed or state.mode == "observe"
        for change in real:
            self.told = STATES.get(change.type, self.told)
            self.most_places, self.probes_succeeded = self.policy.half_open_calls, 0
        self.state = state

    def probes_in_flight(self) -> int:
        return sum(probe and generation == self.state.generation for _, generation, probe in self.in_flight)

    @rule(wanted=st.integers(1, 6))
    def some_process_claims(self, wanted: int) -> None:
        self.take(tick(self.state, self.policy, self.now))
        allowed = allowance(self.state, self.policy, self.probes_in_flight(), self.now)
        claimed = wanted if allowed is None else min(wanted, allowed)
        if self.state.state == "open":
            assert claimed == 0
        for _ in range(claimed):
            self.attempts += 1
            self.in_flight.append((self.attempts, self.state.generation, allowed is not None))

    @precondition(lambda self: self.in_flight)
    @rule(
        choice=st.randoms(use_true_random=False), letters=st.text(".fsbn", min_size=1, max_size=8), late=st.booleans()
    )
    def some_results_are_in(self, choice, letters: str, late: bool) -> None:
        samples = []
        for letter in letters[: len(self.in_flight)]:
            attempt, generation, _ = self.in_flight.pop(choice.randrange(len(self.in_flight)))
            ended = self.now - timedelta(seconds=choice.uniform(0, 20) if late else 0)
            samples.append(Sample(letter in "fb", letter in "sb", letter == "n", generation, ended, attempt))
        before = self.state
        result = apply_results(
            before, self.policy, samples, self.now, concurrency=self.concurrency, backlog=choice.random() < 0.5
        )
        counted = [sample for sample in samples if not sample.neutral and sample.generation == before.generation]
        if before.state == "half_open" and self.policy.enabled:
            self.probes_succeeded += sum(not sample.failed for sample in counted)
        self.take(result)
        if not counted:
            assert self.state == before  # late and neutral results change nothing
        if self.state.state == "open" and before.state != "open":
            (change,) = result[1]
            tripping = next(sample for sample in counted if sample.attempt == change.attempts[-1])
            assert tripping.failed or (tripping.slow and before.state == "closed")
            assert self.state.retry_at == self.now + timedelta(seconds=open_period(self.policy, self.state.reopenings))

    @precondition(lambda self: self.in_flight)
    @rule(choice=st.randoms(use_true_random=False))
    def a_worker_dies(self, choice) -> None:
        """The claim ends without a result, and frees the place of a probe."""
        before = allowance(self.state, self.policy, self.probes_in_flight(), self.now)
        _, generation, probe = self.in_flight.pop(choice.randrange(len(self.in_flight)))
        if probe and generation == self.state.generation and self.state.state == "half_open" and self.policy.enabled:
            left = self.policy.half_open_calls - self.probes_in_flight() - self.state.probes_succeeded
            now_free = allowance(self.state, self.policy, self.probes_in_flight(), self.now)
            assert now_free == max(0, left)
            assert left <= 0 or now_free == before + 1

    @rule(seconds=st.sampled_from([0.1, 1, 5, 30, 60, 4000]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(seconds=st.sampled_from([0.1, 1, 60, 86_400]))
    def the_clock_moves_back(self, seconds: float) -> None:
        self.now -= timedelta(seconds=seconds)
        before = self.state
        self.take(tick(before, self.policy, self.now))
        if before.mode == "auto" and before.state == "closed":
            assert self.state.state == "closed"  # going back never opens
        if before.mode == "auto" and before.state == "open" and self.policy.enabled:
            assert self.state.state != "closed"  # nor closes
            longest = open_period(self.policy, before.reopenings)
            later = self.now + timedelta(seconds=longest)
            assert tick(self.state, self.policy, later)[0].state == "half_open"  # nor pins
        if self.state.observed_open and self.policy.enabled:
            later = self.now + timedelta(seconds=open_period(self.policy, before.reopenings))
            shadow = tick(replace(self.state, mode_until=None), self.policy, later)[0]
            assert shadow.retry_at is None  # the shadow would be probing by then

    @rule(
        action=st.sampled_from(["open", "close", "half_open", "reset", "disable", "observe", "auto"]),
        lasting=st.none() | st.sampled_from([1, 60]),
    )
    def an_operator_acts(self, action, lasting: int | None) -> None:
        until = None if lasting is None else self.now + timedelta(seconds=lasting)
        try:
            self.take(command(self.state, self.policy, action, self.now, reason="why", until=until))
        except Conflict:
            assert action == "half_open"
            assert self.state.state != "open"
            return
        mode = {"open": "forced_open", "disable": "disabled", "observe": "observe"}.get(action, "auto")
        assert (self.state.mode, self.state.mode_until) == (mode, None if mode == "auto" else until)

    @rule(policy=policies())
    def the_settings_change(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.most_places = max(self.most_places, policy.half_open_calls)

    @invariant()
    def open_means_nothing_is_sent(self) -> None:
        if self.state.state == "open" and (self.policy.enabled or self.state.mode == "forced_open"):
            assert allowance(self.state, self.policy, 0, self.now) == 0

    @invariant()
    def places_left_are_those_neither_in_flight_nor_used_up(self) -> None:
        if self.state.state == "half_open" and self.policy.enabled:
            allowed = allowance(self.state, self.policy, self.probes_in_flight(), self.now)
            used = self.probes_in_flight() + self.state.probes_succeeded
            assert allowed == max(0, self.policy.half_open_calls - used)

    @invariant()
    def no_more_probes_are_out_than_were_ever_allowed(self) -> None:
        """In the whole half-open period, over all processes; the test counts, not the machine."""
        if self.state.state == "half_open" and self.policy.enabled:
            assert self.probes_in_flight() + self.probes_succeeded <= self.most_places

    @invariant()
    def the_events_tell_the_state(self) -> None:
        assert self.told == self.state.state

    @invariant()
    def a_manual_mode_ends_with_its_time_and_not_before(self) -> None:
        turned, _ = tick(self.state, self.policy, self.now)
        is_over = self.state.mode_until is not None and self.state.mode_until <= self.now
        assert turned.mode == ("auto" if is_over else self.state.mode)

    @invariant()
    def the_other_modes_let_all_pass(self) -> None:
        if self.state.mode in ("disabled", "observe"):
            assert self.state.state == "closed"
            assert allowance(self.state, self.policy, 0, self.now) is None
        else:
            assert not self.state.observed_open

    @invariant()
    def disabled_measures_nothing(self) -> None:
        if self.state.mode == "disabled":
            assert not self.state.window
            assert not self.state.evidence
            assert self.state.consecutive == self.state.reopenings == 0

    @invariant()
    def half_open_is_never_stuck(self) -> None:
        """With nothing in flight there is a place for a probe, or the next tick ends the period."""
        turned, _ = tick(self.state, self.policy, self.now)
        if turned.state == "half_open" and self.policy.enabled:
            assert (allowance(turned, self.policy, 0, self.now) or 0) > 0

    @invariant()
    def numbers_are_never_negative(self) -> None:
        window = summary(self.state, self.policy, self.now)["window"]
        assert 0 <= window["failures"] <= window["calls"]
        assert 0 <= window["slow"] <= window["calls"]
        assert min(self.state.consecutive, self.state.reopenings, self.state.probes_succeeded) >= 0
        assert self.state.ramp is None or self.state.ramp >= 1
        if self.policy.window.type == "count":
            assert window["calls"] <= self.policy.window.size
        if not isinstance(self.state.window, str):
            seconds = [second for second, *_ in self.state.window]
            assert seconds == sorted(set(seconds))
            assert all(0 <= part <= calls for _, calls, *parts in self.state.window for part in parts)

    @invariant()
    def the_row_holds_all_of_it(self) -> None:
        assert BreakerState.from_json(self.state.as_json()) == self.state

    @invariant()
    def a_turn_is_done_once(self) -> None:
        once, _ = tick(self.state, self.policy, self.now)
        if (once.state, once.mode) == (self.state.state, self.state.mode):
            assert tick(once, self.policy, self.now) == (once, ())


SharedBreaker.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestSharedBreaker = SharedBreaker.TestCase


class ProbingProcesses(RuleBasedStateMachine):
    """Under one setting, no interleaving of processes has more probes in flight or succeeded than it allows."""

    @initialize(places=st.integers(1, 5))
    def set_up(self, places: int) -> None:
        self.policy = BreakerPolicy(half_open_calls=places)
        opened = BreakerState(state="open", retry_at=START, generation=1)
        self.state, _ = tick(opened, self.policy, START)
        self.in_flight: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
        self.sent = self.succeeded = 0

    @rule(process=st.integers(0, 2), wanted=st.integers(1, 5))
    def claim(self, process: int, wanted: int) -> None:
        if self.state.state == "half_open":
            in_flight = sum(map(len, self.in_flight.values()))
            for _ in range(min(wanted, allowance(self.state, self.policy, in_flight, START) or 0)):
                self.sent += 1
                self.in_flight[process].add(self.sent)

    @rule(process=st.integers(0, 2), kind=st.sampled_from([".", "n", "lost"]))
    def finish(self, process: int, kind: str) -> None:
        if self.in_flight[process]:
            attempt = self.in_flight[process].pop()
            if kind != "lost":
                sample = Sample(False, False, kind == "n", 2, START, attempt)
                self.state, _ = apply_results(self.state, self.policy, [sample], START, concurrency=10, backlog=True)
            self.succeeded += kind == "."

    @rule(process=st.integers(0, 2))
    def die(self, process: int) -> None:
        self.in_flight[process].clear()

    @invariant()
    def places_are_kept(self) -> None:
        assert sum(map(len, self.in_flight.values())) + self.succeeded <= self.policy.half_open_calls
        assert (self.state.state == "closed") == (self.succeeded == self.policy.half_open_calls)


ProbingProcesses.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestProbingProcesses = ProbingProcesses.TestCase


@given(
    policy=policies(),
    letters=st.lists(st.sampled_from(list(".n")), max_size=60),
    window=st.text(".fsb", max_size=50),
    consecutive=st.integers(0, 50),
)
def test_a_success_never_opens_it_whatever_came_before(policy, letters, window, consecutive) -> None:
    second = int(START.timestamp())
    stored = window if policy.window.type == "count" else ((second, 10, 10, 10),)
    state = BreakerState(window=stored, consecutive=consecutive)
    samples = [Sample(False, False, letter == "n", 0, START, number) for number, letter in enumerate(letters)]
    result, changes = apply_results(state, policy, samples, START, concurrency=10, backlog=True)
    assert (result.state, changes) == ("closed", ())


@given(policy=policies(), letters=st.text(".fsbn", max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_results_mean_the_same_in_one_batch_or_in_many(policy: BreakerPolicy, letters: str, cuts: list[int]) -> None:
    samples = [
        Sample(letter in "fb", letter in "sb", letter == "n", 0, START, number) for number, letter in enumerate(letters)
    ]
    whole, whole_changes = apply_results(BreakerState(), policy, samples, START, concurrency=10, backlog=False)
    state = BreakerState()
    changes: tuple[Transition, ...] = ()
    edges = [0, *sorted(cuts), len(samples)]
    for start, end in pairwise(edges):
        state, more = apply_results(state, policy, samples[start:end], START, concurrency=10, backlog=False)
        changes += more
    assert (state, changes) == (whole, whole_changes)


# ---- compared with a naive implementation ----------------------------------------------------------------------------
class Naive:
    """The rules of a closed breaker as in docs/concepts.md, over a plain list of all calls."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.policy, self.calls = policy, list[Sample]()

    def opens(self, call: Sample) -> bool:
        policy = self.policy
        if call.neutral:
            return False
        self.calls.append(call)
        if not call.failed and not (call.slow and policy.slow_call_rate is not None):
            return False
        row = next((n for n, one in enumerate(reversed(self.calls)) if not one.failed), len(self.calls))
        window = self.window(call.at)
        enough = len(window) >= policy.minimum_calls
        failures, slow = sum(one.failed for one in window), sum(one.slow for one in window)
        return (
            0 < policy.consecutive_failures <= row
            or (enough and failures >= policy.failure_rate * len(window))
            or (enough and policy.slow_call_rate is not None and slow >= policy.slow_call_rate * len(window))
        )

    def window(self, now: datetime) -> list[Sample]:
        size = self.policy.window.size
        if self.policy.window.type == "count":
            return self.calls[-size:]
        return [one for one in self.calls if now - one.at < timedelta(seconds=size)]


@given(
    policy=policies(),
    steps=st.lists(st.tuples(st.sampled_from("..fsbn"), st.integers(0, 13)), max_size=60),
)
def test_a_closed_breaker_opens_exactly_where_the_rules_say(policy: BreakerPolicy, steps) -> None:
    """Steps are whole seconds, so that an outcome is often exactly ``size`` seconds old and no longer counts."""
    policy = policy.model_copy(update={"enabled": True})
    naive, state, now = Naive(policy), BreakerState(), START
    for number, (letter, seconds) in enumerate(steps):
        now += timedelta(seconds=seconds)
        sample = Sample(letter in "fb", letter in "sb", letter == "n", 0, now, number)
        state, changes = apply_results(state, policy, [sample], now, concurrency=10, backlog=False)
        opens = naive.opens(sample)
        assert [change.type for change in changes] == ["opened"] * opens
        if opens:
            return
        window = naive.window(now)
        shown = summary(state, policy, now)["window"]
        failures, slow = sum(one.failed for one in window), sum(one.slow for one in window)
        assert (shown["calls"], shown["failures"], shown["slow"]) == (len(window), failures, slow)


@given(
    size=st.integers(1, 1000),
    ended=st.floats(0, 2, allow_nan=False),
    age=st.floats(0, 1002, allow_nan=False),
)
def test_a_call_leaves_a_time_window_with_its_second(size: int, ended: float, age: float) -> None:
    """A result as old as the window never counts; within the last second it leaves with the clock's second."""
    policy = BreakerPolicy(consecutive_failures=0, minimum_calls=1000, window={"type": "time", "size": size})
    at = START + timedelta(seconds=ended)
    state, _ = apply_results(
        BreakerState(), policy, [Sample(True, False, False, 0, at, 1)], at, concurrency=10, backlog=False
    )
    now = at + timedelta(seconds=age)
    counted = summary(state, policy, now)["window"]["calls"]
    if now - at >= timedelta(seconds=size):
        assert counted == 0
    if now - at <= timedelta(seconds=size - 1):
        assert counted == 1


@given(
    size=st.integers(1, 1000),
    letters=st.text(".fsb", min_size=1, max_size=20),
    back=st.floats(0, 90_000, allow_nan=False),
)
def test_a_clock_that_moves_back_neither_hides_a_call_nor_pins_it(size: int, letters: str, back: float) -> None:
    policy = BreakerPolicy(consecutive_failures=0, minimum_calls=1000, window={"type": "time", "size": size})
    state, now = BreakerState(), START
    for number, letter in enumerate(letters):
        sample = Sample(letter in "fb", letter in "sb", False, 0, now, number)
        state, _ = apply_results(state, policy, [sample], now, concurrency=10, backlog=False)
    now -= timedelta(seconds=back)
    state, _ = apply_results(
        state, policy, [Sample(False, False, False, 0, now, 99)], now, concurrency=10, backlog=False
    )
    shown = summary(state, policy, now)["window"]
    failures = letters.count("f") + letters.count("b")
    assert (shown["calls"], shown["failures"]) == (len(letters) + 1, failures)
    assert summary(state, policy, now + timedelta(seconds=size))["window"]["calls"] == 0


@given(
    policy=policies(),
    steps=st.lists(st.tuples(st.sampled_from("..ffsbn"), st.sampled_from([0, 0.2, 1, 5, 61, 4000])), max_size=60),
)
def test_the_shadow_does_what_the_real_one_would(policy: BreakerPolicy, steps) -> None:
    """An observing breaker reports each transition of an active one, at the same call and for the same cause."""
    policy = policy.model_copy(update={"enabled": True})
    real, now = BreakerState(), START
    shadow, _ = command(BreakerState(), policy, "observe", now)
    done: list[list[tuple[int, str, str]]] = [[], []]
    for number, (letter, seconds) in enumerate(steps):
        now += timedelta(seconds=seconds)
        real, of_real = tick(real, policy, now)
        shadow, of_shadow = tick(shadow, policy, now)
        done[0] += [(number, "turned", change.type) for change in of_real]
        done[1] += [(number, "turned", change.type) for change in of_shadow]
        marks = (letter in "fb", letter in "sb", letter == "n")
        if allowance(real, policy, 0, now) != 0:
            one = Sample(*marks, real.generation, now, number)
            real, of_real = apply_results(real, policy, [one], now, concurrency=10, backlog=False)
            done[0] += [(number, change.cause, change.type) for change in of_real]
        one = Sample(*marks, shadow.generation, now, number)
        shadow, of_shadow = apply_results(shadow, policy, [one], now, concurrency=10, backlog=False)
        done[1] += [(number, change.cause, change.type) for change in of_shadow]
        assert all(change.observed for change in of_shadow)
    assert done[0] == done[1]
    assert shadow.observed_open == (real.state != "closed")
    assert (shadow.reopenings, shadow.probes_succeeded) == (real.reopenings, real.probes_succeeded)
