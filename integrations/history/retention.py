"""Delete history that is older than an admin wants to keep it: a slice once a second, by any worker.

Expired messages are found without an index of their own, which every delivery would have to write. Ids ascend with
acceptance, and no message finishes before it is accepted: so a walk by the primary key, a few hundred messages a step,
passes every expired message before it meets the first that was accepted too late, and ends there. It skips messages
that have to stay, and stores its position in the ``Retention`` row, so that it reads no message twice. When nothing is
left to delete it rests, and then starts again. Events and audit entries are deleted from the oldest on, calls without a
message by their own index.

A step is one short transaction under the lock of that row. It takes the lock only if the lock is free and the row still
has the values that the step was decided by. So two workers never delete the same rows, no row is deleted by a setting
that was changed in between, and a stop loses one step. Locked messages are skipped; nothing here waits for a delivery.

After a leap of the database's clock nothing is deleted until a day of steady time has passed (policies/clocks.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import InterfaceError, OperationalError, models, transaction
from django.db.models import OuterRef, Q, Subquery

from integrations.history import event_stream
from integrations.logs import line
from integrations.models import (
    Attempt,
    AuditEntry,
    Installation,
    Item,
    Message,
    Operation,
    Retention,
    Service,
    Worker,
    database_now,
)
from integrations.models.operation import State
from integrations.models.retention import WORKERS_KEPT, delete_messages

log = logging.getLogger("switchboard.retention")

STEP = 200  # rows in one step: SQLite's one writer is held for some 10 ms
SLICE = 0.1  # seconds of a worker's housekeeping; on SQLite its claims wait that long
REST = timedelta(minutes=10)  # after all expired rows are deleted
ITEMS_READ = 5_000  # items of an operation at once
PREVIEWED = 10_000  # rows that a preview reads


class Busy(Exception):
    """Another worker holds the lock, or the row has changed since the step was decided."""


# ---- for admins -----------------------------------------------------------------------------------------------------
def change(days: dict[str, int | None], *, actor: str) -> Retention:
    """Change how long history is kept; the workers start at once. ``days``: numbers of days by field."""
    Retention.objects.current()
    with transaction.atomic():
        retention = Retention.objects.select_for_update().get(pk=1)
        before = retention.periods
        for name, value in days.items():
            setattr(retention, name, value)
        if retention.periods != before:
            retention.walked_to, retention.rests_until = 0, database_now()
            retention.save()
            AuditEntry.objects.record(actor, "retention.changed", "retention", before=before, after=retention.periods)
    return retention


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """The numbers of rows that other settings would delete at once, among the oldest PREVIEWED of each kind."""

    messages: int
    audit_entries: int


def preview_deletion(messages_days: int | None, audit_days: int | None) -> DeletionPreview:
    finished = Message.objects.order_by("pk").values_list("finished_at", flat=True)
    written = AuditEntry.objects.order_by("pk").values_list("at", flat=True)
    return DeletionPreview(_older(finished, messages_days), _older(written, audit_days))


def _older(moments: models.QuerySet[Any, Any], days: int | None) -> int:
    if days is None:
        return 0
    before = database_now() - timedelta(days=days)
    return sum(1 for moment in moments[:PREVIEWED] if moment and moment < before)


def oldest_message_at() -> datetime | None:
    """The acceptance time of the oldest message."""
    return Message.objects.order_by("pk").values_list("created_at", flat=True).first()


def explain_missing() -> str:
    """A sentence for a message that is not found."""
    days = Retention.objects.current().messages_days
    if days is None:
        return "It never existed: messages are kept forever, unless their service is deleted."
    return f"It never existed, or is no longer kept: finished messages are kept {for_days(days)}."


def for_days(days: int | None) -> str:
    return "forever" if days is None else f"for {days} day{'' if days == 1 else 's'}"


def delete_history_of(service: Service) -> None:
    """Delete the finished messages and the calls of a service before the service itself, in steps of their own: to
    delete it with millions of them would read all into memory, under the lock that its claims need. Locked messages
    are left. A stop in the middle leaves the service with less history."""
    finished = Message.objects.for_service(service).exclude(finished_at=None)
    for ids in _newest_first(finished):
        with transaction.atomic():
            delete_messages(lock_deletable(ids))
    for ids in _newest_first(Attempt.objects.without_message().filter(service=service)):
        Attempt.objects.filter(pk__any=ids).delete()


def _newest_first(found: models.QuerySet[Any]) -> Iterator[list[int]]:
    """The ids in steps, each read below the last, whether or not the caller deletes them."""
    below = None
    while True:
        older = found if below is None else found.filter(pk__lt=below)
        if not (ids := list(older.order_by("-pk").values_list("pk", flat=True)[:STEP])):
            return
        below = ids[-1]
        yield ids


# ---- for workers ----------------------------------------------------------------------------------------------------
def advance() -> None:
    """Delete for a slice of time, and rest when nothing is left."""
    rests_until, now = Retention.objects.current().rests_until, database_now()
    # A rest that ends later than one that begins now was begun before the clock moved back.
    if Installation.objects.look_at_clock(now).is_on_hold or now < rests_until <= now + REST:
        return
    steps, end = list(STEPS), time.monotonic() + SLICE
    try:
        while steps and time.monotonic() < end:
            steps = [step for step in steps if step(Retention.objects.current(), now)]
    except Busy:
        return
    except (OperationalError, InterfaceError) as error:  # the database is away or busy: try again in a second
        log.warning(line("retention", error=str(error).partition("\n")[0]))
        return
    except Exception:  # a bug; it must not keep the workers from their messages
        log.exception(line("retention"))
        steps = []
    if not steps:
        resting = Q(rests_until__gt=now, rests_until__lte=now + REST)
        Retention.objects.exclude(resting).update(rests_until=now + REST, walked_to=0)


@contextmanager
def _locked_unchanged(retention: Retention) -> Iterator[Retention]:
    """Open a transaction in which no other worker deletes and no admin changes the settings. Raises Busy."""
    with transaction.atomic():
        same = {**retention.periods, "walked_to": retention.walked_to, "operation_id": retention.operation_id}
        locked = Retention.objects.select_for_update(skip_locked=True).filter(pk=retention.pk, **same).first()
        if locked is None:
            raise Busy
        yield locked


# ---- messages -------------------------------------------------------------------------------------------------------
def _messages_and_operations(retention: Retention, now: datetime) -> bool:
    """Delete operations after the messages that they name."""
    return _messages(retention, now) or _operations(retention, now)


def _messages(retention: Retention, now: datetime) -> bool:
    """Delete the next messages of the walk; True if more may follow."""
    if (before := retention.messages_before(now)) is None:
        return False
    window = _window(retention.walked_to)
    if not window:
        return False
    old = [pk for pk, _, finished in window if finished and finished < before]
    with _locked_unchanged(retention) as locked:
        if old:
            delete_messages(_free(old))
        locked.walked_to, accepted, _ = window[-1]
        locked.save(update_fields=["walked_to"])
    return accepted < before


def _window(after: int) -> list[tuple[int, datetime, datetime | None]]:
    """The next messages by id, with the times of acceptance and end."""
    following = Message.objects.filter(pk__gt=after).order_by("pk")
    return list(following.values_list("pk", "created_at", "finished_at")[:STEP])


def _free(ids: Sequence[int]) -> list[int]:
    """Lock those of ``ids`` that no open operation names."""
    if under_way := list(Operation.objects.filter(finished_at=None).values_list("pk", flat=True)):
        items = Item.objects.filter(operation_id__any=under_way, message_id__any=ids)
        named = set(items.values_list("message_id", flat=True))
        ids = [pk for pk in ids if pk not in named]
    return lock_deletable(ids)


def lock_deletable(ids: Sequence[int]) -> list[int]:
    """Lock those that are free and have no unfinished replay, since changing the replay could wait for its delivery."""
    unfinished = Message.objects.filter(replay_of__any=ids, finished_at=None)
    needed = set(unfinished.values_list("replay_of_id", flat=True))
    free = Message.objects.filter(pk__any=[pk for pk in ids if pk not in needed]).order_by("pk")
    return list(free.select_for_update(skip_locked=True).values_list("pk", flat=True))


# ---- operations -----------------------------------------------------------------------------------------------------
def _operations(retention: Retention, now: datetime) -> bool:
    """Delete the next items of the operation that is being deleted, or choose the next expired operation: one that
    ended long ago and names no message that still exists."""
    if retention.operation_id is not None:
        return _delete_items(retention, retention.operation_id)
    if (before := retention.messages_before(now)) is None:
        return False
    ended = Operation.objects.filter(finished_at__lt=before).order_by("finished_at")
    expired = next((pk for pk in ended.values_list("pk", flat=True) if not _names_any(pk)), None)
    if expired is None:
        return False
    with _locked_unchanged(retention) as locked:
        # If it was started in between, it is not found; from here on a dry run cannot be started.
        locked_ended = ended.select_for_update().filter(pk=expired)
        if locked_ended.first() is not None:
            ended.filter(pk=expired, dry_run=True, state=State.FINISHED).update(state=State.CANCELLED)
            locked.operation_id = expired
            locked.save(update_fields=["operation_id"])
    return True


def _names_any(operation_id: int) -> bool:
    """Whether a message that it names still exists; the newest are the likeliest."""
    items, below = Item.objects.filter(operation_id=operation_id).order_by("-pk"), None
    while True:
        older = items if below is None else items.filter(pk__lt=below)
        named = list(older.values_list("pk", "message_id")[:ITEMS_READ])
        if not named:
            return False
        if Message.objects.filter(pk__any=[message_id for _, message_id in named]).order_by("pk").first() is not None:
            return True
        below = named[-1][0]


def _delete_items(retention: Retention, operation_id: int) -> bool:
    with _locked_unchanged(retention) as locked:
        items = Item.objects.filter(operation_id=operation_id).order_by("pk")
        ids = list(items.values_list("pk", flat=True)[:STEP])
        if ids:
            Item.objects.filter(pk__any=ids).delete()
        else:
            Operation.objects.filter(pk=operation_id).delete()
            locked.operation_id = None
            locked.save(update_fields=["operation_id"])
    return True


# ---- the rest of history --------------------------------------------------------------------------------------------
def _calls(retention: Retention, now: datetime) -> bool:
    """Delete calls without a message: process, lab and health checks, of one service at a time."""
    if (before := retention.messages_before(now)) is None:
        return False
    calls = Attempt.objects.without_message()
    oldest = calls.filter(service=OuterRef("pk")).order_by("pk").values("started_at")[:1]
    service = Service.objects.order_by("pk").annotate(oldest=Subquery(oldest)).filter(oldest__lt=before)
    if (service_id := service.values_list("pk", flat=True).first()) is None:
        return False
    _delete_oldest(retention, calls.filter(service_id=service_id), "started_at", before)
    return True


def _events(retention: Retention, now: datetime) -> bool:
    if (before := retention.messages_before(now)) is None:
        return False
    with _locked_unchanged(retention):
        return event_stream.prune_history(before, STEP) == STEP


def _audit(retention: Retention, now: datetime) -> bool:
    before = retention.audit_before(now)
    return before is not None and _delete_oldest(retention, AuditEntry.objects.all(), "at", before)


def _workers(retention: Retention, now: datetime) -> bool:
    stopped = Worker.objects.exclude(stopped_at=None)  # few: a machine has some lanes, each lives for days
    return _delete_oldest(retention, stopped, "stopped_at", now - WORKERS_KEPT)


def _delete_oldest(retention: Retention, found: models.QuerySet[Any], moment: str, before: datetime) -> bool:
    """Delete the rows that are too old among the first by id; True if more may follow."""
    first = list(found.order_by("pk").values_list("pk", moment)[:STEP])
    old = [pk for pk, at in first if at < before]
    if old:
        with _locked_unchanged(retention):
            found.model._default_manager.filter(pk__any=old).delete()
    return len(old) == STEP


STEPS: tuple[Callable[[Retention, datetime], bool], ...] = (
    _messages_and_operations,
    _calls,
    _events,
    _audit,
    _workers,
)
