"""A message's life in the order it happened: its own moments, its calls, what people did, what its service went
through; and what comes next, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from dashboard.presenters.durations import duration_text
from dashboard.presenters.sentences import DEAD_REASONS, event_summary
from integrations.models import Attempt, AuditEntry, Event, Message, Status
from integrations.policies.retry import delay_after, parse_retry_after

WIDTH = 100.0  # of the longest call's bar
NARROWEST = 0.5  # so that a short call is still seen

ACTS = {
    "message.retried_now": "Made due at once",
    "message.cancelled": "Cancelled",
    "message.replayed": "Replayed",
}
SERVICE_EVENTS = (
    "service.paused",
    "service.resumed",
    "breaker.opened",
    "breaker.half_opened",
    "breaker.closed",
)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of the timeline. ``kind`` is ``moment``, ``call``, ``act`` or ``service``; ``width`` is a call's share
    of the longest one's time, in hundredths."""

    at: datetime
    kind: str
    text: str = ""
    key: str = ""  # unique within its kind, for the line's id on the page; a call has its number
    attempt: Attempt | None = None
    width: float = 0.0
    replay: str = ""  # public id of what an act has made


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a life that a page shows: its calls, and whether there are earlier and later ones."""

    attempts: Sequence[Attempt]  # newest first
    has_earlier: bool = False
    has_later: bool = False

    def holds(self, at: datetime) -> bool:
        newest, oldest = (self.attempts[0], self.attempts[-1]) if self.attempts else (None, None)
        after = not self.has_earlier or oldest is None or at >= oldest.started_at
        return after and (not self.has_later or newest is None or at <= newest.started_at)


def timeline(
    message: Message, window: Window, acts: Iterable[AuditEntry], events: Iterable[Event]
) -> list[TimelineEntry]:
    """What has happened, newest first; what comes next is ``planned``."""
    acts = list(acts)
    found = [*_moments(message), *_calls(window.attempts)]
    if message.status == Status.CANCELLED and not any(act.action == "message.cancelled" for act in acts):
        found.append(TimelineEntry(message.finished_at or message.created_at, "moment", "Cancelled", key="finished"))
    for act in acts:
        if words := ACTS.get(act.action):
            reason = f": {act.reason}" if act.reason else ""
            replay = str(act.after.get("replay", ""))
            found.append(
                TimelineEntry(act.at, "act", f"{words} by {_name(act.actor)}{reason}", key=str(act.pk), replay=replay)
            )
    for event in events:
        text = f"{message.service.name}: {event_summary(event)}"
        found.append(TimelineEntry(event.at, "service", text, key=str(event.pk)))
    return sorted((entry for entry in found if window.holds(entry.at)), key=lambda entry: entry.at, reverse=True)


def _moments(message: Message) -> list[TimelineEntry]:
    accepted = "Accepted as a replay" if message.replay_of_id else "Accepted"
    found = [TimelineEntry(message.created_at, "moment", accepted, key="accepted")]
    over = message.finished_at
    if message.deliver_at and message.deliver_at > message.created_at and not (over and over < message.deliver_at):
        found.append(TimelineEntry(message.deliver_at, "moment", "From here on it may be delivered", key="due"))
    if over and message.status == Status.DELIVERED:
        found.append(TimelineEntry(over, "moment", "Delivered", key="finished"))
    elif over and message.status == Status.DEAD:
        reason = DEAD_REASONS.get(message.dead_reason, message.dead_reason)
        found.append(TimelineEntry(over, "moment", f"Dead: {reason}", key="finished"))
    return found


def _calls(attempts: Sequence[Attempt]) -> list[TimelineEntry]:
    longest = max((attempt.duration or 0.0 for attempt in attempts), default=0.0) or 1.0
    return [
        TimelineEntry(
            attempt.started_at,
            "call",
            attempt=attempt,
            width=max(NARROWEST, round((attempt.duration or 0.0) / longest * WIDTH, 1)),
        )
        for attempt in attempts
    ]


def _name(actor: str) -> str:
    return actor.removeprefix("person ")


def planned(message: Message, last: Attempt | None, now: datetime) -> str:
    """Why the next call comes when it comes; empty where nothing is planned. ``last`` is the newest call."""
    due = message.next_attempt_at
    if due is None or due <= now:
        return ""
    if not message.retry_at:
        return "it is not to be delivered before then"
    policy = message.service.retry_policy
    which = f"It is attempt {message.attempts + 1} of {policy.attempts_allowed}."
    if last is None or last.retry_at is None or message.attempts < 1:
        return f"the last call failed. {which}"
    # Jitter is left out: it says how long the wait is by the settings, not how long it happened to be.
    plain = delay_after(policy.model_copy(update={"jitter": 0}), message.attempts, retry_after=None, random=Random(0))  # noqa: S311
    answered = last.started_at + timedelta(seconds=last.duration or 0)
    asked = parse_retry_after(_header(last, "retry-after"), answered)
    if asked and asked > plain * (1 + policy.jitter):
        return f"the service asked for {duration_text(asked)} (Retry-After). {which}"
    spread = f", up to {policy.jitter * 100:g}\u202f% shorter or longer" if policy.jitter and plain else ""
    return f"the wait after attempt {message.attempts} is {duration_text(plain)}{spread}. {which}"


def _header(attempt: Attempt, name: str) -> str | None:
    return next((value for header, value in attempt.response_headers if header.lower() == name), None)


NEXT_STEPS = {
    "attempts": "When the service is well again, replay it.",
    "status": "Read the answer below. If the request is wrong, edit and replay; if the service was, replay it.",
    "gone": "The address is gone for good: correct the service or its endpoint, then replay with current settings.",
    "deadline": "If it is still worth delivering, replay it: the deadline begins anew.",
    "expired": "If it is still worth delivering, replay it: the replay does not expire.",
    "worker_lost": "It may have been delivered: ask the receiver for its webhook-id before you replay it.",
    "blocked": "An admin may allow the network in the service's settings; then replay it.",
    "config": "Correct the service's settings, then replay it.",
}


def next_step(message: Message) -> str:
    """What a person can do about a dead message; empty where nothing is to be done."""
    return NEXT_STEPS.get(message.dead_reason, "") if message.status == Status.DEAD else ""


def retry_impact(message: Message, now: datetime) -> str:
    """What “Retry now” does to a pending message, in words."""
    service = message.service.name
    if message.held:
        does = "takes it out of the hold"
    elif (due := message.next_attempt_at) and due > now:
        does = f"skips the wait of {duration_text((due - now).total_seconds())}"
    else:
        return "It is due already: Retry now only puts it ahead of other retries."
    return f"Retry now {does}. A pause, the breaker, limits and the order of {service} still hold it back."


def cancel_impact(message: Message, has_behind: bool) -> str:
    """What cancelling does, in words, for the question before it."""
    made = f" {message.calls} calls were made already." if message.calls > 1 else ""
    made = " One call was made already." if message.calls == 1 else made
    after = f" The next message with the key “{message.ordering_key}” goes on without it." if has_behind else ""
    return f"Cancel {message.public_id}? It will not be delivered.{made}{after}"
