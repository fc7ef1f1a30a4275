"""Operations: planned by somebody, done by the workers in small steps.

A step is one transaction under the lock of the operation's row. It takes the next few items, does the act, and writes
what came of each and how far the operation is: so an item is done exactly once, whoever is killed when, and a pause
holds from the next step on. Lock order: the operation, then its messages; a message that somebody else holds is left
for a later step, so no step waits for a delivery.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Count, F, Max, Min, Q

from integrations.errors import Conflict, Invalid
from integrations.logs import line
from integrations.models import AuditEntry, Endpoint, Event, Message, Operation, Priority, Service, Status, database_now
from integrations.models.message import MessageQuerySet
from integrations.models.operation import ACTIVE, ItemOutcome, Kind, State
from integrations.search import grammar, pages

log = logging.getLogger("switchboard.operations")

RATE = 50.0  # messages a second, where nothing else is asked for
SLOWEST = 0.01
RATE_LIMIT = 1000.0
ITEM_LIMIT = 1_000_000
WINDOW = 20_000  # messages looked at in one step of planning
STEP = 100  # items in one step: SQLite's one writer is held for some 10 ms
SLICE = 0.1  # seconds of a worker's upkeep; its claims wait meanwhile
AT_ONCE = 20  # operations that get on in one slice; they take turns
BURST = timedelta(seconds=1)  # how much of its rate an operation may make up for
TELL_EVERY = timedelta(seconds=1)


# ---- what somebody decides -----------------------------------------------------------------------------------------
def plan(kind: Kind, q: str, *, by: str, reason: str = "", rate: float = RATE, dry_run: bool = False) -> Operation:
    """Has the workers freeze what ``q`` finds now and then do the act, ``rate`` messages a second; a dry run only says
    what it would do, until it is started. Raises Invalid."""
    asked = grammar.read(q)
    asked.require("filter")
    if asked.is_empty:
        raise Invalid((("filter",), "say which messages: nothing at all would be every one of them"))
    if not reason and not dry_run:
        raise _no_reason()
    with transaction.atomic():
        operation = Operation.objects.create(
            kind=kind,
            filter=q.strip(),
            reason=reason,
            rate=rate,
            dry_run=dry_run,
            planned_until=Message.objects.aggregate(newest=Max("pk"))["newest"] or 0,
            created_by=by,
        )
        facts = {"kind": operation.kind, "filter": operation.filter, "rate": rate, "dry_run": dry_run}
        AuditEntry.objects.record(by, "operation.planned", operation.public_id, reason=reason, after=facts)
    return operation


def start(operation: Operation, *, by: str, reason: str = "", rate: float | None = None) -> None:
    """Does what a dry run has planned, on the selection that it froze. Raises Conflict, or Invalid without a reason."""
    with transaction.atomic():
        locked = _locked(operation)
        if not locked.may_start:
            raise Conflict(f"it is {_words(locked)}; only a finished dry run can be started")
        locked.reason = reason or locked.reason
        if not locked.reason:
            raise _no_reason()
        locked.rate = rate or locked.rate
        locked.dry_run, locked.finished_at = False, None
        locked.state, locked.started_at = State.RUNNING, database_now()
        _steered(locked, "started", by, {"messages": locked.total, "rate": locked.rate})
    operation.refresh_from_db()


def change(operation: Operation, *, by: str, rate: float | None = None, reason: str = "") -> None:
    """Another pace or reason while it is not over. Raises Conflict."""
    with transaction.atomic():
        locked = _locked(operation)
        if not (locked.is_open or locked.may_start):
            raise Conflict(f"it is {_words(locked)}; nothing of it can be changed any more")
        before = {"rate": locked.rate, "reason": locked.reason}
        locked.rate, locked.reason = rate or locked.rate, reason or locked.reason
        after = {"rate": locked.rate, "reason": locked.reason}
        locked.save(update_fields=["rate", "reason"])
        AuditEntry.objects.record(by, "operation.changed", locked.public_id, before=before, after=after)
    operation.refresh_from_db()


def pause(operation: Operation, *, by: str) -> None:
    """Nothing more is done until it is resumed. Raises Conflict."""
    with transaction.atomic():
        locked = _locked(operation)
        if locked.state not in ACTIVE:
            raise Conflict(f"it is {_words(locked)}; only what is planned or runs can be paused")
        locked.state = State.PAUSED
        _steered(locked, "paused", by)
    operation.refresh_from_db()


def resume(operation: Operation, *, by: str) -> None:
    """Raises Conflict unless it is paused."""
    with transaction.atomic():
        locked = _locked(operation)
        if locked.state != State.PAUSED:
            raise Conflict(f"it is {_words(locked)}; only a paused operation can be resumed")
        locked.state = State.RUNNING if locked.started_at else State.PLANNING
        _steered(locked, "resumed", by)
    operation.refresh_from_db()


def cancel(operation: Operation, *, by: str) -> None:
    """Ends it: what is done stays done, the other items are left alone. Raises Conflict where it is over."""
    with transaction.atomic():
        locked = _locked(operation)
        if not locked.is_open:
            raise Conflict(f"it is {_words(locked)} already")
        _end(locked, State.CANCELLED, database_now())
        AuditEntry.objects.record(by, "operation.cancelled", locked.public_id, after=locked.facts)
    operation.refresh_from_db()


def _locked(operation: Operation) -> Operation:
    return Operation.objects.select_for_update().get(pk=operation.pk)


def _steered(locked: Operation, verb: str, by: str, facts: dict[str, Any] | None = None) -> None:
    locked.save()
    AuditEntry.objects.record(by, f"operation.{verb}", locked.public_id, reason=locked.reason, after=facts)
    _tell(locked, database_now())


def _words(operation: Operation) -> str:
    return "a finished dry run" if operation.may_start else operation.state


def _no_reason() -> Invalid:
    return Invalid((("reason",), "say why: it is kept with what is done"))


def _selected(q: str, now: datetime) -> MessageQuerySet:
    """What a search finds, in all of history; ages count from ``now``. Raises Invalid for what cannot be
    understood."""
    asked = grammar.read(q, now)
    asked.require("filter")
    return pages.selection(asked)


# ---- what the workers do -------------------------------------------------------------------------------------------
def advance() -> None:
    """A slice of every operation that has something to do: once a second, by any worker."""
    waiting = Operation.objects.active().order_by(F("paced_at").asc(nulls_first=True), "pk")
    ids = list(waiting.values_list("pk", flat=True)[:AT_ONCE])
    end = time.monotonic() + SLICE
    while ids and time.monotonic() < end:
        ids = [pk for pk in ids if step(pk)]


def step(pk: int) -> bool:
    """One transaction of an operation; True where the next one may follow at once."""
    try:
        with transaction.atomic():
            # Another worker has it, or it was paused meanwhile: nothing is found.
            operation = Operation.objects.active().select_for_update(skip_locked=True).filter(pk=pk).first()
            if operation is None:
                return False
            now = database_now()
            return _freeze(operation, now) if operation.state == State.PLANNING else _run(operation, now)
    except (OperationalError, InterfaceError) as error:  # the database is away or busy: in a second
        log.warning(line("operation", operation=pk, error=str(error).partition("\n")[0]))
        return False
    except Exception as error:  # a bug; it must not keep the workers from their messages
        log.exception(line("operation", operation=pk))
        with transaction.atomic():
            for operation in Operation.objects.active().select_for_update().filter(pk=pk):
                _end(operation, State.STOPPED, database_now(), f"A step ended with {type(error).__name__}.")
        return False


# ---- planning ------------------------------------------------------------------------------------------------------
def _freeze(operation: Operation, now: datetime) -> bool:
    """Makes items of what is found in the next window of messages."""
    after, until = operation.planned_to, min(operation.planned_to + WINDOW, operation.planned_until)
    operation.planned_to = until
    if found := operation.add_items(_wanted(operation).filter(pk__gt=after, pk__lte=until)):
        operation.total += found
        operation.estimate = _estimated(operation, after, until)
    if operation.total > ITEM_LIMIT:
        _end(operation, State.STOPPED, now, f"It finds more than {ITEM_LIMIT:,} messages; narrow it.")
    elif not operation.is_planned:
        _progressed(operation, now)
    elif operation.dry_run or not operation.total:
        _end(operation, State.FINISHED, now)
    else:
        operation.state, operation.started_at = State.RUNNING, now
        _progressed(operation, now)
    return operation.state in ACTIVE


def _wanted(operation: Operation) -> MessageQuerySet:
    """What the filter finds and the act can be done to."""
    found = _selected(operation.filter, operation.created_at)
    if operation.kind == Kind.REPLAY:
        return found.filter(finished_at__isnull=False).unanswered()
    return found.pending()


def _estimated(operation: Operation, after: int, until: int) -> dict[str, Any]:
    """The estimate with the items of this window: how many of which service, delivered already, and the oldest."""
    before = operation.estimate
    services, delivered = Counter[str](before.get("services", {})), before.get("delivered", 0)
    oldest = [before["oldest"]] if "oldest" in before else []
    new = operation.items.filter(message_id__gt=after, message_id__lte=until).values("message_id")
    rows = (
        Message.objects.filter(pk__in=new)
        .order_by()
        .values_list("service_id")
        .annotate(found=Count("pk"), delivered=Count("pk", filter=Q(status=Status.DELIVERED)), first=Min("created_at"))
    )
    for service_id, count, of_them_delivered, first in rows:
        services[str(service_id)] += count
        delivered += of_them_delivered
        oldest.append(first.isoformat())
    return {"services": dict(services), "delivered": delivered, "oldest": min(oldest, default=None)}


# ---- running -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ItemResult:
    """What came of one item."""

    outcome: ItemOutcome
    detail: str = ""


def _run(operation: Operation, now: datetime) -> bool:
    """Does the next items, as many as the rate allows and one step takes."""
    used_up_to = _used_up_to(operation, now)
    allowed = min(STEP, int((now - used_up_to).total_seconds() * operation.rate + 1e-6))
    if not allowed:
        return False
    left = operation.items.filter(outcome="").order_by("pk")
    ended = _do(operation, list(left.values_list("message_id", flat=True)[:allowed]), now)
    _write(operation, ended, now)
    for end in ended.values():
        setattr(operation, end.outcome, getattr(operation, end.outcome) + 1)
    # What was skipped made no call.
    calls = sum(end.outcome == ItemOutcome.SUCCEEDED for end in ended.values())
    operation.paced_at = used_up_to + timedelta(seconds=calls / operation.rate)
    if operation.done >= operation.total:
        _end(operation, State.FINISHED, now)
    else:
        _progressed(operation, now)
    return bool(ended) and operation.state == State.RUNNING


def _used_up_to(operation: Operation, now: datetime) -> datetime:
    """Up to when the rate is used up: an operation that was paused or left alone makes up for a moment only."""
    since = now - max(BURST, timedelta(seconds=1 / operation.rate))
    return max(since, operation.paced_at or since)


def _do(operation: Operation, ids: Sequence[int], now: datetime) -> dict[int, ItemResult]:
    """Does the act to these messages. One that somebody else holds right now is not among the answers."""
    free = Message.objects.filter(pk__any=ids).select_for_update(skip_locked=True, of=("self",)).order_by("pk")
    found = list(free.select_related("content") if operation.kind == Kind.REPLAY else free)
    ended = _gone(ids, {message.pk for message in found})
    fitting = []
    for message, refusal in _with_refusals(operation, found):
        if refusal:
            ended[message.pk] = ItemResult(ItemOutcome.SKIPPED, refusal)
        else:
            fitting.append(message)
    return ended | _carefully(ACTS[Kind(operation.kind)], operation, fitting, now)


def _gone(ids: Sequence[int], found: set[int]) -> dict[int, ItemResult]:
    missing = set(ids) - found
    if missing:
        missing -= set(Message.objects.filter(pk__any=list(missing)).values_list("pk", flat=True))
    return {pk: ItemResult(ItemOutcome.SKIPPED, "it is no longer there") for pk in missing}


def _with_refusals(operation: Operation, messages: Sequence[Message]) -> Iterable[tuple[Message, str]]:
    """Each with why the act does not fit it any more, empty where it does; the caller has locked them."""
    if operation.kind != Kind.REPLAY:
        return [
            (message, "" if message.status == Status.PENDING else f"it is {message.status}") for message in messages
        ]
    ids = [message.pk for message in messages]
    unanswered = set(Message.objects.filter(pk__any=ids).unanswered().values_list("pk", flat=True))
    return [
        (message, "" if message.pk in unanswered else "a replay of it is under way or was delivered")
        for message in messages
    ]


Act = Callable[[Operation, Sequence[Message], datetime], dict[int, ItemResult]]


def _carefully(act: Act, operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    """All at once; where that cannot be, one by one, so that a bad one has no neighbours."""
    if not messages:
        return {}
    try:
        with transaction.atomic():
            return act(operation, messages, now)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        if len(messages) == 1:
            log.exception(line("item", operation=operation.public_id, message=messages[0].public_id))
            return {messages[0].pk: ItemResult(ItemOutcome.FAILED, f"it ended with {type(error).__name__}")}
    ended: dict[int, ItemResult] = {}
    for message in messages:
        ended |= _carefully(act, operation, [message], now)
    return ended


def _replay(operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    drafts = []
    services = Service.objects.only("search_fields").in_bulk({message.service_id for message in messages})
    for message in messages:
        # No more is needed of them, and reading each would be a statement for each.
        message.service = services[message.service_id]
        message.endpoint = Endpoint(pk=message.endpoint_id) if message.endpoint_id else None
        drafts.append(message.as_replay(priority=Priority.BULK, operation_id=operation.pk))
    Message.objects.accept(drafts)
    return {message.pk: ItemResult(ItemOutcome.SUCCEEDED) for message in messages}


def _cancel(operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    cancelled = Message.objects.filter(pk__any=[message.pk for message in messages]).cancel(now)
    return {message.pk: ItemResult(ItemOutcome.SUCCEEDED) for message in cancelled}


def _retry_now(operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    """They go behind first tries and retries, as bulk replays do."""
    ids = [message.pk for message in messages]
    Message.objects.filter(pk__any=ids).retry_now(now, Priority.BULK)
    return dict.fromkeys(ids, ItemResult(ItemOutcome.SUCCEEDED))


ACTS: dict[Kind, Act] = {Kind.REPLAY: _replay, Kind.CANCEL: _cancel, Kind.RETRY_NOW: _retry_now}


def _write(operation: Operation, ended: dict[int, ItemResult], now: datetime) -> None:
    """One UPDATE for all that ended alike."""
    alike: dict[ItemResult, list[int]] = defaultdict(list)
    for pk, end in ended.items():
        alike[end].append(pk)
    for end, ids in alike.items():
        items = operation.items.filter(message_id__any=ids)
        items.update(outcome=end.outcome, detail=end.detail, done_at=now)


# ---- how far it is -------------------------------------------------------------------------------------------------
def _progressed(operation: Operation, now: datetime) -> None:
    """Saves how far it is, and tells it once a second."""
    if operation.told_at is None or now - operation.told_at >= TELL_EVERY:
        _tell(operation, now)
        operation.told_at = now
    operation.save()


def _end(operation: Operation, state: State, now: datetime, note: str = "") -> None:
    operation.state, operation.finished_at, operation.note = state, now, note
    operation.save()
    _tell(operation, now)
    log.info(line("operation", operation=operation.public_id, by=operation.created_by, **operation.facts))


def _tell(operation: Operation, now: datetime) -> None:
    type_ = "operation.progressed" if operation.is_open else "operation.finished"
    Event.objects.create(type=type_, at=now, subject=operation.public_id, facts=operation.facts)
