"""Events, faults and settings as sentences for the pages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise

from django.utils import timezone

from dashboard.presenters.durations import duration_text
from integrations.models import Event, Message, Service, Status
from integrations.policies.breaker import BreakerPolicy, open_period
from integrations.policies.retry import RetryPolicy, preview

FIRST_ATTEMPTS_SHOWN = 5  # before the ellipsis
DELAYS_SHOWN = 8  # different ones before the ellipsis
OPEN_TIMES_SHOWN = 4
MANY = 10_000  # reopenings in a row
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
FAULTS = {
    "dns": "DNS lookup failed",
    "connect": "connection failed",
    "tls": "TLS handshake failed",
    "timeout": "timed out",
    "reset": "connection reset",
    "protocol": "invalid HTTP response",
    "too_large": "response too large",
    "blocked": "address not allowed",
    "status": "error response",
    "config": "invalid configuration",
    "worker_lost": "worker lost",
}
DEAD_REASONS = {
    "attempts": "All attempts failed.",
    "status": "Rejected (not retryable).",
    "gone": "The service returned 410 Gone.",
    "deadline": "The retry deadline has passed.",
    "expired": "Expired before delivery.",
    "worker_lost": "Workers were lost several times in a row while sending it.",
    "blocked": "The network rules do not allow the address.",
    "config": "The service's settings do not allow the call.",
}


def dead_reason(message: Message) -> str:
    """Why a message is dead, such as “Rejected with 422 (not retryable).”"""
    if message.dead_reason == "status" and message.last_status_code:
        return f"Rejected with {message.last_status_code} (not retryable)."
    return DEAD_REASONS.get(message.dead_reason, message.dead_reason)


def replay_question(message: Message) -> str:
    """The question before a replay of a finished message."""
    if warning := replay_warning(message):
        return f"{warning} Replay {message.public_id} again?"
    already = " It was already delivered." if message.status == Status.DELIVERED else ""
    return f"Replay {message.public_id} unchanged?{already}"


def replay_warning(message: Message) -> str:
    """The fate of the message that stands for a replayed one, and the effect of another replay; empty without it."""
    standing = message.standing
    if standing is None:
        return ""
    which = "Its replay" if standing.pk > message.pk else "An earlier message of its lineage,"
    became, effect = {
        Status.DELIVERED: ("was delivered", "Another replay may reach the receiver twice."),
        Status.DEAD: ("failed again", "Replay that one, unless you mean this content."),
        Status.CANCELLED: ("was cancelled", "Replay that one, unless you mean this content."),
    }.get(Status(standing.status), (f"is {standing.status}", "No other replay is made before that one is finished."))
    return f"{which} {standing.public_id} {became}. {effect}"


def event_summary(event: Event) -> str:
    """One event of a service in one sentence."""
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
            held = f", {facts['held']} messages still held" if facts.get("held") else ""
            return f"Resumed{by}{held}"
        case "service.down":
            return f"Marked down by the health check{why}"
        case "service.up":
            return "Marked up by the health check"
        case "breaker.opened":
            return f"Breaker {would}opened{why}"
        case "breaker.half_opened":
            return f"Breaker {would}half-opened{why}"
        case "breaker.closed":
            return f"Breaker {would}closed{why}"
        case "breaker.mode":
            return f"Breaker changed{why}"
        case "failure.opened" if by:
            return f"Failure reopened{by}: {facts.get('title')}"
        case "failure.opened":
            return f"New failure: {facts.get('title')}"
        case "failure.regressed":
            return f"Failure regressed: {facts.get('title')}"
        case "failure.resolved":
            return f"Failure resolved{by}: {facts.get('title')}"
    return event.type.replace(".", " ").replace("_", "-").capitalize()


def cause(text: str, by: str) -> str:
    """Why a breaker changed, with the operator's name."""
    return text.replace("by an operator", f"by {by}", 1) if by else text


def retry_summary(policy: RetryPolicy, now: datetime) -> str:
    """The earliest attempts of a message that is due now and whose calls all fail at once."""
    times = preview(policy, now, limit=100)
    if len(times) == 1:
        return "One attempt, no retries."
    first = ", ".join(_clock(moment, now) for moment in times[:FIRST_ATTEMPTS_SHOWN])
    if len(times) <= FIRST_ATTEMPTS_SHOWN:
        return f"{len(times)} attempts, at the earliest at {first}. Then the message is dead."
    last = _clock(times[-1], now)
    return f"{len(times)} attempts, at the earliest at {first} … {last}. Then the message is dead."


def backoff_summary(policy: RetryPolicy) -> list[str]:
    """The delays between attempts, their jitter, and the causes of longer ones; empty without a retry."""
    times = preview(policy, EPOCH, limit=1000)
    delays = [round((later - earlier).total_seconds(), 3) for earlier, later in pairwise(times)]
    if not delays:
        return []
    groups = [(duration_text(delay), len(list(same))) for delay, same in groupby(delays)]
    texts = [delay if count == 1 else f"{delay} ({count} times)" for delay, count in groups[:DELAYS_SHOWN]]
    more = f" … {groups[-1][0]}" if len(groups) > DELAYS_SHOWN else ""
    jitter = f" (each ±{_share(policy.jitter)} jitter)" if policy.jitter else ""
    return [
        f"Backoff {', '.join(texts)}{more}{jitter}: {duration_text(sum(delays))} in total.",
        "Retry-After, an open breaker, the retry budget, a rate limit or a pause can delay an attempt further.",
    ]


def open_duration_summary(policy: BreakerPolicy) -> str:
    """How long the breaker stays open, the first time and after failed probes."""
    periods = [open_period(policy, reopenings) for reopenings in range(OPEN_TIMES_SHOWN)]
    if periods[0] == periods[-1]:
        return f"Stays open for {duration_text(periods[0])} before each probe."
    longest = open_period(policy, MANY)
    first = ", ".join(duration_text(period) for period in periods)
    return f"Stays open longer after each failed probe: {first} … at most {duration_text(longest)}."


def _clock(moment: datetime, now: datetime) -> str:
    local, today = timezone.localtime(moment), timezone.localtime(now).date()
    if local.date() == today:
        return local.strftime("%H:%M:%S")
    if local.date() == today + timedelta(days=1):
        return local.strftime("tomorrow %H:%M")
    return local.strftime("%-d %b %H:%M")


def breaker_rules(policy: BreakerPolicy) -> str:
    """The rules by which a breaker opens, and its first probe."""
    if not policy.enabled:
        return "Disabled: calls are never stopped."
    size = policy.window.size
    window = f"the last {size} calls" if policy.window.type == "count" else f"the calls of the last {size} s"
    rules = [f"{_share(policy.failure_rate)} of {window} fail (minimum {policy.minimum_calls} calls)"]
    if policy.consecutive_failures:
        count = policy.consecutive_failures
        rules.insert(0, "a call fails" if count == 1 else f"{count} calls in a row fail")
    if policy.slow_call_rate is not None:
        rules.append(f"{_share(policy.slow_call_rate)} take longer than {policy.slow_call_duration:g} s")
    probes = "one probe" if policy.half_open_calls == 1 else f"{policy.half_open_calls} probes"
    return f"Opens when {' or '.join(rules)}. Sends {probes} after {duration_text(policy.open_for)}."


def _share(share: float) -> str:
    return f"{share * 100:g}\u202f%"


def limit_summary(service: Service) -> str:
    limits, timeout = service.limits_policy, service.timeouts
    rate = f"{limits.rate:g} calls per {limits.per:g} s, " if limits.rate else ""
    return (
        f"{rate}{limits.concurrency} concurrent calls, {timeout.total:g} s timeout ({timeout.connect:g} s to connect)."
    )
