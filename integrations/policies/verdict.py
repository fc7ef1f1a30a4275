"""What an outcome means: for the message, for the breaker, and for the pace of the whole service.

The one place of that table; tests/integrations/test_outcome_table.py walks it row by row, through the whole engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from integrations.outbound.outcome import Fault, Outcome
from integrations.policies.retry import RETRY_AFTER_MAX, DeadReason, RetryPolicy, is_named, parse_retry_after

Action = Literal["deliver", "retry", "bury", "pause"]
BreakerView = Literal["success", "failure", "neutral"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after a call.

    ``throttle`` and ``retry_after`` are seconds: the first holds the whole service back (at most a day), the second is
    what the answer asked for this message, for ``next_attempt``. ``retry`` still has to find attempts left.
    """

    action: Action
    dead_reason: DeadReason | None
    breaker: BreakerView
    throttle: float | None = None
    retry_after: float | None = None


DELIVERED = Verdict("deliver", None, "success")
NETWORK_TROUBLE = Verdict("retry", None, "failure")
GONE_DEAD = Verdict("bury", DeadReason.GONE, "neutral")
GONE_PAUSE = Verdict("pause", None, "neutral")
CALLERS_FAULT = Verdict("bury", DeadReason.STATUS, "neutral")

BY_FAULT: dict[Fault, Verdict] = {
    Fault.DNS: NETWORK_TROUBLE,
    Fault.CONNECT: NETWORK_TROUBLE,
    Fault.TLS: NETWORK_TROUBLE,
    Fault.RESET: NETWORK_TROUBLE,
    Fault.PROTOCOL: NETWORK_TROUBLE,
    Fault.TIMEOUT: NETWORK_TROUBLE,
    Fault.BLOCKED: Verdict("bury", DeadReason.BLOCKED, "neutral"),
    Fault.CONFIG: Verdict("bury", DeadReason.CONFIG, "neutral"),
    # Claimed again at once and no attempt is used: whoever counts attempts must leave this one out.
    Fault.WORKER_LOST: Verdict("retry", None, "neutral"),
    # Only where the answer itself is wanted (process, lab): the same call would be too large again, and what helps
    # is a setting, the cap on the answer.
    Fault.TOO_LARGE: Verdict("bury", DeadReason.CONFIG, "neutral"),
}


def judge(outcome: Outcome, policy: RetryPolicy, now: datetime) -> Verdict:
    """What one outcome means under a service's retry settings. A few microseconds; raises nothing."""
    if outcome.fault is None:
        return DELIVERED
    if outcome.fault is not Fault.STATUS:
        return BY_FAULT[outcome.fault]
    if outcome.status_code is None:
        return CALLERS_FAULT
    if outcome.status_code == 410 and 410 not in policy.retry_on:
        # "4xx" in retry_on doesn't reach 410, which has its own setting; naming 410 itself does.
        return GONE_PAUSE if policy.on_gone == "pause" else GONE_DEAD
    return _judge_status(outcome, outcome.status_code, policy, now)


def _judge_status(outcome: Outcome, status_code: int, policy: RetryPolicy, now: datetime) -> Verdict:
    named = is_named(status_code, policy.retry_on)
    # A 5xx that the operator doesn't want retried still says that the service is in trouble.
    failure = (named and status_code != 429) or 500 <= status_code <= 599
    retry_after = parse_retry_after(outcome.header("retry-after"), now) if status_code in (429, 503) else None
    return Verdict(
        action="retry" if named else "bury",
        dead_reason=None if named else DeadReason.STATUS,
        breaker="failure" if failure else "neutral",
        throttle=min(retry_after, RETRY_AFTER_MAX) if retry_after else None,
        retry_after=retry_after,
    )
