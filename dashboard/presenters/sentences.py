"""What happened and what will happen, in sentences."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

from django.utils import timezone

from dashboard.presenters.durations import duration_text
from integrations.models import Event, Service
from integrations.policies.breaker import BreakerPolicy, open_period
from integrations.policies.retry import RetryPolicy, preview

SHOWN_FIRST = 5  # retry times before the dots
WAITS_SHOWN = 8  # different waits before the dots
OPEN_TIMES_SHOWN = 4
MANY = 10_000  # reopenings in a row
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
FAULTS = {
    "dns": "name not found",
    "connect": "no connection",
    "tls": "TLS failed",
    "timeout": "timed out",
    "reset": "connection reset",
    "protocol": "not valid HTTP",
    "too_large": "answer too large",
    "blocked": "address not allowed",
    "status": "refused",
    "config": "cannot be built",
    "worker_lost": "worker lost",
}
DEAD_REASONS = {
    "attempts": "All attempts are used up.",
    "status": "The service refused it with a status that is not tried again.",
    "gone": "The service answered 410 Gone.",
    "deadline": "The deadline for retries has passed.",
    "expired": "It expired before it could be delivered.",
    "worker_lost": "Workers were lost while sending it, several times in a row.",
    "blocked": "The address is not allowed by the network rules.",
    "config": "The request could not be built from the configuration.",
}


def event_summary(event: Event) -> str:
    """One change of a service, in one sentence."""
    facts = event.facts
    by = f" by {facts['by']}" if facts.get("by") else ""
    why = f": {cause(facts['cause'], facts.get('by', ''))}" if facts.get("cause") else ""
    reason = f": {facts['reason']}" if facts.get("reason") else ""
    would = "would have " if facts.get("observed") else ""
    match event.type:
        case "service.created":
            return f"Registered ({facts.get('source', 'form')})"
        case "service.changed" if "cause" in facts:
            return f"Breaker {cause(facts['cause'], facts.get('by', ''))}"
        case "service.changed":
            return f"Settings changed{by}: {', '.join(facts.get('fields', [])) or 'nothing'}"
        case "service.paused":
            return f"Paused{by}{reason}"
        case "service.resumed":
            held = f", {facts['held']} stay held" if facts.get("held") else ""
            return f"Resumed{by}{held}"
        case "service.down":
            return f"Found down by its health check{why}"
        case "service.up":
            return "Found up again by its health check"
        case "breaker.opened":
            return f"Breaker {would}opened{why}"
        case "breaker.half_opened":
            return f"Breaker {would}half-opened{why}"
        case "breaker.closed":
            return f"Breaker {would}closed{why}"
        case "breaker.mode":
            return f"Breaker changed{why}"
        case "failure.opened" if by:
            return f"Failure opened again{by}: {facts.get('title')}"
        case "failure.opened":
            return f"New kind of failure: {facts.get('title')}"
        case "failure.regressed":
            return f"Failure came back: {facts.get('title')}"
        case "failure.resolved":
            return f"Failure resolved{by}: {facts.get('title')}"
    return event.type.replace(".", " ").replace("_", "-").capitalize()


def cause(words: str, by: str) -> str:
    """Why a breaker changed; an operator by name."""
    return words.replace("by an operator", f"by {by}", 1) if by else words


def retry_summary(policy: RetryPolicy, now: datetime) -> str:
    """The times of a message that is due now and always fails at once: “tries at …; gives up tomorrow 05:40”."""
    times = preview(policy, now, limit=100)
    if len(times) == 1:
        return "One call, no retry."
    first = ", ".join(_clock(moment, now) for moment in times[:SHOWN_FIRST])
    if len(times) <= SHOWN_FIRST:
        return f"Tries at {first}, then gives up, at the earliest."
    last = _clock(times[-1], now)
    return f"Tries at {first} … gives up {last}, at the earliest, after {len(times)} calls."


def wait_summary(policy: RetryPolicy) -> list[str]:
    """How long the waits are, how much they spread, and what can make them longer; nothing where none is waited."""
    times = preview(policy, EPOCH, limit=1000)
    waits = [round((later - earlier).total_seconds(), 3) for earlier, later in pairwise(times)]
    if not waits:
        return []
    groups = [(duration_text(wait), len(list(same))) for wait, same in groupby(waits)]
    words = [span if count == 1 else f"{span} ({count} times)" for span, count in groups[:WAITS_SHOWN]]
    more = f", … {groups[-1][0]} at last" if len(groups) > WAITS_SHOWN else ""
    spread = f", each up to {_share(policy.jitter)} shorter or longer" if policy.jitter else ""
    return [
        f"Waits {', '.join(words)}{more}{spread}: {duration_text(sum(waits))} in all.",
        "Later where a Retry-After, an open breaker, the retry budget, a limit or a pause comes in between.",
    ]


def open_summary(policy: BreakerPolicy) -> str:
    """How long it stays open, the first time and after failed probes."""
    periods = [open_period(policy, reopenings) for reopenings in range(OPEN_TIMES_SHOWN)]
    if periods[0] == periods[-1]:
        return f"Each opening lasts {duration_text(periods[0])}, until a first probe."
    longest = open_period(policy, MANY)
    first = ", ".join(duration_text(period) for period in periods)
    return f"Each failed probe makes the next opening longer: {first} … {duration_text(longest)} at most."


def _clock(moment: datetime, now: datetime) -> str:
    local, today = timezone.localtime(moment), timezone.localtime(now).date()
    if local.date() == today:
        return local.strftime("%H:%M:%S")
    if local.date() == today + timedelta(days=1):
        return local.strftime("tomorrow %H:%M")
    return local.strftime("%-d %b %H:%M")


def breaker_rules(policy: BreakerPolicy) -> str:
    """When a breaker opens, and for how long."""
    if not policy.enabled:
        return "Switched off: every call is made, whatever comes back."
    unit = "calls" if policy.window.type == "count" else "seconds"
    window = f"the last {policy.window.size} {unit}"
    rules = [f"{_share(policy.failure_rate)} of {window} failed (from {policy.minimum_calls} calls on)"]
    if policy.consecutive_failures:
        count = policy.consecutive_failures
        rules.insert(0, "a call failed" if count == 1 else f"{count} calls in a row failed")
    if policy.slow_call_rate is not None:
        rules.append(f"{_share(policy.slow_call_rate)} took longer than {policy.slow_call_duration:g} s")
    probes = "one probe" if policy.half_open_calls == 1 else f"{policy.half_open_calls} probes"
    return f"Opens when {' or '.join(rules)}; after {duration_text(policy.open_for)} it sends {probes}."


def _share(share: float) -> str:
    return f"{share * 100:g}\u202f%"


def limit_summary(service: Service) -> str:
    limits, timeout = service.limits_policy, service.timeouts
    rate = f"{limits.rate:g} calls every {limits.per:g} s, " if limits.rate else ""
    return f"{rate}{limits.concurrency} at the same time, {timeout.total:g} s each ({timeout.connect:g} s to connect)."
