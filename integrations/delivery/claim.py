"""Claim due messages for a worker, and give back claims that were not sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from integrations.delivery.admission import Admission, admit, send_slots, with_load
from integrations.delivery.target import Target, log
from integrations.logs import line
from integrations.models import Message, Ordering, Priority, Runtime, Trigger, database_now, meter, queue
from integrations.models import message as messages
from integrations.models.message import Outgoing
from integrations.models.runtime import as_recent
from integrations.policies import limits
from integrations.policies.retry import DeadReason

SERVICES_AT_ONCE = 200  # services considered in one claim; they take turns, so the others come next
PARK_ROUNDS = 8  # searches in one claim for messages that are not behind another one of their ordering key
LOCKED_AT_MOST = 100  # locked messages of a service that a claim looks past
BURIED_AT_ONCE = 500  # messages past their deadline that one claim buries


@dataclass(frozen=True, slots=True)
class Claim:
    """One message that this worker may send, once."""

    target: Target
    message: Outgoing
    worker_id: int  # worker and call number are the fence: a result counts only if both still match the row
    trigger: Trigger
    generation: int  # of the breaker, when the message was claimed
    send_at: datetime  # its send slot, in database time
    claimed_at: datetime
    # Another message, slot or breaker decision may be blocked until this result is written.
    blocks_others: bool = False

    @property
    def number(self) -> int:
        """The number of the call that this claim allows."""
        return self.message.calls + 1


def claim(
    worker_id: int, capacity: int, caps: Mapping[int, int] | None = None, *, skip_locked: bool = False
) -> list[Claim]:
    """Claim up to ``capacity`` due messages for a worker, by turns over the services. Commits before it returns.

    ``caps`` has, by service id, the most messages that the worker takes of services it is already busy with.
    ``skip_locked`` leaves out messages that another transaction has locked; a claim without it fails after
    ``sql.LOCK_TIMEOUT``. It takes two statements more, and locks more messages than it claims.
    """
    # Read outside the transaction: on SQLite one that claims nothing would still take the write lock.
    now, due = queue.serving(SERVICES_AT_ONCE)
    if not due or capacity <= 0:
        return []
    with meter.timed("database", "claim"), transaction.atomic():
        runtimes = Runtime.objects.free(list(due), worker_id=worker_id, now=now, may_wait=not skip_locked)
        admissions = [admit(runtime, target, now) for runtime, target in with_load(runtimes, now)]
        for admission in admissions:
            admission.permits = min(admission.permits, (caps or {}).get(admission.runtime.pk, capacity))
        _choose_candidates(admissions, due, capacity, now, skip_locked=skip_locked)
        counts = limits.share(capacity, [len(admission.candidates) for admission in admissions])
        batches = _claim_chosen(
            [(a, a.candidates[:count]) for a, count in zip(admissions, counts, strict=True)], worker_id, now
        )
        Runtime.objects.save_decided([admission.runtime for admission in admissions if admission.decided])
    for admission in admissions:
        if reason := admission.held_back(due[admission.runtime.pk]):
            meter.count("held_back", admission.runtime.pk, reason)
    return _with_content(batches, worker_id, now)


def claim_suspect(worker_id: int) -> list[Claim]:
    """Claim one message whose last claim was lost, for a worker that has nothing else in flight."""
    now = database_now()
    suspects = Message.objects.due(now).suspect().unexpired(now)
    service_ids = set(suspects.values_list("service_id", flat=True)[:SERVICES_AT_ONCE])
    serving = list(Runtime.objects.serving(now).filter(service_id__in=service_ids).values_list("pk", flat=True))
    if not serving:
        return []
    with transaction.atomic():
        for runtime, target in with_load(Runtime.objects.free(serving, worker_id=worker_id, now=now), now):
            admission = admit(runtime, target, now)
            due = suspects.filter(service_id=runtime.pk)
            if since := _bury_late(admission, due, now):
                due = due.first_due_since(since)
            ids = list(due.order_by("due_at", "pk").values_list("pk", flat=True)[: min(1, admission.permits)])
            batches = _claim_chosen([(admission, ids)], worker_id, now)
            if admission.decided:
                runtime.save_decided()
            if batches:
                break
        else:
            return []
    return _with_content(batches, worker_id, now)


def _choose_candidates(
    admissions: Sequence[Admission],
    due: dict[int, list[Priority]],
    capacity: int,
    now: datetime,
    *,
    skip_locked: bool = False,
) -> None:
    """Choose each service's next messages: first attempts, then retries within their budget, then bulk replays."""
    unfilled = [admission for admission in admissions if admission.permits]
    since = {admission.runtime.pk: _bury_late(admission, None, now) for admission in unfilled}
    for _ in range(PARK_ROUNDS):
        wants = [
            # Chosen messages are not claimed yet, so the query finds them again.
            (
                admission,
                queue.Want(
                    admission.runtime.pk,
                    priority,
                    wanted + len(admission.candidates) + (LOCKED_AT_MOST if skip_locked else 0),
                    since[admission.runtime.pk],
                ),
            )
            for admission in unfilled
            for priority in due[admission.runtime.pk]
            if (wanted := admission.wanted(priority, capacity)) > 0
        ]
        found = queue.first_of([want for _, want in wants], now)
        if skip_locked:
            free = Message.objects.unlocked([pk for ids in found for pk in ids])
            found = [[pk for pk in ids if pk in free] for ids in found]
        # A message behind another one of its key is parked as soon as it is found, so that each is looked at once and
        # not at every claim. The end of the message ahead makes it due again (Message.objects.promote).
        keyed = [
            pk
            for (a, _), ids in zip(wants, found, strict=True)
            if a.target.service.ordering == Ordering.KEY
            for pk in ids
        ]
        behind = set(messages.behind_their_key(keyed)) if keyed else set()
        for (admission, want), ids in zip(wants, found, strict=True):
            # Counted again: messages of a higher priority that were just chosen leave less room.
            room = admission.wanted(Priority(want.priority), capacity)
            excluded = behind.union(admission.candidates)
            chosen = [pk for pk in ids if pk not in excluded][:room]
            admission.candidates += chosen
            admission.retries_chosen += want.priority == Priority.RETRY and len(chosen)
        if not behind:
            break
        Message.objects.park(list(behind))
        unfilled = [admission for (admission, _), ids in zip(wants, found, strict=True) if behind.intersection(ids)]


def _bury_late(admission: Admission, due: messages.MessageQuerySet | None, now: datetime) -> datetime | None:
    """Bury a batch of messages whose deadline passed while they waited.

    Returns the time since which a message must have been due first to be within its deadline; None without one.
    """
    if admission.target.retry.deadline is None:
        return None
    oldest = now - timedelta(seconds=admission.target.retry.deadline)
    if due is None:
        due = Message.objects.due(now).sound().filter(service_id=admission.runtime.pk)
    late = list(due.first_due_before(oldest).values_list("pk", flat=True)[:BURIED_AT_ONCE])
    if late:
        Message.objects.filter(pk__any=late).bury(DeadReason.DEADLINE, now)
    return oldest


@dataclass(slots=True)
class _Batch:
    """The claimed messages of one service."""

    admission: Admission
    slots: dict[int, datetime]  # the send time of each message


def _claim_chosen(chosen: Sequence[tuple[Admission, list[int]]], worker_id: int, now: datetime) -> list[_Batch]:
    """Claim the chosen messages, each with its send slot, and count them in the runtime rows."""
    slots = {}
    for admission, ids in chosen:
        times, next_slot = send_slots(admission.target, admission.runtime, now, len(ids))
        slots[admission.runtime.pk] = dict(zip(ids, times, strict=False)), next_slot
    wanted = [pk for times_by_id, _ in slots.values() for pk in times_by_id]
    if not wanted:
        return []
    claimed = Message.objects.claim(wanted, worker_id=worker_id, now=now)
    batches = []
    for admission, _ in chosen:
        times_by_id, next_slot = slots[admission.runtime.pk]
        if ours := {pk: send_at for pk, send_at in times_by_id.items() if pk in claimed}:
            _count(admission, [claimed[pk] for pk in ours], next_slot, now)
            if admission.is_probing:
                Message.objects.mark_probes(list(ours), admission.runtime.generation)
            batches.append(_Batch(admission, ours))
    return batches


def _count(admission: Admission, priorities: list[Priority], next_slot: datetime | None, now: datetime) -> None:
    """Count one service's claims in its runtime row."""
    runtime = admission.runtime
    # Probes are outside the retry budget.
    retries = 0 if admission.is_probing else priorities.count(Priority.RETRY)
    runtime.recent = limits.record(as_recent(runtime.recent), now, len(priorities), retries)
    runtime.next_slot = next_slot
    runtime.turn = int(now.timestamp() * 1000)
    admission.decided = True


def _with_content(batches: Sequence[_Batch], worker_id: int, now: datetime) -> list[Claim]:
    """Read the content of claimed messages. After the commit, so that no other process waits for it on a lock."""
    ids = [pk for batch in batches for pk in batch.slots]
    outgoing = Message.objects.outgoing(ids, worker_id=worker_id) if ids else {}
    return [
        _claim(batch.admission, outgoing[pk], send_at, worker_id, now)
        for batch in batches
        for pk, send_at in batch.slots.items()
        if pk in outgoing
    ]


def _claim(admission: Admission, message: Outgoing, send_at: datetime, worker_id: int, now: datetime) -> Claim:
    return Claim(
        target=admission.target,
        message=message,
        worker_id=worker_id,
        trigger=trigger_for(message.attempts, admission.is_probing),
        generation=admission.runtime.generation,
        send_at=send_at,
        claimed_at=now,
        blocks_others=admission.is_probing
        or bool(message.ordering_key)
        or admission.bulk_permits is not None
        or len(admission.candidates) >= admission.permits,
    )


def trigger_for(attempts: int, is_probing: bool) -> Trigger:
    """Return why a message with so many ``attempts`` is called."""
    if is_probing:
        return Trigger.PROBE
    return Trigger.RETRY if attempts else Trigger.FIRST


def give_back(claims: Sequence[Claim]) -> None:
    """Return claims that were not sent to pending: no call was made, and nothing is counted."""
    now = database_now()
    # With the time of the claim: a repeat, after the reply to the first was lost, must not undo a later claim.
    by_claim: dict[tuple[int, datetime], list[int]] = defaultdict(list)
    for claimed in claims:
        by_claim[claimed.worker_id, claimed.claimed_at].append(claimed.message.pk)
    for (worker_id, claimed_at), ids in by_claim.items():
        Message.objects.filter(claimed_at=claimed_at).give_back(ids, worker_id=worker_id, now=now)


def give_back_unknown(worker_id: int, known: Sequence[int], now: datetime) -> None:
    """Return claims that the worker does not know of: the reply to its commit was lost, so nothing was sent."""
    unknown = set(Message.objects.held_by(worker_id).values_list("pk", flat=True)) - set(known)
    if unknown:
        log.warning(line("unknown claims", worker=worker_id, claims=len(unknown)))
        Message.objects.give_back(sorted(unknown), worker_id=worker_id, now=now)
