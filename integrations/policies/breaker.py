"""The circuit breaker of one service, as a pure state machine: (state, results, now) → (state, transitions).

::

              a failed or slow call trips a rule
    CLOSED ------------------------------------------> OPEN     nothing is sent
      ^                                                |  ^
      | every probe succeeded               after open_period  a probe failed
      |                                                v  |
      +------------------------------------------- HALF OPEN    at most half_open_calls probes

The state is stored in one row per service, which a process locks while it decides, so nothing here may depend on the
process. Manual modes override it: forced_open refuses all calls, disabled measures nothing, observe measures and lets
all calls pass.

Call ``tick`` first, for the changes due to time alone; then ``allowance`` before claiming, or ``apply_results`` with
the results of calls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from integrations.errors import Conflict

State = Literal["closed", "open", "half_open"]
Mode = Literal["auto", "forced_open", "disabled", "observe"]
TransitionType = Literal["opened", "half_opened", "closed", "mode"]
OperatorAction = Literal["open", "close", "half_open", "reset", "disable", "observe", "auto"]
AttemptId = int | str
TimeWindow = tuple[tuple[int, int, int, int], ...]  # (epoch second, calls, failures, slow)
Window = str | TimeWindow

EVIDENCE_KEPT = 20  # attempts in the evidence of a transition: enough to investigate, small enough for the row
REASON_KEPT = 500  # characters that the row holds; some causes contain an operator's own reason
WEEK = 7 * 86_400.0


class WindowPolicy(BaseModel):
    """The window over which rates are measured: the last ``size`` calls, or the last ``size`` seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["count", "time"] = Field("count", description="Whether the window holds calls or seconds.")
    size: int = Field(50, ge=1, le=1000, description="How many calls, or how many seconds, the window holds.")


class BreakerPolicy(BaseModel):
    """A service's ``breaker`` settings. Durations are seconds, rates are shares between 0 and 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    enabled: bool = Field(True, description="Whether the breaker watches this service.")
    consecutive_failures: int = Field(
        5, ge=0, le=1000, description="Opens after this many failures in a row; 0 turns this rule off."
    )
    failure_rate: float = Field(0.5, gt=0, le=1, description="Opens when this share of the calls in the window failed.")
    slow_call_rate: float | None = Field(
        None, gt=0, le=1, description="Opens when this share of the calls in the window was slow; empty means never."
    )
    slow_call_duration: float | None = Field(
        None, gt=0, le=300, validate_default=True, description="A call that takes longer than this is slow."
    )
    window: WindowPolicy = Field(
        default_factory=WindowPolicy, description="The calls that the rates are measured over."
    )
    minimum_calls: int = Field(
        20,
        ge=1,
        le=1_000_000,
        validate_default=True,
        description="The rates count only once the window holds this many calls.",
    )
    open_for: float = Field(
        60, ge=0.5, le=86_400, description="Seconds without calls after opening, until the first probe."
    )
    open_factor: float = Field(
        1, ge=1, le=100, description="Each reopening in a row makes that time this many times as long."
    )
    open_max: float = Field(
        3600, le=WEEK, validate_default=True, description="Longest open time in seconds, however often it reopens."
    )
    half_open_calls: int = Field(
        1, ge=1, le=100, description="How many probes are sent after that time; the breaker closes if all succeed."
    )

    @field_validator("slow_call_duration")
    @classmethod
    def _is_set_if_slow_calls_count(cls, duration: float | None, info: ValidationInfo) -> float | None:
        if duration is None and info.data.get("slow_call_rate") is not None:
            raise PydanticCustomError(
                "slow_call_duration", "is needed with slow_call_rate: it defines which calls are slow"
            )
        return duration

    @field_validator("minimum_calls")
    @classmethod
    def _fits_into_the_window(cls, minimum: int, info: ValidationInfo) -> int:
        window = info.data.get("window")
        if window is not None and window.type == "count" and minimum > window.size:
            raise PydanticCustomError(
                "minimum_calls",
                "must be at most {size}: the window never holds more calls",
                {"size": window.size},
            )
        return minimum

    @field_validator("open_max")
    @classmethod
    def _is_no_shorter_than_open_for(cls, longest: float, info: ValidationInfo) -> float:
        open_for = info.data.get("open_for")
        if open_for is not None and longest < open_for:
            raise PydanticCustomError(
                "open_max", "must be at least as long as open_for ({open_for})", {"open_for": f"{open_for:,.12g}"}
            )
        return longest


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The state of one breaker, exactly as the row holds it.

    ``generation`` goes up with every change of state or mode. A call carries the generation in which it was claimed;
    a result of an older generation is late and changes nothing. ``window`` is a string with one letter per call
    ('.' good, 'f' failed, 's' slow, 'b' both) or, for a time window, counts per second. ``evidence`` holds the attempts
    that the next transition will name. In observe mode ``state`` stays closed; ``observed_open`` says that it would be
    open, and with a ``retry_at`` of None that it would be half-open.
    """

    state: State = "closed"
    mode: Mode = "auto"
    mode_until: datetime | None = None
    reason: str = ""
    opened_at: datetime | None = None
    retry_at: datetime | None = None
    reopenings: int = 0
    generation: int = 0
    consecutive: int = 0
    window: Window = ""
    probes_succeeded: int = 0
    ramp: int | None = None
    observed_open: bool = False
    evidence: tuple[AttemptId, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all fields as the row holds them: window and evidence as JSON values, times as datetimes."""
        stored = {name: getattr(self, name) for name in self.__slots__}
        return stored | {"window": window_as_json(self.window), "evidence": list(self.evidence)}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> BreakerState:
        """Reverse ``as_json``. Times may be RFC 3339 text; missing fields take their defaults."""
        values = {name: value for name, value in stored.items() if name in cls.__slots__}
        for name in ("mode_until", "opened_at", "retry_at"):
            if isinstance(values.get(name), str):
                values[name] = datetime.fromisoformat(values[name])
        values["window"] = window_from_json(values.get("window"))
        values["evidence"] = tuple(values.get("evidence") or ())
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one call, for the breaker. ``at`` is its end, ``generation`` the one in which it was claimed."""

    failed: bool
    slow: bool
    neutral: bool
    generation: int
    at: datetime
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state or mode, for one event: its cause as text, and its evidence, the attempts that led to it."""

    type: TransitionType
    cause: str
    attempts: tuple[AttemptId, ...] = ()
    observed: bool = False


Step = tuple[BreakerState, tuple[Transition, ...]]


# --- Queries --------------------------------------------------------------------------------------------------------


def allowance(state: BreakerState, policy: BreakerPolicy, probes_in_flight: int, now: datetime) -> int | None:
    """Return how many calls may be claimed now: None for any number, 0 for none. Call ``tick`` first."""
    if state.mode == "forced_open":
        return 0  # an operator's stop holds even if the breaker is switched off
    if not policy.enabled or state.mode in ("disabled", "observe"):
        return None
    if state.state == "open":
        return 0
    if state.state == "half_open":
        return max(0, policy.half_open_calls - probes_in_flight - state.probes_succeeded)
    return None


def ceiling(state: BreakerState, concurrency: int) -> int:
    """Return the service's concurrency now: less than its limit while a closed breaker releases a backlog."""
    return concurrency if state.ramp is None else min(state.ramp, concurrency)


def is_slow(policy: BreakerPolicy, duration: float) -> bool:
    """Whether a call of ``duration`` seconds counts as slow."""
    return policy.slow_call_duration is not None and duration > policy.slow_call_duration


def open_period(policy: BreakerPolicy, reopenings: int) -> float:
    """Return the seconds that an opening lasts after ``reopenings`` reopenings in a row."""
    try:
        return min(policy.open_max, policy.open_for * policy.open_factor ** max(0, reopenings))
    except OverflowError:
        return policy.open_max


def summary(state: BreakerState, policy: BreakerPolicy, now: datetime, probes_in_flight: int = 0) -> dict[str, Any]:
    """Return the breaker as the API and the pages show it. The caller adds ``held``."""
    tally = _tally(state, policy, now)
    return {
        "state": state.state,
        "mode": state.mode,
        "mode_until": state.mode_until,
        "reason": state.reason,
        "opened_at": state.opened_at,
        "retry_at": state.retry_at,
        "reopenings": state.reopenings,
        "observed_open": state.observed_open,
        "window": {
            "calls": tally.calls,
            "failures": tally.failures,
            "slow": tally.slow,
            "failure_rate": round(tally.failures / tally.calls, 4) if tally.calls else 0.0,
        },
        "probes": {
            "allowed": policy.half_open_calls,
            "in_flight": probes_in_flight,
            "succeeded": state.probes_succeeded,
        },
    }


# --- Changes by time ------------------------------------------------------------------------------------------------


def tick(state: BreakerState, policy: BreakerPolicy, now: datetime) -> Step:
    """Apply the changes due to time alone, or to changed settings. Returns the same object if nothing changes."""
    if state.mode != "auto" and state.mode_until is not None and state.mode_until <= now:
        return _end_manual_mode(state, policy, now, f"{_MODE_TEXTS[state.mode]} until this time")
    if state.mode in ("forced_open", "disabled"):
        return state, ()
    if not policy.enabled:
        return _switch_off(state, policy)
    state = _limit_wait(state, policy, now)
    if state.mode == "observe":
        return _tick_observed(state, now)
    if state.state == "open" and (state.retry_at is None or state.retry_at <= now):
        return _half_opened(state, "the open time is over: probing")
    if state.state == "half_open" and state.probes_succeeded >= policy.half_open_calls:
        # The setting was lowered to the probes that have succeeded already: no further result would ever close it.
        return _closed(state, policy, _probes_cause(state.probes_succeeded), ramp=1)
    return state, ()


def _limit_wait(state: BreakerState, policy: BreakerPolicy, now: datetime) -> BreakerState:
    """Limit the wait to one full period: a clock that moved back must not keep the breaker open for longer."""
    if state.retry_at is None:
        return state
    latest = now + timedelta(seconds=open_period(policy, state.reopenings))
    return replace(state, retry_at=latest) if state.retry_at > latest else state


def _tick_observed(state: BreakerState, now: datetime) -> Step:
    if not state.observed_open or state.retry_at is None or state.retry_at > now:
        return state, ()
    state = replace(state, retry_at=None, probes_succeeded=0)
    return state, (Transition("half_opened", "the open time would be over", observed=True),)


def _switch_off(state: BreakerState, policy: BreakerPolicy) -> Step:
    """Reset the measurements: they must not count when the breaker is switched on again."""
    reason = "" if state.mode == "auto" else state.reason
    wanted = replace(_clean(state, policy), reason=reason, reopenings=0, ramp=None)
    if wanted == state:
        return state, ()
    return _changed(state, wanted, "the breaker was switched off in the settings", state.evidence)


# --- Changes by results ---------------------------------------------------------------------------------------------


def apply_results(
    state: BreakerState,
    policy: BreakerPolicy,
    samples: Sequence[Sample],
    now: datetime,
    *,
    concurrency: int,
    backlog: bool,
) -> Step:
    """Apply results in their order. Makes at most one transition, except in observe mode, where calls continue.

    ``concurrency`` is the limit of the service, and ``backlog`` says whether messages wait: both decide whether a
    closing breaker releases them slowly.
    """
    if not policy.enabled or state.mode in ("forced_open", "disabled") or state.state == "open":
        return state, ()
    # Results of an older generation do not count, and neither does the rest of a batch that trips.
    counted = [sample for sample in samples if sample.generation == state.generation and not sample.neutral]
    if not counted:
        return state, ()
    if state.state == "half_open":
        return _after_probes(state, policy, counted, now, concurrency if backlog else None)
    if state.mode == "observe":
        return _after_observed(state, policy, counted, now)
    return _after_calls(state, policy, counted, now, concurrency)


def _after_calls(
    state: BreakerState, policy: BreakerPolicy, samples: Sequence[Sample], now: datetime, concurrency: int
) -> Step:
    record = _Record(state, policy, now)
    for sample in samples:
        record.add(sample)
        if trip := record.tripped_by(sample):
            return _opened(record.stored(state), policy, now, trip.cause, trip.attempts, state.reopenings)
    return replace(record.stored(state), ramp=_ramped(state.ramp, samples, concurrency)), ()


def _after_probes(
    state: BreakerState, policy: BreakerPolicy, samples: Sequence[Sample], now: datetime, full_concurrency: int | None
) -> Step:
    """``full_concurrency`` is the concurrency at the end of the release, None without a backlog."""
    succeeded, evidence = state.probes_succeeded, state.evidence
    for sample in samples:
        if sample.failed:
            return _opened(state, policy, now, "a probe failed", (sample.attempt,), state.reopenings + 1)
        succeeded, evidence = succeeded + 1, (*evidence, sample.attempt)[-EVIDENCE_KEPT:]
        if succeeded >= policy.half_open_calls:
            # Start at a tenth of the concurrency; a concurrency of 1 needs no release.
            ramp = max(1, full_concurrency // 10) if full_concurrency is not None and full_concurrency > 1 else None
            return _closed(replace(state, evidence=evidence), policy, _probes_cause(succeeded), ramp=ramp)
    return replace(state, probes_succeeded=succeeded, evidence=evidence), ()


def _after_observed(state: BreakerState, policy: BreakerPolicy, samples: Sequence[Sample], now: datetime) -> Step:
    """Run the same machine as a shadow: it reports its transitions, and every call is still measured."""
    record, transitions = _Record(state, policy, now), list[Transition]()
    for sample in samples:
        record.add(sample)
        if not state.observed_open:
            if trip := record.tripped_by(sample):
                state = _observed_opening(state, policy, now, state.reopenings)
                transitions.append(replace(trip, observed=True))
        elif state.retry_at is not None:
            continue  # this call would have been refused
        elif sample.failed:
            state = _observed_opening(state, policy, now, state.reopenings + 1)
            transitions.append(Transition("opened", "a probe failed", (sample.attempt,), observed=True))
        elif state.probes_succeeded + 1 < policy.half_open_calls:
            state = replace(state, probes_succeeded=state.probes_succeeded + 1)
        else:
            cause = _probes_cause(state.probes_succeeded + 1)
            state = replace(_clean(state, policy), observed_open=False, reopenings=0)
            record = _Record(state, policy, now)
            transitions.append(Transition("closed", cause, (sample.attempt,), observed=True))
    return record.stored(state), tuple(transitions)


def _observed_opening(state: BreakerState, policy: BreakerPolicy, now: datetime, reopenings: int) -> BreakerState:
    retry_at = now + timedelta(seconds=open_period(policy, reopenings))
    return replace(
        state, observed_open=True, opened_at=now, retry_at=retry_at, reopenings=reopenings, probes_succeeded=0
    )


def _ramped(ramp: int | None, samples: Sequence[Sample], concurrency: int) -> int | None:
    """Add a place for each success, which doubles them in each round of calls; halve them for a failure."""
    if ramp is None:
        return None
    for sample in samples:
        ramp = max(1, ramp // 2) if sample.failed else ramp + 1
        if ramp >= concurrency:
            return None
    return ramp


def _probes_cause(succeeded: int) -> str:
    return "the probe succeeded" if succeeded == 1 else f"all {succeeded} probes succeeded"


# --- Changes by an operator -----------------------------------------------------------------------------------------


def command(
    state: BreakerState,
    policy: BreakerPolicy,
    action: OperatorAction,
    now: datetime,
    *,
    reason: str = "",
    until: datetime | None = None,
) -> Step:
    """Apply an operator's action. ``until`` is for open, disable and observe; the caller checks that it is not past.

    Raises Conflict for half_open of a breaker that is not open, and ValueError for an unknown action. An action whose
    state is already reached makes no transition, and so no new generation and no event.
    """
    suffix = f": {reason}" if reason else ""
    if action == "open":
        return _force_open(state, now, reason, until, f"forced open by an operator{suffix}")
    if action in ("disable", "observe"):
        mode: Mode = "disabled" if action == "disable" else "observe"
        wanted = replace(_clean(state, policy), mode=mode, mode_until=until, reason=reason, ramp=None, reopenings=0)
        if state.mode == mode:  # only the reason and the end are new
            return replace(state, mode_until=until, reason=reason), ()
        return _changed(state, wanted, f"{_MODE_TEXTS[mode]} by an operator{suffix}")
    if action in ("close", "reset"):
        wanted = replace(_clean(state, policy), mode="auto", mode_until=None, reason="")
        # Both ignore the backlog: to start with one place costs an idle service nothing.
        wanted = replace(wanted, ramp=None if state.state == "closed" else 1)
        wanted = replace(wanted, reopenings=0) if action == "reset" else wanted
        return _changed(state, wanted, f"{'closed' if action == 'close' else 'reset'} by an operator{suffix}")
    if action == "half_open":
        if state.state != "open":
            raise Conflict(f"only an open breaker can be half-opened; this one is {state.state.replace('_', '-')}")
        return _half_opened(state, f"half-opened by an operator{suffix}")
    if action == "auto":
        if state.mode == "auto":
            return state, ()
        return _end_manual_mode(state, policy, now, f"{_MODE_TEXTS[state.mode]} until an operator ended it{suffix}")
    raise ValueError(f"no such action: {action}")


_MODE_TEXTS: dict[Mode, str] = {
    "auto": "automatic",
    "forced_open": "forced open",
    "disabled": "disabled",
    "observe": "set to observe",
}


def _force_open(state: BreakerState, now: datetime, reason: str, until: datetime | None, cause: str) -> Step:
    wanted = replace(
        state,
        state="open",
        mode="forced_open",
        mode_until=until,
        reason=reason,
        opened_at=state.opened_at if state.state == "open" else now,
        retry_at=until,
        probes_succeeded=0,
        ramp=None,
        observed_open=False,
    )
    return _changed(state, wanted, cause)


def _end_manual_mode(state: BreakerState, policy: BreakerPolicy, now: datetime, cause: str) -> Step:
    """Return to auto. A forced opening says nothing about the service, so it probes first; other modes start clean."""
    if state.mode == "forced_open" and policy.enabled:
        return _half_opened(state, cause)
    wanted = replace(_clean(state, policy), mode="auto", mode_until=None, reason="", reopenings=0, ramp=None)
    return _changed(state, wanted, cause)


# --- Transitions, each with its one event ---------------------------------------------------------------------------


def _opened(
    state: BreakerState,
    policy: BreakerPolicy,
    now: datetime,
    cause: str,
    attempts: tuple[AttemptId, ...],
    reopenings: int,
) -> Step:
    """Open for a full new period. The window stays, so that an operator can read it while the breaker is open."""
    wanted = replace(
        state,
        state="open",
        reason=cause,
        opened_at=now,
        retry_at=now + timedelta(seconds=open_period(policy, reopenings)),
        reopenings=reopenings,
        probes_succeeded=0,
        ramp=None,
        evidence=(),
    )
    return _changed(state, wanted, cause, attempts)


def _half_opened(state: BreakerState, cause: str) -> Step:
    wanted = replace(
        state,
        state="half_open",
        mode="auto",
        mode_until=None,
        reason=cause[:REASON_KEPT],
        retry_at=None,
        probes_succeeded=0,
        ramp=None,
        evidence=(),
    )
    return _changed(state, wanted, cause)


def _closed(state: BreakerState, policy: BreakerPolicy, cause: str, *, ramp: int | None) -> Step:
    wanted = replace(_clean(state, policy), reason="", reopenings=0, ramp=ramp)
    return _changed(state, wanted, cause, state.evidence)


def _clean(state: BreakerState, policy: BreakerPolicy) -> BreakerState:
    """Return the closed state, without measurements."""
    return replace(
        state,
        state="closed",
        opened_at=None,
        retry_at=None,
        consecutive=0,
        window="" if policy.window.type == "count" else (),
        probes_succeeded=0,
        observed_open=False,
        evidence=(),
    )


_TRANSITION_TYPES: dict[State, TransitionType] = {"closed": "closed", "open": "opened", "half_open": "half_opened"}


def _changed(before: BreakerState, wanted: BreakerState, cause: str, attempts: tuple[AttemptId, ...] = ()) -> Step:
    """Return ``wanted`` with a new generation and one Transition if state or mode differ, otherwise unchanged."""
    if wanted.state == before.state and wanted.mode == before.mode:
        return wanted, ()
    type_ = "mode" if wanted.state == before.state else _TRANSITION_TYPES[wanted.state]
    return replace(wanted, generation=before.generation + 1), (Transition(type_, cause, attempts),)


# --- The window -----------------------------------------------------------------------------------------------------


class _Record:
    """Mutable measurements of a closed breaker, so that a batch needs no new state for each result."""

    def __init__(self, state: BreakerState, policy: BreakerPolicy, now: datetime) -> None:
        self.policy = policy
        self.tally = _tally(state, policy, now)
        self.consecutive = state.consecutive
        self.evidence = deque(state.evidence, maxlen=EVIDENCE_KEPT)
        self.slow_counts = policy.slow_call_rate is not None

    def add(self, sample: Sample) -> None:
        self.tally.add(sample)
        self.consecutive = self.consecutive + 1 if sample.failed else 0
        if sample.failed or (sample.slow and self.slow_counts):
            self.evidence.append(sample.attempt)

    def tripped_by(self, sample: Sample) -> Transition | None:
        """Return the opening that this call causes, if any. Only a failed or slow call trips a rule."""
        if not sample.failed and not (sample.slow and self.slow_counts):
            return None
        policy, tally = self.policy, self.tally
        if 0 < policy.consecutive_failures <= self.consecutive:
            cause = "1 failure" if self.consecutive == 1 else f"{self.consecutive} failures in a row"
            return Transition("opened", cause, self._last(self.consecutive))
        if tally.calls == 0 or tally.calls < policy.minimum_calls:
            return None
        if tally.failures / tally.calls >= policy.failure_rate:
            cause = f"{tally.failures} of {tally.calls} calls failed ({_percent(tally.failures, tally.calls)})"
            return Transition("opened", cause, self._last(tally.failures + tally.slow))
        if policy.slow_call_rate is not None and tally.slow / tally.calls >= policy.slow_call_rate:
            cause = f"{tally.slow} of {tally.calls} calls were slow ({_percent(tally.slow, tally.calls)})"
            return Transition("opened", cause, self._last(tally.failures + tally.slow))
        return None

    def _last(self, count: int) -> tuple[AttemptId, ...]:
        return tuple(self.evidence)[-count:]

    def stored(self, state: BreakerState) -> BreakerState:
        return replace(state, consecutive=self.consecutive, window=self.tally.stored(), evidence=tuple(self.evidence))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


class _CountTally:
    """The last ``size`` calls, one letter each, with running totals."""

    def __init__(self, window: str, size: int) -> None:
        self.size = size
        self.letters = deque(window[-size:])
        self.calls = len(self.letters)
        self.failures = self.letters.count("f") + self.letters.count("b")
        self.slow = self.letters.count("s") + self.letters.count("b")

    def add(self, sample: Sample) -> None:
        if self.calls == self.size:
            oldest = self.letters.popleft()
            self.failures -= oldest in "fb"
            self.slow -= oldest in "sb"
        else:
            self.calls += 1
        self.letters.append((".", "s", "f", "b")[2 * sample.failed + sample.slow])
        self.failures += sample.failed
        self.slow += sample.slow

    def stored(self) -> str:
        return "".join(self.letters)


class _TimeTally:
    """The last ``size`` seconds, counted per second; a call exactly ``size`` seconds old no longer counts.

    A second in the future means that the clock moved back, or that another process read it a moment later. Its calls
    count as of now and age from now, so they are neither lost nor counted forever.
    """

    def __init__(self, window: TimeWindow, size: int, now: datetime) -> None:
        self.size = size
        self.second = math.floor(now.timestamp())
        self.seconds: dict[int, list[int]] = {}
        self.calls = self.failures = self.slow = 0
        for second, calls, failures, slow in window:
            self._count(second, calls, failures, slow)

    def add(self, sample: Sample) -> None:
        self._count(math.floor(sample.at.timestamp()), 1, int(sample.failed), int(sample.slow))

    def stored(self) -> TimeWindow:
        return tuple((second, *counts) for second, counts in sorted(self.seconds.items()))  # type: ignore[misc]

    def _count(self, second: int, calls: int, failures: int, slow: int) -> None:
        if self.second - second >= self.size:
            return
        counts = self.seconds.setdefault(min(second, self.second), [0, 0, 0])
        counts[0] += calls
        counts[1] += failures
        counts[2] += slow
        self.calls += calls
        self.failures += failures
        self.slow += slow


def _tally(state: BreakerState, policy: BreakerPolicy, now: datetime) -> _CountTally | _TimeTally:
    """Return the window under the current settings: the other type starts empty, a smaller window keeps the newest."""
    window, size = state.window, policy.window.size
    if policy.window.type == "count":
        return _CountTally(window if isinstance(window, str) else "", size)
    return _TimeTally(() if isinstance(window, str) else window, size, now)


def window_as_json(window: Window) -> str | list[list[int]]:
    """Return a window as a JSON value: the letters, or a list for each second."""
    return window if isinstance(window, str) else [list(row) for row in window]


def window_from_json(stored: str | Sequence[Sequence[int]] | None) -> Window:
    """Reverse ``window_as_json``; None is an empty window."""
    if isinstance(stored, str) or stored is None:
        return stored or ""
    return tuple((int(second), int(calls), int(failures), int(slow)) for second, calls, failures, slow in stored)
