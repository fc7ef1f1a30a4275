"""Judge an outcome: its consequences for the message, for the breaker and for the pace of the whole service.

This is the only place with that table. tests/delivery/test_outcome_table.py runs each of its rows through the whole
engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from integrations.outbound.outcome import Fault, Outcome
from integrations.policies.retry import RETRY_AFTER_MAX, DeadReason, RetryPolicy, is_named, parse_retry_after

MessageAction = Literal["deliver", "retry", "bury", "pause"]
BreakerView = Literal["success", "failure", "neutral"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The consequences of one outcome.

    ``throttle`` and ``retry_after`` are seconds. The first delays all calls to the service, by a day at most. The
    second is the response's Retry-After for this message; pass it to ``next_attempt``. A ``retry`` still needs an
    attempt that is left.
    """

    action: MessageAction
    dead_reason: DeadReason | None
    breaker: BreakerView
    throttle: float | None = None
    retry_after: float | None = None


DELIVERED = Verdict("deliver", None, "success")
NETWORK_TROUBLE = Verdict("retry", None, "failure")
GONE_DEAD = Verdict("bury", DeadReason.GONE, "neutral")
GONE_PAUSE = Verdict("pause", None, "neutral")
REJECTED = Verdict("bury", DeadReason.STATUS, "neutral")

BY_FAULT: dict[Fault, Verdict] = {
    Fault.DNS: NETWORK_TROUBLE,
    Fault.CONNECT: NETWORK_TROUBLE,
    Fault.TLS: NETWORK_TROUBLE,
    Fault.RESET: NETWORK_TROUBLE,
    Fault.PROTOCOL: NETWORK_TROUBLE,
    Fault.TIMEOUT: NETWORK_TROUBLE,
    Fault.BLOCKED: Verdict("bury", DeadReason.BLOCKED, "neutral"),
    Fault.CONFIG: Verdict("bury", DeadReason.CONFIG, "neutral"),
    # The message is claimed again at once and no attempt is used: code that counts attempts must leave this one out.
    Fault.WORKER_LOST: Verdict("retry", None, "neutral"),
    # Only for calls whose response a client waits for (process, lab). A retry would be too large again; a higher cap on
    # the response helps.
    Fault.TOO_LARGE: Verdict("bury", DeadReason.CONFIG, "neutral"),
}


def judge(outcome: Outcome, policy: RetryPolicy, now: datetime) -> Verdict:
    """Judge one outcome under a service's retry settings. Takes a few microseconds, raises nothing."""
    if outcome.fault is None:
        return DELIVERED
    if outcome.fault is not Fault.STATUS:
        return BY_FAULT[outcome.fault]
    if outcome.status_code is None:
        return REJECTED
    if outcome.status_code == 410 and 410 not in policy.retry_on:
        # "4xx" in retry_on does not include 410, which has its own setting; only 410 itself does.
        return GONE_PAUSE if policy.on_gone == "pause" else GONE_DEAD
    return _judge_status(outcome, outcome.status_code, policy, now)


def _judge_status(outcome: Outcome, status_code: int, policy: RetryPolicy, now: datetime) -> Verdict:
    named = is_named(status_code, policy.retry_on)
    # A 5xx that is not in retry_on still shows that the service is in trouble.
    failure = (named and status_code != 429) or 500 <= status_code <= 599
    retry_after = parse_retry_after(outcome.header("retry-after"), now) if status_code in (429, 503) else None
    return Verdict(
        action="retry" if named else "bury",
        dead_reason=None if named else DeadReason.STATUS,
        breaker="failure" if failure else "neutral",
        throttle=min(retry_after, RETRY_AFTER_MAX) if retry_after else None,
        retry_after=retry_after,
    )
