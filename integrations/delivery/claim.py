"""Claim due messages for a worker, and give claims back that were not sent.

Lock order: messages that are being delivered, then runtime rows by service id, then messages that are pending.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from integrations.delivery.admission import Admission, admit, send_slots, with_load
from integrations.delivery.target import Target, log
from integrations.logs import line
from integrations.models import (
    Message,
    Ordering,
    Priority,
    Runtime,
    Trigger,
    database_now,
    queue,
)
from integrations.models import message as messages
from integrations.models.message import Outgoing
from integrations.models.runtime import as_recent
from integrations.policies import limits
from integrations.policies.retry import DeadReason

SERVICES_AT_ONCE = 200  # services looked at in one claim; they take turns, so the others are next
SLOT_LATENESS = 0.015  # seconds a send may come after its slot before the slot is given back
PARK_ROUNDS = 8  # looks past parked messages of ordering keys in one claim
BURIED_AT_ONCE = 500  # messages whose deadline has passed, in one claim


@dataclass(frozen=True, slots=True)
class Claim:
    """One message that this worker may send, once."""

    target: Target
    message: Outgoing
    worker_id: int  # who claimed it: with the number, what a result is fenced by
    trigger: Trigger
    generation: int
    send_at: datetime  # its slot, in database time
    claimed_at: datetime
    is_awaited: bool = False  # others may wait for what comes of it: for its place, its key, the breaker's word

    @property
    def number(self) -> int:
        """The number of the call that is about to be made."""
        return self.message.calls + 1


def claim(worker_id: int, capacity: int, left: Mapping[int, int] | None = None) -> list[Claim]:
    """Claims up to ``capacity`` due messages for a worker, fairly over the services. Committed when it returns.

    ``left`` says how many more the worker wants at most of services that it is busy with, by their ids.
    """
    # Looked up outside the transaction: on SQLite one that claims nothing would still take the write lock.
    now, due = queue.serving(SERVICES_AT_ONCE)
    if not due or capacity <= 0:
        return []
    with transaction.atomic():
        runtimes = Runtime.objects.free(list(due), worker_id=worker_id, now=now)
        admissions = [admit(runtime, target, now) for runtime, target in with_load(runtimes, now)]
        for admission in admissions:
            admission.permits = min(admission.permits, (left or {}).get(admission.runtime.pk, capacity))
        _choose_candidates(admissions, due, capacity, now)
        counts = limits.share(capacity, [len(admission.candidates) for admission in admissions])
        taken = _take([(a, a.candidates[:count]) for a, count in zip(admissions, counts, strict=True)], worker_id, now)
        Runtime.objects.save_decided([admission.runtime for admission in admissions if admission.decided])
    return _claims(taken, worker_id, now)


def claim_suspect(worker_id: int) -> list[Claim]:
    """Claims one message whose last claim was lost, for a worker that has nothing else in flight."""
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
            taken = _take([(admission, ids)], worker_id, now)
            if admission.decided:
                runtime.save_decided()
            if taken:
                break
        else:
            return []
    return _claims(taken, worker_id, now)


def _choose_candidates(
    admissions: Sequence[Admission], due: dict[int, list[Priority]], capacity: int, now: datetime
) -> None:
    """Each service's next messages: first tries, then retries within their budget, then bulk replays."""
    hungry = [admission for admission in admissions if admission.permits]
    since = {admission.runtime.pk: _bury_late(admission, None, now) for admission in hungry}
    for _ in range(PARK_ROUNDS):
        wants = [
            # What is chosen already is found again: it is not claimed yet.
            (
                admission,
                queue.Want(
                    admission.runtime.pk, priority, wanted + len(admission.candidates), since[admission.runtime.pk]
                ),
            )
            for admission in hungry
            for priority in due[admission.runtime.pk]
            if (wanted := admission.wanted(priority, capacity)) > 0
        ]
        found = queue.first_of([want for _, want in wants], now)
        # A message behind another one of its key is parked when it is met, so that each is looked at once and not at
        # every claim; the end of the one ahead brings it back (Message.objects.promote).
        keyed = [
            pk
            for (a, _), ids in zip(wants, found, strict=True)
            if a.target.service.ordering == Ordering.KEY
            for pk in ids
        ]
        behind = set(messages.keyed_behind(keyed)) if keyed else set()
        for (admission, want), ids in zip(wants, found, strict=True):
            # Wanted is counted anew: what a higher priority has brought since leaves less room.
            room = admission.wanted(Priority(want.priority), capacity)
            known = behind.union(admission.candidates)
            fresh = [pk for pk in ids if pk not in known]
            admission.candidates += fresh[:room]
            admission.retries_chosen += want.priority == Priority.RETRY and len(fresh[:room])
        if not behind:
            break
        Message.objects.park(list(behind))
        hungry = [admission for (admission, _), ids in zip(wants, found, strict=True) if behind.intersection(ids)]


def _bury_late(admission: Admission, due: messages.MessageQuerySet | None, now: datetime) -> datetime | None:
    """Buries the messages whose deadline has passed while they waited, a batch at a time; answers from when on a
    message must have been due first to be in time, None without a deadline."""
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
class Taken:
    """What one service's messages were claimed with."""

    admission: Admission
    slots: dict[int, datetime]  # when each is sent


def _take(chosen: Sequence[tuple[Admission, list[int]]], worker_id: int, now: datetime) -> list[Taken]:
    """Claims what was chosen, each with its send slot, and counts it in the runtime rows."""
    slots = {}
    for admission, ids in chosen:
        times, next_slot = send_slots(admission.target, admission.runtime, now, len(ids))
        slots[admission.runtime.pk] = dict(zip(ids, times, strict=False)), next_slot
    wanted = [pk for given, _ in slots.values() for pk in given]
    if not wanted:
        return []
    claimed = Message.objects.claim(wanted, worker_id=worker_id, now=now)
    taken = []
    for admission, _ in chosen:
        given, next_slot = slots[admission.runtime.pk]
        if ours := {pk: send_at for pk, send_at in given.items() if pk in claimed}:
            _count(admission, [claimed[pk] for pk in ours], next_slot, now)
            if admission.is_probing:
                Message.objects.mark_probes(list(ours), admission.runtime.generation)
            taken.append(Taken(admission, ours))
    return taken


def _count(admission: Admission, priorities: list[Priority], next_slot: datetime | None, now: datetime) -> None:
    """Counts one service's claims in its runtime row."""
    runtime = admission.runtime
    # Probes are outside the retry budget.
    retries = 0 if admission.is_probing else priorities.count(Priority.RETRY)
    runtime.recent = limits.record(as_recent(runtime.recent), now, len(priorities), retries)
    runtime.next_slot = next_slot
    runtime.turn = int(now.timestamp() * 1000)
    admission.decided = True


def _claims(taken: Sequence[Taken], worker_id: int, now: datetime) -> list[Claim]:
    """What was claimed, with its content: read when the claim has committed, so that nobody waits for it meanwhile."""
    ids = [pk for one in taken for pk in one.slots]
    outgoing = Message.objects.outgoing(ids, worker_id=worker_id) if ids else {}
    return [
        _claim_of(one.admission, outgoing[pk], send_at, worker_id, now)
        for one in taken
        for pk, send_at in one.slots.items()
        if pk in outgoing
    ]


def _claim_of(admission: Admission, message: Outgoing, send_at: datetime, worker_id: int, now: datetime) -> Claim:
    return Claim(
        target=admission.target,
        message=message,
        worker_id=worker_id,
        trigger=trigger_of(message.attempts, admission.is_probing),
        generation=admission.runtime.generation,
        send_at=send_at,
        claimed_at=now,
        is_awaited=admission.is_probing or bool(message.ordering_key) or len(admission.candidates) >= admission.permits,
    )


def trigger_of(attempts: int, is_probing: bool) -> Trigger:
    if is_probing:
        return Trigger.PROBE
    return Trigger.RETRY if attempts else Trigger.FIRST


def give_back(claims: Sequence[Claim]) -> None:
    """Returns claims that were not sent: no call was made, nothing is counted."""
    now = database_now()
    # By their claim: said once more, because the first answer was lost, it must not meet a later claim of the same.
    by_claim: dict[tuple[int, datetime], list[int]] = defaultdict(list)
    for claimed in claims:
        by_claim[claimed.worker_id, claimed.claimed_at].append(claimed.message.pk)
    for (worker_id, claimed_at), ids in by_claim.items():
        Message.objects.filter(claimed_at=claimed_at).give_back(ids, worker_id=worker_id, now=now)


def give_back_unknown(worker_id: int, known: Sequence[int], now: datetime) -> None:
    """Returns what a worker holds without knowing of it: the answer to its commit was lost, so nothing was sent."""
    unknown = set(Message.objects.held_by(worker_id).values_list("pk", flat=True)) - set(known)
    if unknown:
        log.warning(line("unknown claims", worker=worker_id, claims=len(unknown)))
        Message.objects.give_back(sorted(unknown), worker_id=worker_id, now=now)
