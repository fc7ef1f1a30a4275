"""The event stream in the database: events, numbered in an order in which every process can resume.

On PostgreSQL a sequence hands out ids before the commit, so a reader that has seen id 8 can still meet a later 7. So an
event gets its position *after* the commit: each process that follows the stream numbers the committed events that have
no position yet, under the lock of the one ``Feed`` row. Positions have no gaps, none appears behind a reader, a long
transaction delays no reader, and both databases behave the same. (The alternative, to show only rows below
``pg_snapshot_xmin``, needs a column too, and stops the stream while any transaction of the whole server is open.)

A message has no row for each of its changes. Once a second the stream counts ``messages.changed`` from counters that
exist anyway: the difference between two readings of the tallies (calls, delivered, dead), the new messages, and the few
messages that an operator cancelled. The count is stored as an event and numbered like every other, so that clients
resume from it exactly. This runs only while a subscriber follows: ``advance`` catches up with at most ``RETENTION``.
Workers delete older counts by ``prune``, with or without a subscriber.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import models, transaction
from django.utils.dateparse import parse_datetime

from integrations.models import (
    MESSAGES_CHANGED,
    MESSAGES_ENDED,
    Event,
    Feed,
    Message,
    Status,
    Tally,
    database_now,
    identifiers,
)

RETENTION = timedelta(hours=1)
COUNT_EVERY = timedelta(seconds=1)
SAVE_EVERY = timedelta(minutes=10)  # also without a change, so that the next count starts from a recent reading

LATE = timedelta(minutes=2)  # a settlement counts for the minute in which it began
GAP_WAIT = timedelta(minutes=1)  # for a skipped message id: its transaction may commit after later ids
NEW_LIMIT = 20_000  # new messages that are read one by one; there are more only when the last count is long ago
NUMBERED_AT_ONCE = 5_000  # events
PRUNED_AT_ONCE = 1_000  # events in one statement, so that no writer waits for long
PRUNED_IN_A_ROW = 20  # such statements; the next call, half a minute later, deletes the rest


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One event with its position in the stream."""

    position: int
    type: str
    at: datetime
    service: str | None
    subject: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recount:
    """The changes by service since the last reading of the counters, and the new reading."""

    changes: dict[int, Counter[str]]
    ended: list[int]  # the events of cancelled messages that are counted in
    readings: dict[str, Any]


def advance() -> Feed:
    """Number the events that were committed since the last call, and count once a second. Returns the ``Feed`` row,
    which tells how far the stream goes."""
    now = database_now()
    feed, _ = Feed.objects.get_or_create(pk=1)
    if feed.counted_at is None or now - feed.counted_at > RETENTION:
        return _skip_backlog(now)
    activity, since = Event.objects.activity(_counted_from(feed.counted_at)), now - feed.counted_at
    recount = None
    if since >= SAVE_EVERY or (since >= COUNT_EVERY and activity.differs_from(feed.readings)):
        recount = _recount(feed.readings, feed.counted_at, now)
    if not (activity.is_unnumbered or (recount and recount.changes) or since >= SAVE_EVERY):
        return feed
    with transaction.atomic():
        locked = Feed.objects.select_for_update().get(pk=feed.pk)
        if recount and locked.counted_at == feed.counted_at:  # else another process has counted in the same moment
            _write(recount, now)
            locked.readings, locked.counted_at = recount.readings, now
        locked.position += Event.objects.number_after(locked.position, NUMBERED_AT_ONCE)
        locked.save()
    return locked


def events_after(position: int, limit: int = 1000) -> list[StreamedEvent]:
    """The events after a position, in order."""
    following = Event.objects.filter(position__gt=position).order_by("position")
    columns = following.values_list("position", "type", "at", "service__name", "subject", "facts")
    return [StreamedEvent(*row) for row in columns[:limit]]  # type: ignore[arg-type]


def prune() -> int:
    """Delete the counts from which no client can resume any more; returns their number. Other events are history:
    integrations/history/retention.py deletes them with the rest of it."""
    before, pruned = database_now() - RETENTION, 0
    for type_ in (MESSAGES_CHANGED, MESSAGES_ENDED):
        for _ in range(PRUNED_IN_A_ROW):
            count = _prune_oldest(Event.objects.filter(type=type_), before, PRUNED_AT_ONCE)
            pruned += count
            if count < PRUNED_AT_ONCE:
                break
    return pruned


def prune_history(before: datetime, limit: int) -> int:
    """Delete the oldest events of any kind, at most ``limit``; returns their number."""
    return _prune_oldest(Event.objects.all(), before, limit)


def _prune_oldest(events: models.QuerySet[Event], before: datetime, limit: int) -> int:
    """Delete, and raise the feed's floor: a client that resumes from below it gets ``reset``."""
    with transaction.atomic():
        oldest = events.order_by("pk").values_list("pk", "at", "position")[:limit]
        old = {pk: position or 0 for pk, at, position in oldest if at < before}
        if old:
            last = max(old.values())
            Feed.objects.filter(floor__lt=last).update(floor=last)
            Event.objects.filter(pk__any=old).delete()
    return len(old)


def message_states(ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """The present state of these messages, by id, in one query."""
    followed = Message.objects.filter(pk__any=list(ids)).values_list(
        "pk", "nonce", "service__name", "status", "attempts", "due_at", "dead_reason"
    )
    return {
        pk: {
            "service": service,
            "id": identifiers.public_id("msg", pk, nonce),
            "status": status,
            "attempts": attempts,
            "next_attempt_at": due_at if status == Status.PENDING else None,
            "dead_reason": dead_reason or None,
        }
        for pk, nonce, service, status, attempts, due_at, dead_reason in followed
    }


# ---- positions ------------------------------------------------------------------------------------------------------
def _skip_backlog(now: datetime) -> Feed:
    """No subscriber for an hour: leave the older events out of the stream; a client that resumes from before gets
    ``reset``."""
    with transaction.atomic():
        feed = Feed.objects.select_for_update().get(pk=1)
        if feed.counted_at is None or now - feed.counted_at > RETENTION:
            Event.objects.filter(type=MESSAGES_ENDED).delete()
            Event.objects.to_number().filter(at__lt=now - RETENTION).update(position=0)
            newest = Message.objects.aggregate(newest=models.Max("pk"))["newest"] or 0
            feed.readings = {"message": newest, "skipped": {}, "tallies": _tallies(now)}
            feed.floor = feed.position = feed.position + 1
            feed.counted_at = now
            feed.position += Event.objects.number_after(feed.position, NUMBERED_AT_ONCE)
            feed.save()
    return feed


# ---- counts ---------------------------------------------------------------------------------------------------------
def _recount(readings: dict[str, Any], counted_at: datetime, now: datetime) -> Recount:
    changes: dict[int, Counter[str]] = defaultdict(Counter)
    tallies = _tallies(counted_at)
    for key, reading in tallies.items():
        before = readings["tallies"].get(key, (0, 0, 0))
        for name, count, earlier in zip(("calls", "delivered", "dead"), reading, before, strict=True):
            changes[int(key.partition(" ")[0])][name] += count - earlier
    message, skipped = _count_new(changes, readings["message"], readings["skipped"], now)
    ended = list(Event.objects.to_count().values_list("pk", "service_id", "facts"))
    for _, service_id, facts in ended:
        changes[service_id].update(facts)
    first_minute = _minute(now - LATE)
    recent = {key: reading for key, reading in tallies.items() if key.partition(" ")[2] >= first_minute}
    return Recount(
        {service_id: +counter for service_id, counter in changes.items() if +counter},
        [pk for pk, *_ in ended],
        {"message": message, "skipped": skipped, "tallies": recent},
    )


def _tallies(counted_at: datetime) -> dict[str, list[int]]:
    """The tallies that can have changed since then, by service and minute."""
    changed = Tally.objects.filter(start__gte=_counted_from(counted_at))
    columns = changed.values_list("service_id", "start", "calls", "delivered", "dead")
    return {f"{service_id} {_minute(minute)}": counters for service_id, minute, *counters in columns}


def _counted_from(counted_at: datetime) -> datetime:
    """The first minute whose tallies can have changed since then."""
    return (counted_at - LATE).replace(second=0, microsecond=0)


def _minute(moment: datetime) -> str:
    return f"{moment:%FT%H:%M}"


def _count_new(
    changes: dict[int, Counter[str]], last: int, skipped: dict[str, str], now: datetime
) -> tuple[int, dict[str, str]]:
    """Count the messages that were accepted after ``last``. Returns the new last id, and the skipped ids with the
    time of their discovery."""
    new = Message.objects.filter(pk__gt=last)
    listed = list(new.order_by("pk").values_list("pk", "service_id")[: NEW_LIMIT + 1])
    if len(listed) > NEW_LIMIT:
        for service_id, count, newest in new.values_list("service_id").annotate(models.Count("pk"), models.Max("pk")):
            changes[service_id]["pending"] += count
            last = max(last, newest)
        return last, {}
    if skipped:
        listed += Message.objects.filter(pk__any=[int(pk) for pk in skipped]).values_list("pk", "service_id")
    for _, service_id in listed:
        changes[service_id]["pending"] += 1
    seen = {pk for pk, _ in listed}
    newest = max(last, max(seen, default=last))
    missing = [pk for pk in range(last + 1, newest) if pk not in seen] if newest - last <= 2 * NEW_LIMIT else []
    still = {pk: moment for pk, moment in skipped.items() if int(pk) not in seen and _is_recent(moment, now)}
    return newest, dict.fromkeys(map(str, missing), now.isoformat()) | still


def _is_recent(moment: str, now: datetime) -> bool:
    parsed = parse_datetime(moment)
    return parsed is not None and now - parsed < GAP_WAIT


def _write(recount: Recount, now: datetime) -> None:
    """Store one event for each service."""
    Event.objects.filter(pk__any=recount.ended).delete()
    Event.objects.bulk_create(
        Event(type=MESSAGES_CHANGED, at=now, service_id=service_id, facts=_facts(counter))
        for service_id, counter in sorted(recount.changes.items())
    )


def _facts(counter: Counter[str]) -> dict[str, Any]:
    by_status = {status.value: counter[status.value] for status in Status if counter[status.value]}
    return {"counts": by_status, "calls": counter["calls"]}
