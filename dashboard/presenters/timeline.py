"""A message's timeline: its own moments, its attempts, the actions of operators and the events of its service; and the
next attempt, with the reason for its time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from dashboard.presenters.durations import duration_text
from dashboard.presenters.sentences import dead_reason, event_summary
from integrations.delivery.oauth import REAUTHORISE
from integrations.models import Attempt, AuditEntry, Event, Message, Status
from integrations.policies.retry import delay_after, parse_retry_after

WIDTH = 100.0  # of the longest attempt's bar
NARROWEST = 0.5  # so that a short attempt stays visible

ACTIONS = {
    "message.retried_now": "Retried now",
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
    """One line of the timeline. ``kind`` is ``moment``, ``call``, ``act`` or ``service``; ``width`` is an attempt's
    duration in hundredths of the longest one's."""

    at: datetime
    kind: str
    text: str = ""
    key: str = ""  # unique within its kind, for the line's id on the page; a call has its number
    attempt: Attempt | None = None
    width: float = 0.0
    replay: str = ""  # public id of the message that a replay made


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a timeline that a page shows: its attempts, and whether there are earlier and later ones."""

    attempts: Sequence[Attempt]  # newest first
    has_earlier: bool = False
    has_later: bool = False

    def holds(self, at: datetime) -> bool:
        newest, oldest = (self.attempts[0], self.attempts[-1]) if self.attempts else (None, None)
        after = not self.has_earlier or oldest is None or at >= oldest.started_at
        return after and (not self.has_later or newest is None or at <= newest.started_at)


def timeline(
    message: Message, window: Window, actions: Iterable[AuditEntry], events: Iterable[Event]
) -> list[TimelineEntry]:
    """The entries of a window, newest first. ``planned`` explains the next attempt."""
    actions = list(actions)
    found = [*_moments(message), *_calls(window.attempts)]
    if message.status == Status.CANCELLED and not any(entry.action == "message.cancelled" for entry in actions):
        found.append(TimelineEntry(message.finished_at or message.created_at, "moment", "Cancelled", key="finished"))
    for entry in actions:
        if text := ACTIONS.get(entry.action):
            reason = f": {entry.reason}" if entry.reason else ""
            replay = str(entry.after.get("replay", ""))
            found.append(
                TimelineEntry(
                    entry.at, "act", f"{text} by {_name(entry.actor)}{reason}", key=str(entry.pk), replay=replay
                )
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
        found.append(TimelineEntry(message.deliver_at, "moment", "Scheduled delivery time", key="due"))
    if over and message.status == Status.DELIVERED:
        found.append(TimelineEntry(over, "moment", "Delivered", key="finished"))
    elif over and message.status == Status.DEAD:
        found.append(TimelineEntry(over, "moment", f"Dead: {dead_reason(message)}", key="finished"))
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
    """Why the next attempt has its time, after “because”; empty without one. ``last`` is the newest attempt."""
    due = message.next_attempt_at
    if due is None or due <= now:
        return ""
    if not message.retry_at:
        return "it is scheduled for then"
    policy = message.service.retry_policy
    number = f"It is attempt {message.attempts + 1} of {policy.attempts_allowed}."
    if last is None or last.retry_at is None or message.attempts < 1:
        return f"the last attempt failed. {number}"
    # Without jitter: the text states the backoff of the settings, not the random one of this attempt.
    plain = delay_after(policy.model_copy(update={"jitter": 0}), message.attempts, retry_after=None, random=Random(0))  # noqa: S311
    answered = last.started_at + timedelta(seconds=last.duration or 0)
    requested = parse_retry_after(_header(last, "retry-after"), answered)
    if requested and requested > plain * (1 + policy.jitter):
        return f"the service asked for {duration_text(requested)} (Retry-After). {number}"
    jitter = f" ±{policy.jitter * 100:g}\u202f% jitter" if policy.jitter and plain else ""
    return f"the backoff after attempt {message.attempts} is {duration_text(plain)}{jitter}. {number}"


def _header(attempt: Attempt, name: str) -> str | None:
    return next((value for header, value in attempt.response_headers if header.lower() == name), None)


NEXT_STEPS = {
    "attempts": "Replay it once the service is healthy again.",
    "status": "Check the response below. If the request was wrong, edit and replay it; if the service was, replay it.",
    "gone": "The URL no longer exists. Correct the service or its endpoint, then replay with current settings.",
    "deadline": "If it is still worth delivering, replay it: the replay gets a new deadline.",
    "expired": "If it is still worth delivering, replay it: the replay does not expire.",
    "worker_lost": "It may have been delivered. Ask the receiver about its webhook-id before you replay it.",
    "blocked": "Ask an admin to allow the network in the service's settings, then replay it.",
    "config": "Correct the service's settings, then replay it.",
}


def next_step(message: Message) -> str:
    """The operator's next step for a dead message; empty for other messages."""
    if message.dead_reason == "config" and message.last_detail.startswith(REAUTHORISE):
        return "Re-authorise: enter the OAuth 2 client ID and secret of the service again, then replay it."
    return NEXT_STEPS.get(message.dead_reason, "") if message.status == Status.DEAD else ""


def retry_impact(message: Message, now: datetime) -> str:
    """The effect of “Retry now” on a pending message."""
    service = message.service.name
    if message.held:
        effect = "releases the hold"
    elif (due := message.next_attempt_at) and due > now:
        effect = f"skips the remaining {duration_text((due - now).total_seconds())}"
    else:
        return "It is already due. Retry now only moves it ahead of other retries."
    return f"Retry now {effect}. A pause, the breaker, limits and ordering of {service} still apply."


def cancel_impact(message: Message, has_behind: bool) -> str:
    """The effect of cancelling, for the question before it."""
    made = f" {message.calls} attempts were already made." if message.calls > 1 else ""
    made = " One attempt was already made." if message.calls == 1 else made
    after = f" It no longer blocks the next message with ordering key “{message.ordering_key}”." if has_behind else ""
    return f"Cancel {message.public_id}? It will not be delivered.{made}{after}"
