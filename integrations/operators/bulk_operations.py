"""Bulk operations: operators plan them, workers carry them out in small steps.

A step is one transaction under the lock of the operation's row. It takes the next items, acts on their messages, and
writes each result and the progress. So each item is done exactly once, even if a worker is killed, and a pause holds
from the next step on. Lock order: the operation, then its messages. A message that another transaction has locked
waits for a later step, so no step waits for a delivery.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Count, F, Max, Min, Q

from integrations.errors import Conflict, Invalid
from integrations.logs import line
from integrations.models import (
    Attempt,
    AuditEntry,
    Endpoint,
    Event,
    Message,
    Operation,
    Priority,
    Service,
    Status,
    database_now,
    sql,
)
from integrations.models.message import MessageQuerySet
from integrations.models.operation import ACTIVE, NO_LIMIT, ItemOutcome, Kind, State
from integrations.operators import operation_calls
from integrations.policies import pacing
from integrations.registration import deletion, indexing
from integrations.search import grammar, pages

log = logging.getLogger("switchboard.operations")

RATE = 50.0  # messages a second, by default
SLOWEST = 0.01  # messages a second
RATE_LIMIT = 1000.0  # messages a second
ITEM_LIMIT = 1_000_000
SMALLEST_WINDOW, WINDOW = 2_000, 20_000  # ids of messages searched in one step of planning, fewer if it takes long
STEP = 100  # items in one step: they hold SQLite's only writer for some 10 ms
AT_ONCE = 20  # operations that progress in one round, by turns
IDLE = 1.0  # seconds until a worker asks again whether there is an operation
ROUND = 0.1  # seconds from one step of an operation to the next, at a rate
ADAPTIVE_ROUND = 0.08  # the same if it watches its calls to find its rate
# An operation without a rate rests this many times as long as its step took. While others accept or call, it works a
# twenty-fifth of the time, so that almost none of their statements meets it; on SQLite they cannot write during a step.
REST, REST_ALONE = 24.0, 1.0
# Seconds that such a step may take. On PostgreSQL it holds no other process up, and large steps cost less for each row.
STEP_TAKES = {"postgresql": 0.2, "sqlite": 0.03}
SHORTEST_REST, LONGEST_REST = 0.02, 5.0  # seconds
# The most that an operation catches up on its rate after a stall of the workers; less if it looks for the rate that a
# receiver bears, since it would take what it catches up for too fast a rate.
BURST, ADAPTIVE_BURST = timedelta(seconds=0.5), timedelta(seconds=2 * ADAPTIVE_ROUND)
FIRST_BODIES, MOST_BODIES = 20, 1_000  # messages whose bodies a step of an index reads; a body has up to 1 MiB
REPORT_EVERY = timedelta(seconds=1)

Rate = float | Literal["auto"]

# As measured by this process, by operation: rows in the next step without a rate, ids in the next step of planning,
# and the seconds that the last commit took, in which SQLite may also write its log back into the database.
_steps: dict[int, int] = {}
_windows: dict[int, int] = {}
_commits: dict[int, float] = {}


# ---- actions of operators ------------------------------------------------------------------------------------------
def plan(
    kind: Kind,
    q: str,
    *,
    by: str,
    reason: str = "",
    rate: Rate = RATE,
    dry_run: bool = False,
    stop_at_failure_rate: float | None = None,
) -> Operation:
    """Plan an operation: workers freeze the messages that match ``q`` now, then act on ``rate`` of them a second.

    A dry run ends after the planning, until it is started. More than the share ``stop_at_failure_rate`` of failures
    among its latest calls stops it. Raises Invalid.
    """
    search = grammar.parse(q)
    search.require("filter")
    if kind == Kind.DELETE:
        raise Invalid((("kind",), "a service is deleted with DELETE /services/{name}; choose another kind"))
    if kind == Kind.INDEX:
        raise Invalid((("kind",), "a field is indexed where it is declared; choose another kind"))
    if search.is_empty:
        raise Invalid((("filter",), "choose the messages: an empty filter would match all of them"))
    if not reason and not dry_run:
        raise _reason_required()
    with transaction.atomic():
        operation = Operation(
            kind=kind,
            filter=q.strip(),
            reason=reason,
            stop_at_failure_rate=stop_at_failure_rate,
            dry_run=dry_run,
            planned_to=0 if kind == Kind.REPLAY else _before_unfinished(),
            planned_until=Message.objects.aggregate(newest=Max("pk"))["newest"] or 0,
            created_by=by,
        )
        _set_rate(operation, rate, database_now())
        operation.save()
        facts = {"kind": operation.kind, "filter": operation.filter, "rate": rate, "dry_run": dry_run}
        if stop_at_failure_rate is not None:
            facts["stop_at_failure_rate"] = stop_at_failure_rate
        AuditEntry.objects.record(by, "operation.planned", operation.public_id, reason=reason, after=facts)
    return operation


def _set_rate(operation: Operation, rate: Rate, now: datetime) -> None:
    """Set a rate by hand, or let the operation find it. Raises Invalid for an operation that makes no calls."""
    watched = {name: value for name, value in (operation.pace or {}).items() if name != "auto"}
    if rate != "auto":
        operation.rate, operation.pace = rate, watched or None
    elif operation.kind not in (Kind.REPLAY, Kind.RETRY_NOW):
        what = "cancelling" if operation.kind == Kind.CANCEL else "it"
        raise Invalid((("rate",), f"{what} makes no calls whose success could set a pace; give a number"))
    elif not operation.is_adaptive:
        operation.rate, operation.pace = pacing.START, watched | operation_calls.begin(now)


def _before_unfinished() -> int:
    """Return the id below the oldest unfinished message: only unfinished ones are cancelled or retried."""
    oldest = Message.objects.unfinished().order_by("pk").values_list("pk", flat=True).first()
    return (oldest or 1) - 1


def cancel_waiting(service: Service, *, by: str) -> Operation:
    """Cancel all waiting messages of a service, as fast as the database allows."""
    reason = f"all waiting messages of {service.name} cancelled"
    return plan(Kind.CANCEL, f"service:{service.name} status:pending", by=by, reason=reason, rate=NO_LIMIT)


def seconds_left(operation: Operation, now: datetime) -> float | None:
    """Estimate how long an operation still takes; None if nothing tells."""
    left = operation.total - operation.done
    if not operation.is_open or not left:
        return 0
    if operation.has_limit:
        return left / operation.rate
    if operation.started_at is None or not operation.done:
        return None
    return left * (now - operation.started_at).total_seconds() / operation.done


def start(
    operation: Operation,
    *,
    by: str,
    reason: str = "",
    rate: Rate | None = None,
    stop_at_failure_rate: float | None = None,
) -> None:
    """Carry out a finished dry run on the selection it froze. Raises Conflict, or Invalid without a reason.

    Omitted values keep those of the plan.
    """
    with transaction.atomic():
        locked = _locked(operation)
        if not locked.may_start:
            raise Conflict(f"the operation is {_state_text(locked)}; only a finished dry run can be started")
        locked.reason = reason or locked.reason
        if not locked.reason:
            raise _reason_required()
        now = database_now()
        _set_rate(locked, rate or _rate(locked), now)
        if stop_at_failure_rate is not None:
            locked.stop_at_failure_rate = stop_at_failure_rate
        locked.dry_run, locked.finished_at = False, None
        locked.state, locked.started_at, locked.paced_at = State.RUNNING, now, None
        facts = {"messages": locked.total, "rate": _rate(locked), "stop_at_failure_rate": locked.stop_at_failure_rate}
        _save(locked, "started", by, facts)
    operation.refresh_from_db()


def change(
    operation: Operation,
    *,
    by: str,
    rate: Rate | None = None,
    reason: str = "",
    stop_at_failure_rate: float | None = None,
) -> None:
    """Change the values that are given, of an unfinished operation or a dry run. Raises Conflict, or Invalid."""
    with transaction.atomic():
        locked = _locked(operation)
        if not (locked.is_open or locked.may_start):
            raise Conflict(f"the operation is {_state_text(locked)} and can no longer be changed")
        before = _changeable(locked)
        _set_rate(locked, rate or _rate(locked), database_now())
        locked.reason = reason or locked.reason
        if stop_at_failure_rate is not None:
            locked.stop_at_failure_rate = stop_at_failure_rate
        after = _changeable(locked)
        locked.save(update_fields=["rate", "reason", "pace", "stop_at_failure_rate"])
        AuditEntry.objects.record(by, "operation.changed", locked.public_id, before=before, after=after)
    operation.refresh_from_db()


def _changeable(operation: Operation) -> dict[str, Any]:
    limit = operation.stop_at_failure_rate
    return {"rate": _rate(operation), "reason": operation.reason, "stop_at_failure_rate": limit}


def _rate(operation: Operation) -> Rate:
    return "auto" if operation.is_adaptive else operation.rate


def pause(operation: Operation, *, by: str) -> None:
    """Stop after the current step, until the operation is resumed. Raises Conflict."""
    with transaction.atomic():
        locked = _locked(operation)
        if locked.state not in ACTIVE:
            raise Conflict(f"the operation is {_state_text(locked)}; only a planning or running one can be paused")
        locked.state = State.PAUSED
        _save(locked, "paused", by)
    operation.refresh_from_db()


def resume(operation: Operation, *, by: str) -> None:
    """Continue a paused operation. Raises Conflict."""
    with transaction.atomic():
        locked = _locked(operation)
        if locked.state != State.PAUSED:
            raise Conflict(f"the operation is {_state_text(locked)}; only a paused one can be resumed")
        locked.state, locked.paced_at = State.RUNNING if locked.started_at else State.PLANNING, None
        _save(locked, "resumed", by)
    operation.refresh_from_db()


def cancel(operation: Operation, *, by: str) -> None:
    """End an operation. Finished items stay finished, the others are not touched. Raises Conflict if it has ended."""
    with transaction.atomic():
        locked = _locked(operation)
        if not locked.is_open:
            raise Conflict(f"the operation is already {_state_text(locked)}")
        _end(locked, State.CANCELLED, database_now())
        if locked.is_deletion:
            deletion.abandon(locked, actor=by)
        AuditEntry.objects.record(by, "operation.cancelled", locked.public_id, after=locked.facts)
    operation.refresh_from_db()


def _locked(operation: Operation) -> Operation:
    return Operation.objects.select_for_update().get(pk=operation.pk)


def _save(locked: Operation, verb: str, by: str, facts: dict[str, Any] | None = None) -> None:
    locked.save()
    AuditEntry.objects.record(by, f"operation.{verb}", locked.public_id, reason=locked.reason, after=facts)
    _record_event(locked, database_now())


def _state_text(operation: Operation) -> str:
    return "a finished dry run" if operation.may_start else operation.state


def _reason_required() -> Invalid:
    return Invalid((("reason",), "a reason is required; it is kept with the operation"))


# ---- steps of the workers ------------------------------------------------------------------------------------------
def advance() -> float:
    """Run one step of each active operation, by turns. Return after how many seconds to run this again.

    Any worker runs this. A step is short, and between two steps the worker does its other work.
    """
    waiting = Operation.objects.active().order_by(F("paced_at").asc(nulls_first=True), "pk")
    found = list(waiting.only("kind", "state", "rate", "paced_at", "pace")[:AT_ONCE])
    if not found:
        return IDLE
    if any(operation.kind == Kind.REPLAY for operation in found):
        Message.objects.complete_lineages()
    now = database_now()
    return min(_step_if_due(operation, now) for operation in found)


def _step_if_due(operation: Operation, now: datetime) -> float:
    """Run a step of an operation if it is due. Return the seconds until the next one, at most ROUND."""
    rest = (_next_step_at(operation, operation.paced_at) - now).total_seconds() if operation.paced_at else 0.0
    if 0 < rest <= LONGEST_REST:  # a longer one was begun before the clock moved back
        return min(ROUND, max(rest, SHORTEST_REST))
    may_follow = step(operation.pk)
    return ADAPTIVE_ROUND if operation.is_adaptive else SHORTEST_REST if may_follow else ROUND


def _next_step_at(operation: Operation, paced_at: datetime) -> datetime:
    """Return when the next step is due. It is in the row, so that many workers do no more than one."""
    if operation.is_adaptive and operation.state == State.RUNNING:
        looked_at = (operation.pace or {}).get("looked_at", 0.0)
        return datetime.fromtimestamp(looked_at + ADAPTIVE_ROUND, UTC)
    if operation.has_limit and operation.state == State.RUNNING:
        return paced_at + timedelta(seconds=min(LONGEST_REST, max(ROUND, 1 / operation.rate)))
    return paced_at


def step(pk: int) -> bool:
    """Run one transaction of an operation. Return whether the next one may follow at once."""
    began = time.monotonic()
    try:
        with transaction.atomic():
            # None if another worker holds its lock, or if it was paused in the meantime.
            operation = Operation.objects.active().select_for_update(skip_locked=True).filter(pk=pk).first()
            if operation is None:
                return False
            now = database_now()
            may_follow = _freeze(operation, now) if operation.state == State.PLANNING else _run(operation, now)
            worked = time.monotonic() - began
            if not operation.has_limit:
                _rest(operation, now, worked + _commits.get(pk, 0.0))
        if operation.finished_at is None:
            _commits[pk] = time.monotonic() - began - worked
        return may_follow
    except (OperationalError, InterfaceError) as error:  # the database is down or busy: try again in a second
        log.warning(line("operation", operation=pk, error=str(error).partition("\n")[0]))
        return False
    except Exception as error:  # a bug, which must not stop the worker's deliveries
        log.exception(line("operation", operation=pk))
        with transaction.atomic():
            for operation in Operation.objects.active().select_for_update().filter(pk=pk):
                _end(operation, State.STOPPED, database_now(), f"A step failed with {type(error).__name__}.")
        return False


def _rest(operation: Operation, now: datetime, took: float) -> None:
    """Let an operation without a rate rest after a step of ``took`` seconds."""
    given = sql.last_keys(Message, Attempt)
    is_alone = given == (operation.pace or {}).get("given")  # nothing was accepted or called since its last step
    rest = min(LONGEST_REST, max(SHORTEST_REST, took * (REST_ALONE if is_alone else REST)))
    pace = (operation.pace or {}) | {"given": given}
    Operation.objects.filter(pk=operation.pk).update(pace=pace, paced_at=now + timedelta(seconds=took + rest))


# ---- planning ------------------------------------------------------------------------------------------------------
def _freeze(operation: Operation, now: datetime) -> bool:
    """Add the matching messages of the next window as items."""
    window = min(_windows.get(operation.pk, WINDOW), WINDOW)
    after, until = operation.planned_to, min(operation.planned_to + window, operation.planned_until)
    operation.planned_to = until
    began = time.monotonic()
    if not operation.has_items:
        return _count(operation, after, until, now)
    if found := operation.add_items(_wanted(operation).filter(pk__gt=after, pk__lte=until)):
        operation.total += found
        operation.estimate = _estimated(operation, after, until)
    _windows[operation.pk] = pacing.next_step(window, time.monotonic() - began, _step_takes(), SMALLEST_WINDOW, WINDOW)
    if operation.total > ITEM_LIMIT:
        _end(operation, State.STOPPED, now, f"The filter matches more than {ITEM_LIMIT:,} messages; narrow it.")
    elif not operation.is_planned:
        _progressed(operation, now)
    elif operation.dry_run or not operation.total:
        _end(operation, State.FINISHED, now)
    else:
        operation.state, operation.started_at, operation.paced_at = State.RUNNING, now, None
        _progressed(operation, now)
    return operation.state in ACTIVE


def _count(operation: Operation, after: int, until: int, now: datetime) -> bool:
    """Count the messages of a deletion or an index; it makes no items, since both ask for each message again."""
    operation.total += deletion.count_messages(operation, after, until)
    operation.estimate = {"services": {str(operation.service_id): operation.total}}
    if operation.is_planned:
        operation.state, operation.started_at = State.RUNNING, now
    _progressed(operation, now)
    return True


def _wanted(operation: Operation) -> MessageQuerySet:
    """Return the messages that match the filter and that the operation can act on. Raises Invalid."""
    search = grammar.parse(operation.filter, operation.created_at)  # ages such as older:1h count from the planning
    search.require("filter")
    found = pages.selection(search)
    if operation.kind == Kind.REPLAY:
        return found.filter(finished_at__isnull=False).unreplayed()
    return found.pending()


def _estimated(operation: Operation, after: int, until: int) -> dict[str, Any]:
    """Return the estimate including this window's items: messages per service, messages delivered, oldest message."""
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
    """The result of one item."""

    outcome: ItemOutcome
    detail: str = ""


def _run(operation: Operation, now: datetime) -> bool:
    """Act on the next items, as many as the rate allows and one step takes."""
    if operation.is_deletion:
        return _delete(operation, now)
    if operation.is_index:
        return _index(operation, now)
    room = STEP
    if is_watched := operation.is_adaptive or operation.stop_at_failure_rate is not None:
        look = operation_calls.look(operation, now)
        if _has_ended_by_its_calls(operation, look.out, now):
            return False
        room = look.room
    used_up_to = _used_up_to(operation, now)
    if operation.has_limit:
        largest = allowed = min(STEP, room, int((now - used_up_to).total_seconds() * operation.rate + 1e-6))
    else:
        largest = allowed = STEP if operation.kind == Kind.REPLAY else _steps.get(operation.pk, pacing.FIRST_STEP)
    if allowed <= 0:
        if is_watched:
            operation.save(update_fields=["pace", "rate"])
        return False
    began = time.monotonic()
    results = _act_on(operation, _next_items(operation, allowed), now)
    _write(operation, results, now)
    for result in results.values():
        setattr(operation, result.outcome, getattr(operation, result.outcome) + 1)
    if is_watched:
        failed = sum(result.outcome == ItemOutcome.FAILED for result in results.values())
        operation_calls.note_failures(operation, failed)
    # Skipped items make no call, so they use up none of the rate.
    calls = sum(result.outcome == ItemOutcome.SUCCEEDED for result in results.values())
    operation.paced_at = used_up_to + timedelta(seconds=calls / operation.rate)
    if len(results) == largest:
        _steps[operation.pk] = pacing.next_step(largest, time.monotonic() - began, _step_takes())
    if operation.done >= operation.total and not is_watched:
        _end(operation, State.FINISHED, now)
    else:
        _progressed(operation, now)
    return bool(results) and operation.state == State.RUNNING


def _next_items(operation: Operation, count: int) -> list[int]:
    """Return the messages of the next items, and note the last one.

    PostgreSQL keeps an index entry for each item that is done until it vacuums: without the note, each step would pass
    all of them. Items that were locked are found from the start again, after the last.
    """
    left, noted = operation.items.filter(outcome="").order_by("pk"), (operation.pace or {}).get("item", 0)
    rows = list(left.filter(pk__gt=noted).values_list("pk", "message_id")[:count])
    if not rows and noted:
        rows = list(left.values_list("pk", "message_id")[:count])
    if rows:
        operation.pace = (operation.pace or {}) | {"item": rows[-1][0]}
    return [message_id for _, message_id in rows]


def _step_takes() -> float:
    return STEP_TAKES[connection.vendor]


def _has_ended_by_its_calls(operation: Operation, out: int, now: datetime) -> bool:
    """End a watched operation if too many of its calls fail, or after its last call."""
    latest, limit = (operation.pace or {}).get("latest", ""), operation.stop_at_failure_rate
    if limit is not None and pacing.passes(latest, limit):
        failed = latest.count("1")
        note = f"{failed} of its latest {len(latest)} calls failed; it was to stop above {limit:.0%}."
        _end(operation, State.STOPPED, now, note)
        return True
    if operation.done < operation.total:
        return False
    if out:
        _progressed(operation, now)
    else:
        _end(operation, State.FINISHED, now)
    return True


def _delete(operation: Operation, now: datetime) -> bool:
    """Delete the next rows of a service. A step without a result waits for the last calls."""
    rows = _steps.get(operation.pk, pacing.FIRST_STEP)
    began = time.monotonic()
    deleted = deletion.delete_some(operation, rows, now)
    if max(deleted.messages, deleted.others) == rows:
        _steps[operation.pk] = pacing.next_step(rows, time.monotonic() - began, _step_takes())
    operation.succeeded += deleted.messages
    operation.total = max(operation.total, operation.done)  # messages that arrived while it was planned
    if deleted.is_gone:
        _end(operation, State.FINISHED, now)
    else:
        _progressed(operation, now)
    return bool(deleted.messages or deleted.others)


def _index(operation: Operation, now: datetime) -> bool:
    """Index the next messages of a service. A step without a result waits for requests that began before it."""
    rows = _steps.get(operation.pk, FIRST_BODIES)
    began = time.monotonic()
    indexed = indexing.index_some(operation, rows, now)
    if indexed.messages == rows:
        took = time.monotonic() - began
        _steps[operation.pk] = pacing.next_step(rows, took, _step_takes(), FIRST_BODIES, MOST_BODIES)
    operation.succeeded += indexed.found
    operation.skipped += indexed.others
    operation.total = max(operation.total, operation.done)  # messages that arrived while it was planned
    if indexed.is_done:
        operation.total = operation.done  # without those that retention deleted
        _end(operation, State.FINISHED, now)
    else:
        _progressed(operation, now)
    return bool(indexed.messages)


def _used_up_to(operation: Operation, now: datetime) -> datetime:
    """Return the time up to which the rate is used up.

    A start or a resumption gives one message at once, so that no second has more than the rate allows. After a stall
    of the workers, an operation catches up on a burst only.
    """
    one = timedelta(seconds=1 / operation.rate)
    burst = ADAPTIVE_BURST if operation.is_adaptive else BURST
    return max(now - max(burst, one), operation.paced_at or now - one)


def _act_on(operation: Operation, ids: Sequence[int], now: datetime) -> dict[int, ItemResult]:
    """Act on these messages. Messages that another transaction has locked get no result yet."""
    free = Message.objects.filter(pk__any=ids).select_for_update(skip_locked=True, of=("self",)).order_by("pk")
    is_replay = operation.kind == Kind.REPLAY
    found = _of_free_lineages(list(free.select_related("content"))) if is_replay else list(free.only("nonce", "status"))
    results = _deleted(ids, {message.pk for message in found})
    eligible = []
    for message, refusal in _with_refusals(operation, found):
        if refusal:
            results[message.pk] = ItemResult(ItemOutcome.SKIPPED, refusal)
        else:
            eligible.append(message)
    return results | _together_or_singly(ACTS[Kind(operation.kind)], operation, eligible, now)


def _of_free_lineages(messages: list[Message]) -> list[Message]:
    """Lock the lineages of these locked messages too, and return those whose lineages were free.

    A replay is made under the locks of its whole lineage, so that two operations that chose two messages of one lineage
    do not both replay it. Messages without a replay, almost all, take no statement.
    """
    lineages = {message.lineage_id for message in messages if message.lineage_id}
    if not lineages:
        return messages
    members = Message.objects.filter(lineage_id__any=lineages)
    locked = set(members.select_for_update(skip_locked=True).values_list("pk", flat=True))
    held = {lineage_id for pk, lineage_id in members.values_list("pk", "lineage_id") if pk not in locked}
    return [message for message in messages if message.lineage_id not in held]


def _deleted(ids: Sequence[int], found: set[int]) -> dict[int, ItemResult]:
    missing = set(ids) - found
    if missing:
        missing -= set(Message.objects.filter(pk__any=list(missing)).values_list("pk", flat=True))
    return {pk: ItemResult(ItemOutcome.SKIPPED, "the message was deleted") for pk in missing}


def _with_refusals(operation: Operation, messages: Sequence[Message]) -> Iterable[tuple[Message, str]]:
    """Pair each locked message with the reason why the operation can no longer act on it; empty if it can."""
    if operation.kind != Kind.REPLAY:
        return [
            (message, "" if message.status == Status.PENDING else f"the message is {message.status}")
            for message in messages
        ]
    ids = [message.pk for message in messages]
    unanswered = set(Message.objects.filter(pk__any=ids).unreplayed().values_list("pk", flat=True))
    return [
        (message, "" if message.pk in unanswered else "a replay of it is newer, in progress or delivered")
        for message in messages
    ]


Act = Callable[[Operation, Sequence[Message], datetime], dict[int, ItemResult]]


def _together_or_singly(
    act: Act, operation: Operation, messages: Sequence[Message], now: datetime
) -> dict[int, ItemResult]:
    """Act on all messages at once. If that fails, act on each alone, so that one bad message fails only itself."""
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
            return {messages[0].pk: ItemResult(ItemOutcome.FAILED, f"the action failed with {type(error).__name__}")}
    results: dict[int, ItemResult] = {}
    for message in messages:
        results |= _together_or_singly(act, operation, [message], now)
    return results


def _replay(operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    drafts = []
    services = Service.objects.only("search_fields", "status").in_bulk({message.service_id for message in messages})
    refusal = ItemResult(ItemOutcome.SKIPPED, "its service is being deleted")
    refused = {message.pk: refusal for message in messages if services[message.service_id].is_being_deleted}
    for message in messages:
        if message.pk in refused:
            continue
        # The replay needs no more of them than this; reading each would take a statement per message.
        message.service = services[message.service_id]
        message.endpoint = Endpoint(pk=message.endpoint_id) if message.endpoint_id else None
        drafts.append(message.as_replay(priority=Priority.BULK, operation_id=operation.pk))
    Message.objects.accept(drafts)
    return {message.pk: ItemResult(ItemOutcome.SUCCEEDED) for message in messages} | refused


def _cancel(operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    cancelled = Message.objects.filter(pk__any=[message.pk for message in messages]).cancel(now)
    return dict.fromkeys(cancelled, ItemResult(ItemOutcome.SUCCEEDED))


def _retry_now(operation: Operation, messages: Sequence[Message], now: datetime) -> dict[int, ItemResult]:
    """Retry now, at the priority of bulk replays: after first attempts and retries."""
    ids = [message.pk for message in messages]
    Message.objects.filter(pk__any=ids).retry_now(now, Priority.BULK)
    return dict.fromkeys(ids, ItemResult(ItemOutcome.SUCCEEDED))


ACTS: dict[Kind, Act] = {Kind.REPLAY: _replay, Kind.CANCEL: _cancel, Kind.RETRY_NOW: _retry_now}


def _write(operation: Operation, results: dict[int, ItemResult], now: datetime) -> None:
    """Write the results with one UPDATE for all equal ones."""
    equal: dict[ItemResult, list[int]] = defaultdict(list)
    for pk, result in results.items():
        equal[result].append(pk)
    for result, ids in equal.items():
        items = operation.items.filter(message_id__any=ids)
        items.update(outcome=result.outcome, detail=result.detail, done_at=now)


# ---- progress ------------------------------------------------------------------------------------------------------
def _progressed(operation: Operation, now: datetime) -> None:
    """Save the progress, and record an event of it at most once a second."""
    if operation.told_at is None or now - operation.told_at >= REPORT_EVERY:
        _record_event(operation, now)
        operation.told_at = now
    operation.save()


def _end(operation: Operation, state: State, now: datetime, note: str = "") -> None:
    operation.state, operation.finished_at, operation.note = state, now, note
    operation.save()
    _steps.pop(operation.pk, None)
    _windows.pop(operation.pk, None)
    _commits.pop(operation.pk, None)
    _record_event(operation, now)
    log.info(line("operation", operation=operation.public_id, by=operation.created_by, **operation.facts))


def _record_event(operation: Operation, now: datetime) -> None:
    type_ = "operation.progressed" if operation.is_open else "operation.finished"
    Event.objects.create(type=type_, at=now, subject=operation.public_id, facts=operation.facts)
