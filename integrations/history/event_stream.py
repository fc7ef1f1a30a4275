"""The event stream as the database has it: what happened, numbered in an order that every process can resume in.

A sequence on PostgreSQL hands out ids before the commit, so a reader that has seen id 8 can still be surprised by 7.
Here a position is given *after* the commit: whoever follows the stream numbers what has none yet, under the lock of
the one ``Feed`` row. So positions have no gaps, none ever appears behind a reader, a transaction that is open for long
delays nobody, and both databases do the same. (The other way, to show only rows below ``pg_snapshot_xmin``, needs a
column as well and stops the stream while any transaction of the whole server is open.)

There is no row for each change of a message. ``messages.changed`` is counted once a second, from counters that are
kept anyway: the difference between two readings of the tallies (calls, delivered, dead), the messages that are new,
and the few that somebody cancelled. It is written as an event, numbered like all others, so that it is resumed as
exactly. All that happens only while somebody follows: ``advance`` catches up with at most ``RETENTION``, and what is
older is taken away by the workers' ``forget``, whether somebody follows or not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, models, transaction
from django.utils.dateparse import parse_datetime

from integrations.models import Event, Feed, Message, Status, Tally, database_now, identifiers, sql

RETENTION = timedelta(hours=1)
COUNT_EVERY = timedelta(seconds=1)
NOTE_EVERY = timedelta(minutes=10)  # that nothing was to be counted
CHANGED = "messages.changed"
ENDED = "messages.ended"  # cancelled; waits to be counted and is never told by itself

LATE = timedelta(minutes=2)  # a settlement counts for the minute in which it began
LOOKED_FOR = timedelta(minutes=1)  # a message's id that was skipped: its transaction may commit after later ones
LISTED = 20_000  # new messages; where there are more, nobody has followed for a while
NUMBERED = 5_000  # events at once
FORGOTTEN = 1_000  # events in one statement, so that no writer waits for long
FORGOTTEN_IN_A_ROW = 20  # such statements; what is left then goes half a minute later


@dataclass(frozen=True, slots=True)
class Entry:
    """One event with its place in the stream."""

    position: int
    type: str
    at: datetime
    service: str | None
    subject: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What one glance tells: it is taken twice a second while somebody follows, and mostly nothing has happened."""

    newest: int  # message
    tallied: int  # the sum of all counters that can have changed
    has_ended: bool
    is_unnumbered: bool

    def may_count(self, readings: dict[str, Any]) -> bool:
        """Whether counting would find something. Counters only grow, so an equal sum is equal counters."""
        known = sum(sum(counters) for counters in readings["tallies"].values())
        stands = self.newest <= readings["message"] and self.tallied == known
        return not stands or self.has_ended or bool(readings["skipped"])


@dataclass(frozen=True, slots=True)
class Count:
    """What changed, by service, since the last reading of the counters, and this reading."""

    changes: dict[int, Counter[str]]
    ended: list[int]  # the events that have been counted
    readings: dict[str, Any]


def advance() -> Feed:
    """Numbers what was committed since the last time, counts once a second, and answers how far the stream goes."""
    now = database_now()
    feed, _ = Feed.objects.get_or_create(pk=1)
    if feed.counted_at is None or now - feed.counted_at > RETENTION:
        return _begin_anew(now)
    look, since = _look(feed.counted_at), now - feed.counted_at
    counted = None
    if since >= NOTE_EVERY or (since >= COUNT_EVERY and look.may_count(feed.readings)):
        counted = _count(feed.readings, feed.counted_at, now)
    if not (look.is_unnumbered or (counted and counted.changes) or since >= NOTE_EVERY):
        return feed
    with transaction.atomic():
        locked = Feed.objects.select_for_update().get(pk=feed.pk)
        if counted and locked.counted_at == feed.counted_at:  # else another process has counted meanwhile
            _write(counted, now)
            locked.readings, locked.counted_at = counted.readings, now
        locked.position += _number_after(locked.position)
        locked.save()
    return locked


def entries(after: int, limit: int = 1000) -> list[Entry]:
    """What follows a position, in order."""
    following = Event.objects.filter(position__gt=after).order_by("position")
    columns = following.values_list("position", "type", "at", "service__name", "subject", "facts")
    return [Entry(*row) for row in columns[:limit]]  # type: ignore[arg-type]


def forget() -> int:
    """Takes away the counts that nobody can resume from any more; answers how many. Other events are history, and
    go with it: see integrations/history/retention.py."""
    before, forgotten = database_now() - RETENTION, 0
    for type_ in (CHANGED, ENDED):
        for _ in range(FORGOTTEN_IN_A_ROW):
            count = _forget_oldest(Event.objects.filter(type=type_), before, FORGOTTEN)
            forgotten += count
            if count < FORGOTTEN:
                break
    return forgotten


def forget_history(before: datetime, limit: int) -> int:
    """Takes away the oldest events of any kind, at most so many; answers how many."""
    return _forget_oldest(Event.objects.all(), before, limit)


def _forget_oldest(events: models.QuerySet[Event], before: datetime, limit: int) -> int:
    """Whoever comes back from before them is told ``reset``."""
    with transaction.atomic():
        oldest = events.order_by("pk").values_list("pk", "at", "position")[:limit]
        old = {pk: position or 0 for pk, at, position in oldest if at < before}
        if old:
            last = max(old.values())
            Feed.objects.filter(floor__lt=last).update(floor=last)
            Event.objects.filter(pk__any=old).delete()
    return len(old)


def states(ids: Collection[int]) -> dict[int, dict[str, Any]]:
    """How these messages stand, by id, in one query."""
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


# ---- one glance -----------------------------------------------------------------------------------------------------
LOOK = """SELECT (SELECT MAX(id) FROM integrations_message),
    (SELECT SUM(calls + delivered + dead) FROM integrations_tally WHERE start >= %s),
    EXISTS (SELECT 1 FROM integrations_event WHERE position IS NULL AND type = %s),
    EXISTS (SELECT 1 FROM integrations_event WHERE position IS NULL AND type <> %s)"""


def _look(counted_at: datetime) -> Look:
    with connection.cursor() as cursor:
        cursor.execute(LOOK, [sql.moment(_counted_from(counted_at)), ENDED, ENDED])
        newest, tallied, has_ended, is_unnumbered = cursor.fetchone()
    return Look(newest or 0, tallied or 0, bool(has_ended), bool(is_unnumbered))


def _counted_from(counted_at: datetime) -> datetime:
    """The first minute whose tallies can have changed since then."""
    return (counted_at - LATE).replace(second=0, microsecond=0)


# ---- numbers --------------------------------------------------------------------------------------------------------
def _unnumbered() -> Any:
    return Event.objects.filter(position=None).exclude(type=ENDED)


def _number_after(position: int) -> int:
    """Gives positions to what is committed and has none; the caller holds the lock. Answers how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE integrations_event SET position = numbered.position FROM ("
            "SELECT id, %s + ROW_NUMBER() OVER (ORDER BY id) AS position FROM integrations_event "
            "WHERE position IS NULL AND type <> %s ORDER BY id LIMIT %s) AS numbered "
            "WHERE integrations_event.id = numbered.id",
            [position, ENDED, NUMBERED],
        )
        count: int = cursor.rowcount
    return count


def _begin_anew(now: datetime) -> Feed:
    """Nobody has followed for long: what happened meanwhile is history, and who resumes from before is told so."""
    with transaction.atomic():
        feed = Feed.objects.select_for_update().get(pk=1)
        if feed.counted_at is None or now - feed.counted_at > RETENTION:
            Event.objects.filter(type=ENDED).delete()
            _unnumbered().filter(at__lt=now - RETENTION).update(position=0)
            newest = Message.objects.aggregate(newest=models.Max("pk"))["newest"] or 0
            feed.readings = {"message": newest, "skipped": {}, "tallies": _tallies(now)}
            feed.floor = feed.position = feed.position + 1
            feed.counted_at = now
            feed.position += _number_after(feed.position)
            feed.save()
    return feed


# ---- counts ---------------------------------------------------------------------------------------------------------
def _count(readings: dict[str, Any], counted_at: datetime, now: datetime) -> Count:
    changes: dict[int, Counter[str]] = defaultdict(Counter)
    tallies = _tallies(counted_at)
    for key, reading in tallies.items():
        before = readings["tallies"].get(key, (0, 0, 0))
        for name, now_there, were_there in zip(("calls", "delivered", "dead"), reading, before, strict=True):
            changes[int(key.partition(" ")[0])][name] += now_there - were_there
    message, skipped = _count_new(changes, readings["message"], readings["skipped"], now)
    ended = list(Event.objects.filter(position=None, type=ENDED).values_list("pk", "service_id", "facts"))
    for _, service_id, facts in ended:
        changes[service_id].update(facts)
    kept_from = _minute(now - LATE)
    kept = {key: reading for key, reading in tallies.items() if key.partition(" ")[2] >= kept_from}
    return Count(
        {service_id: +counter for service_id, counter in changes.items() if +counter},
        [pk for pk, *_ in ended],
        {"message": message, "skipped": skipped, "tallies": kept},
    )


def _tallies(counted_at: datetime) -> dict[str, list[int]]:
    """The tallies that can have changed since then, by service and minute."""
    changed = Tally.objects.filter(start__gte=_counted_from(counted_at))
    columns = changed.values_list("service_id", "start", "calls", "delivered", "dead")
    return {f"{service_id} {_minute(minute)}": counted for service_id, minute, *counted in columns}


def _minute(moment: datetime) -> str:
    return f"{moment:%FT%H:%M}"


def _count_new(
    changes: dict[int, Counter[str]], last: int, skipped: dict[str, str], now: datetime
) -> tuple[int, dict[str, str]]:
    """Counts the messages that were accepted after ``last``. Answers the new last, and the ids that were skipped."""
    new = Message.objects.filter(pk__gt=last)
    listed = list(new.order_by("pk").values_list("pk", "service_id")[: LISTED + 1])
    if len(listed) > LISTED:
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
    missing = [pk for pk in range(last + 1, newest) if pk not in seen] if newest - last <= 2 * LISTED else []
    still = {pk: moment for pk, moment in skipped.items() if int(pk) not in seen and _is_recent(moment, now)}
    return newest, dict.fromkeys(map(str, missing), now.isoformat()) | still


def _is_recent(moment: str, now: datetime) -> bool:
    parsed = parse_datetime(moment)
    return parsed is not None and now - parsed < LOOKED_FOR


def _write(counted: Count, now: datetime) -> None:
    """One event for each service."""
    Event.objects.filter(pk__any=counted.ended).delete()
    Event.objects.bulk_create(
        Event(type=CHANGED, at=now, service_id=service_id, facts=_told(counter))
        for service_id, counter in sorted(counted.changes.items())
    )


def _told(counter: Counter[str]) -> dict[str, Any]:
    by_status = {status.value: counter[status.value] for status in Status if counter[status.value]}
    return {"counts": by_status, "calls": counter["calls"]}
