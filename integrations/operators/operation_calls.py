"""The calls that an operation causes: they set its adaptive pace, and stop it when too many fail.

Nothing is written per call. A step reads the messages that the operation acted on since its *mark*, the message up to
which all have been called, and their first attempts. With few calls out at a time these are few rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from integrations.delivery.admission import CAREFUL_FOR
from integrations.models import Attempt, Message, Operation, Result, Runtime, Service
from integrations.models.operation import ItemOutcome, Kind
from integrations.policies import pacing

LOOKED_AT = 500  # messages in one look: as many as five steps of the fastest operation
LEFT_OUT_AFTER = timedelta(seconds=30)  # a message that is not called for so long, as it waits for its ordering key
SERVICES = 50  # whose breakers a look reads


@dataclass(frozen=True, slots=True)
class _Acted:
    """A message that the operation acted on."""

    key: int  # in the order in which the operation acts
    message_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Look:
    """The result of a look: the calls out at a time, and the room for more."""

    out: int
    room: int


def look(operation: Operation, now: datetime) -> Look:
    """Read the calls that have ended since the last look, and adjust the operation's ``pace``; the caller saves it."""
    state = dict(operation.pace or {})
    acted = _acted_on(operation, state.get("mark", 0))
    # The messages of a replay are new, so each attempt is one of this operation.
    attempts = _first_attempts(acted, is_any=operation.kind == Kind.REPLAY)
    seen, ended, out = set(state.get("seen", ())), list[Attempt](), 0
    mark, still_seen, is_whole = state.get("mark", 0), list[int](), True
    for one in acted:
        attempt = attempts.get(one.message_id)
        if attempt is not None and one.key not in seen:
            ended.append(attempt)
        is_over = attempt is not None or now - one.at > LEFT_OUT_AFTER
        out += not is_over
        is_whole = is_whole and is_over
        if is_whole:
            mark = one.key
        elif attempt is not None:
            still_seen.append(one.key)
    failed = [attempt.outcome != Result.SUCCEEDED for attempt in ended]
    latest = (state.get("latest", "") + "".join("01"[is_failed] for is_failed in failed))[-pacing.LATEST :]
    state |= {"mark": mark, "seen": still_seen, "latest": latest, "looked_at": now.timestamp()}
    room = LOOKED_AT
    if (pace := adaptive(operation)) is not None:
        moment = now.timestamp()
        pace = pace.observe(len(ended), sum(failed), sum(attempt.duration or 0.0 for attempt in ended))
        pace = pacing.adjust(pace, moment)
        is_silent = moment < pace.silent_until <= moment + pacing.SILENCE
        may_call = _take_care(operation, now, is_silent=is_silent)
        room = pacing.may_queue(pace, out) if may_call and not is_silent else 0
        state["auto"], operation.rate = asdict(pace), pace.rate
    operation.pace = state
    return Look(out, room)


def note_failures(operation: Operation, count: int) -> None:
    """Count messages on which the operation failed to act as failed calls."""
    state = operation.pace or {}
    operation.pace = state | {"latest": (state.get("latest", "") + "1" * count)[-pacing.LATEST :]}


def _acted_on(operation: Operation, mark: int) -> list[_Acted]:
    if operation.kind == Kind.REPLAY:
        made = Message.objects.filter(operation_id=operation.pk, pk__gt=mark).order_by("pk")
        rows: Any = ((pk, pk, at) for pk, at in made.values_list("pk", "created_at")[:LOOKED_AT])
    else:
        done = operation.items.filter(outcome=ItemOutcome.SUCCEEDED, pk__gt=mark).order_by("pk")
        rows = done.values_list("pk", "message_id", "done_at")[:LOOKED_AT]
    return [_Acted(*row) for row in rows]


def _first_attempts(acted: Sequence[_Acted], *, is_any: bool) -> dict[int, Attempt]:
    """Return the first attempt of each message after the operation acted on it."""
    since = {one.message_id: one.at for one in acted}
    if not since:
        return {}
    found = Attempt.objects.filter(message_id__any=list(since)).order_by("-pk")
    first: dict[int, Attempt] = {}
    for attempt in found.only("message_id", "outcome", "duration", "started_at"):
        message_id = attempt.message_id or 0
        if is_any or attempt.started_at >= since[message_id]:
            first[message_id] = attempt
    return first


def _take_care(operation: Operation, now: datetime, *, is_silent: bool) -> bool:
    """Let claims leave the breakers room; see delivery/admission.py. Return whether all breakers are closed.

    After a silence one call is allowed again even if it may open the breaker: without a call, nothing would tell that
    the receiver is well.
    """
    ids = [int(pk) for pk in operation.estimate.get("services", {})][:SERVICES]
    runtimes = list(Runtime.objects.filter(pk__in=ids).only("state", "consecutive", "careful_until"))
    policies = {service.pk: service.breaker_policy for service in Service.objects.filter(pk__in=ids).only("breaker")}
    for runtime in runtimes:
        if (policy := policies.get(runtime.pk)) is None:  # the service has just been deleted
            continue
        opens_after = policy.consecutive_failures
        is_stuck = not is_silent and 0 < opens_after <= runtime.consecutive + 1
        until = None if is_stuck else now + CAREFUL_FOR
        is_fresh = runtime.careful_until is not None and runtime.careful_until > now + CAREFUL_FOR / 2
        if (until is None) != (runtime.careful_until is None) or (until and not is_fresh):
            Runtime.objects.filter(pk=runtime.pk).update(careful_until=until)
    return all(runtime.state == "closed" for runtime in runtimes)


def adaptive(operation: Operation) -> pacing.Pace | None:
    """Return the state of the adaptive pace; None if a person set the rate."""
    state = (operation.pace or {}).get("auto")
    return None if state is None else pacing.Pace(**state)


def begin(now: datetime) -> dict[str, Any]:
    """Return the ``pace`` of an operation that paces itself from now on."""
    return {"auto": asdict(pacing.Pace(since=now.timestamp(), changed_at=now.timestamp()))}


def changed_at(pace: pacing.Pace) -> datetime:
    return datetime.fromtimestamp(pace.changed_at, UTC)
