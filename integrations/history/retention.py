"""Takes away what is older than an admin wants it kept: a slice once a second, by any worker.

What may go is found without an index of its own, which every delivery would have to write. Ids ascend with acceptance,
and nothing is finished before it was accepted: so a walk by the primary key, a few hundred messages a step, comes by
all that may go before it meets the first that was accepted too late, and ends there. It passes over what has to stay
and keeps its place in the ``Retention`` row, so that it looks at nothing twice; when nothing is left to do it rests,
and then begins anew. Events and audit entries are taken from the oldest on, calls without a message by the index of
just them.

A step is one short transaction under the lock of that row, taken only where it is free and still says what the step
was decided by. So two workers never delete the same, nothing goes by a bound that was changed meanwhile, and a stop
loses one step. Messages that somebody holds right now are passed over; nothing here waits for a delivery.
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
from django.db.models import OuterRef, Subquery

from integrations.history import event_stream
from integrations.logs import line
from integrations.models import (
    Attempt,
    AuditEntry,
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
SLICE = 0.1  # seconds of a worker's upkeep; on SQLite its claims wait meanwhile
REST = timedelta(minutes=10)  # after all that may go has gone
LOOKED_AT = 5_000  # items of an operation at once
PREVIEWED = 10_000  # rows that a preview looks at


class Busy(Exception):
    """Another worker is at it, or the decision has changed meanwhile."""


# ---- what an admin decides ------------------------------------------------------------------------------------------
def change(given: dict[str, int | None], *, actor: str) -> Retention:
    """Keeps history for another while from now on; the workers begin at once. ``given``: days by field."""
    Retention.objects.current()
    with transaction.atomic():
        kept = Retention.objects.select_for_update().get(pk=1)
        before = kept.periods
        for name, days in given.items():
            setattr(kept, name, days)
        if kept.periods != before:
            kept.walked_to, kept.rests_until = 0, database_now()
            kept.save()
            AuditEntry.objects.record(actor, "retention.changed", "retention", before=before, after=kept.periods)
    return kept


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """What would go at once by another decision, as far as one looks: among the oldest PREVIEWED of each."""

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
    """When the oldest message that is still there was accepted."""
    return Message.objects.order_by("pk").values_list("created_at", flat=True).first()


def explain_missing() -> str:
    """What to say of a message that is not there."""
    days = Retention.objects.current().messages_days
    if days is None:
        return "It never was: messages are kept for ever, unless their service is deleted."
    return f"It never was, or is no longer kept: finished messages are kept for {in_days(days)}."


def in_days(days: int | None) -> str:
    return "ever" if days is None else f"{days} day{'' if days == 1 else 's'}"


def delete_history_of(service: Service) -> None:
    """Takes away the finished messages and the calls of a service that is about to go, in steps of their own: to
    delete it with millions of them would read all into memory, under the lock that its claims need. What somebody
    holds is left. A stop in the middle leaves the service with less history."""
    finished = Message.objects.for_service(service).exclude(finished_at=None)
    for ids in _newest_first(finished):
        with transaction.atomic():
            delete_messages(_locked(ids))
    for ids in _newest_first(Attempt.objects.without_message().filter(service=service)):
        Attempt.objects.filter(pk__any=ids).delete()


def _newest_first(found: models.QuerySet[Any]) -> Iterator[list[int]]:
    """The ids in steps, each looked for behind the last, whatever becomes of them."""
    below = None
    while True:
        older = found if below is None else found.filter(pk__lt=below)
        if not (ids := list(older.order_by("-pk").values_list("pk", flat=True)[:STEP])):
            return
        below = ids[-1]
        yield ids


# ---- what the workers do --------------------------------------------------------------------------------------------
def advance() -> None:
    """A slice of what there is to do, and a rest when nothing is left."""
    if Retention.objects.current().rests_until > (now := database_now()):
        return
    steps, end = list(STEPS), time.monotonic() + SLICE
    try:
        while steps and time.monotonic() < end:
            steps = [step for step in steps if step(Retention.objects.current(), now)]
    except Busy:
        return
    except (OperationalError, InterfaceError) as error:  # the database is away or busy: in a second
        log.warning(line("retention", error=str(error).partition("\n")[0]))
        return
    except Exception:  # a bug; it must not keep the workers from their messages
        log.exception(line("retention"))
        steps = []
    if not steps:
        Retention.objects.filter(rests_until__lte=now).update(rests_until=now + REST, walked_to=0)


@contextmanager
def _alone(kept: Retention) -> Iterator[Retention]:
    """A transaction in which nobody else deletes or decides. Raises Busy."""
    with transaction.atomic():
        same = {**kept.periods, "walked_to": kept.walked_to, "operation_id": kept.operation_id}
        locked = Retention.objects.select_for_update(skip_locked=True).filter(pk=kept.pk, **same).first()
        if locked is None:
            raise Busy
        yield locked


# ---- messages -------------------------------------------------------------------------------------------------------
def _messages_and_operations(kept: Retention, now: datetime) -> bool:
    """Operations come after the messages that they name."""
    return _messages(kept, now) or _operations(kept, now)


def _messages(kept: Retention, now: datetime) -> bool:
    """The next messages of the walk; True where more may follow."""
    if (before := kept.messages_before(now)) is None:
        return False
    window = _window(kept.walked_to)
    if not window:
        return False
    old = [pk for pk, _, finished in window if finished and finished < before]
    with _alone(kept) as locked:
        if old:
            delete_messages(_free(old))
        locked.walked_to, accepted, _ = window[-1]
        locked.save(update_fields=["walked_to"])
    return accepted < before


def _window(after: int) -> list[tuple[int, datetime, datetime | None]]:
    """The next messages by id: when each was accepted and finished."""
    following = Message.objects.filter(pk__gt=after).order_by("pk")
    return list(following.values_list("pk", "created_at", "finished_at")[:STEP])


def _free(ids: Sequence[int]) -> list[int]:
    """Those of ``ids`` that nobody needs, locked: no open operation names them."""
    if under_way := list(Operation.objects.filter(finished_at=None).values_list("pk", flat=True)):
        items = Item.objects.filter(operation_id__any=under_way, message_id__any=ids)
        named = set(items.values_list("message_id", flat=True))
        ids = [pk for pk in ids if pk not in named]
    return _locked(ids)


def _locked(ids: Sequence[int]) -> list[int]:
    """Those that are free, and have no unfinished replay: to change it here could wait for its delivery."""
    unfinished = Message.objects.filter(replay_of__any=ids, finished_at=None)
    needed = set(unfinished.values_list("replay_of_id", flat=True))
    free = Message.objects.filter(pk__any=[pk for pk in ids if pk not in needed]).order_by("pk")
    return list(free.select_for_update(skip_locked=True).values_list("pk", flat=True))


# ---- operations -----------------------------------------------------------------------------------------------------
def _operations(kept: Retention, now: datetime) -> bool:
    """The next items of an operation that is going, or the next operation that may go: one that ended long ago, and
    names no message that is still there."""
    if kept.operation_id is not None:
        return _delete_items(kept, kept.operation_id)
    if (before := kept.messages_before(now)) is None:
        return False
    ended = Operation.objects.filter(finished_at__lt=before).order_by("finished_at")
    going = next((pk for pk in ended.values_list("pk", flat=True) if not _names_any(pk)), None)
    if going is None:
        return False
    with _alone(kept) as locked:
        # Started meanwhile, it is not found; and from here on a dry run cannot be started.
        locked_ended = ended.select_for_update().filter(pk=going)
        if locked_ended.first() is not None:
            ended.filter(pk=going, dry_run=True, state=State.FINISHED).update(state=State.CANCELLED)
            locked.operation_id = going
            locked.save(update_fields=["operation_id"])
    return True


def _names_any(operation_id: int) -> bool:
    """Whether a message that it names is still there; the newest are the likeliest."""
    items, below = Item.objects.filter(operation_id=operation_id).order_by("-pk"), None
    while True:
        older = items if below is None else items.filter(pk__lt=below)
        named = list(older.values_list("pk", "message_id")[:LOOKED_AT])
        if not named:
            return False
        if Message.objects.filter(pk__any=[message_id for _, message_id in named]).order_by("pk").first() is not None:
            return True
        below = named[-1][0]


def _delete_items(kept: Retention, operation_id: int) -> bool:
    with _alone(kept) as locked:
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
def _calls(kept: Retention, now: datetime) -> bool:
    """Calls without a message: process, lab and health checks, of one service at a time."""
    if (before := kept.messages_before(now)) is None:
        return False
    calls = Attempt.objects.without_message()
    oldest = calls.filter(service=OuterRef("pk")).order_by("pk").values("started_at")[:1]
    service = Service.objects.order_by("pk").annotate(oldest=Subquery(oldest)).filter(oldest__lt=before)
    if (service_id := service.values_list("pk", flat=True).first()) is None:
        return False
    _delete_oldest(kept, calls.filter(service_id=service_id), "started_at", before)
    return True


def _events(kept: Retention, now: datetime) -> bool:
    if (before := kept.messages_before(now)) is None:
        return False
    with _alone(kept):
        return event_stream.prune_history(before, STEP) == STEP


def _audit(kept: Retention, now: datetime) -> bool:
    before = kept.audit_before(now)
    return before is not None and _delete_oldest(kept, AuditEntry.objects.all(), "at", before)


def _workers(kept: Retention, now: datetime) -> bool:
    stopped = Worker.objects.exclude(stopped_at=None)  # few: a machine has some lanes, each lives for days
    return _delete_oldest(kept, stopped, "stopped_at", now - WORKERS_KEPT)


def _delete_oldest(kept: Retention, found: models.QuerySet[Any], moment: str, before: datetime) -> bool:
    """Of the first rows by id those that are too old; True where more may follow."""
    first = list(found.order_by("pk").values_list("pk", moment)[:STEP])
    old = [pk for pk, at in first if at < before]
    if old:
        with _alone(kept):
            found.model._default_manager.filter(pk__any=old).delete()
    return len(old) == STEP


STEPS: tuple[Callable[[Retention, datetime], bool], ...] = (
    _messages_and_operations,
    _calls,
    _events,
    _audit,
    _workers,
)
