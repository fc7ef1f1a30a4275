"""Work that time alone makes due, done by any worker: lost workers, breakers, expired messages, pauses, ignored failure
groups, retention, and the pruning that keeps tables small.

Two workers may run any of it at once, or one again: each step checks and changes under one lock or condition.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime

from django.db import OperationalError, transaction
from django.db.models import F

from integrations.delivery import failure_groups
from integrations.delivery.claim import trigger_for
from integrations.delivery.target import target_for
from integrations.history import event_stream, retention, rollups
from integrations.logs import line
from integrations.models import (
    Attempt,
    AuditEntry,
    BackupSchedule,
    Certificate,
    Event,
    IdempotentAnswer,
    Installation,
    Message,
    Meter,
    Result,
    Runtime,
    Service,
    Status,
    Worker,
    database_now,
    sql,
    tally,
)
from integrations.models import message as messages
from integrations.operators import failures, replay_results
from integrations.outbound.exchange import PeerCertificate as Shown
from integrations.outbound.outcome import Fault
from integrations.policies import breaker
from integrations.policies.retry import DeadReason

log = logging.getLogger("switchboard.housekeeping")

MAX_LOSSES_ALONE = 3  # claims lost in a row, while sent alone, before a message is buried
BATCH = 500


# ---- every second, every half minute ---------------------------------------------------------------------------------
def sweep(may_rescue: bool = True) -> None:
    """Run once a second: lost workers, breakers, expired messages, pauses, ignored failure groups and retention.

    ``may_rescue`` is False in a lane that has just stood still itself.
    """
    now = database_now()
    if may_rescue:
        _unless_locked(rescue)
    _unless_locked(_turn_breakers, now)
    _unless_locked(_bury_expired, now)
    _unless_locked(_end_pauses, now)
    failures.end_ignoring(now)
    retention.advance()


def _unless_locked(step: Callable[..., object], *args: object) -> None:
    """Run a step; if a lock of another transaction holds it up, leave it to the next sweep."""
    try:
        step(*args)
    except OperationalError as error:
        if not sql.is_lock_timeout(error):
            raise
        log.warning(line("held up", step=step.__name__, error=str(error).partition("\n")[0]))


def _turn_breakers(now: datetime) -> None:
    service_ids = list(Runtime.objects.time_dependent().values_list("service_id", flat=True))
    if not service_ids:
        return
    with transaction.atomic():
        for runtime in Runtime.objects.locked(service_ids, skip_locked=True):  # a locked row is being decided now
            if (target := target_for(runtime)) is None:
                continue
            before = runtime.breaker
            state, changes = breaker.tick(before, target.breaker, now)
            if state is not before:
                runtime.breaker = state
                runtime.save_decided()
            if changes:
                Event.objects.record_changes(target.service, changes, now)


def _bury_expired(now: datetime) -> None:
    expired = list(Message.objects.expired(now).values_list("pk", flat=True)[:BATCH])
    if expired:
        Message.objects.filter(pk__any=expired).bury(DeadReason.EXPIRED, now)


def _end_pauses(now: datetime) -> None:
    for service in Service.objects.filter(status="paused", paused_until__lte=now).defer("secrets"):
        with transaction.atomic():
            if service.reactivate():
                Event.objects.create(type="service.resumed", at=now, service=service, facts={"by": "switchboard"})
                AuditEntry.objects.record("switchboard", "service.resumed", service.name, reason="the pause has ended")


def tidy(certificates: Collection[Shown] = ()) -> None:
    """Run twice a minute: prune tables, roll up counters, and keep the results of replays and the certificates that
    calls have received."""
    now = database_now()
    unpark_stuck()
    Certificate.objects.record(certificates, now)
    Message.objects.complete_lineages()
    rollups.roll()
    replay_results.keep(now)
    BackupSchedule.objects.forget_restore()
    Meter.objects.forget_deleted()
    if not Installation.objects.look_at_clock(now).is_on_hold:
        _prune(now)


def _prune(now: datetime) -> None:
    Certificate.objects.prune(now)
    IdempotentAnswer.objects.prune(now)
    failure_groups.prune(now)
    rollups.prune(now)
    event_stream.prune()


def unpark_stuck() -> int:
    """Make parked messages due that have none of their key ahead: a safety net for ``promote``. Returns how many."""
    stuck = list(messages.parked_without_predecessor()[:BATCH])
    return Message.objects.filter(pk__any=stuck).unpark()


# ---- workers that end ----------------------------------------------------------------------------------------------
def stop_worker(worker_id: int, detail: str = "the worker was stopped before a result was written") -> int:
    """Mark a worker as stopped, and return its claims to pending with an attempt that is lost. Returns how many."""
    now = database_now()
    with transaction.atomic():
        Worker.objects.filter(pk=worker_id, stopped_at=None).update(stopped_at=now, heartbeat_at=now, in_flight=0)
        worker = Worker.objects.get(pk=worker_id)
        return _return_claims(worker, now, detail, counts_as_loss=False)


def rescue() -> int:
    """Return the claims of workers whose lease ran out to pending, and count them. Any worker may run this."""
    now = database_now()
    rescued = 0
    for worker in Worker.objects.lapsed(now):
        with transaction.atomic():
            if not Worker.objects.lapsed(now).filter(pk=worker.pk).update(stopped_at=now, lost=True, in_flight=0):
                continue  # another worker took it over, or the owner has just renewed its lease
            detail = f"the worker (process {worker.pid} on {worker.host}) went away before a result was written"
            rescued += _return_claims(worker, now, detail, counts_as_loss=True)
            Event.objects.create(type="worker.lost", at=now, facts={"host": worker.host, "pid": worker.pid})
        log.warning(line("rescued", worker=worker.pk, host=worker.host, pid=worker.pid, claims=rescued))
    return rescued


def _return_claims(worker: Worker, now: datetime, detail: str, *, counts_as_loss: bool) -> int:
    """DELIVERING → PENDING, or DEAD after too many losses; each call leaves a lost attempt."""
    held = list(Message.objects.held_by(worker.pk).select_for_update().order_by("pk"))
    Attempt.objects.bulk_create(_lost_attempt(message, worker, now, detail) for message in held)
    changes = {"calls": F("calls") + 1, "losses": F("losses") + int(counts_as_loss), "last_detail": detail[:500]}
    buried = [message for message in held if counts_as_loss and message.losses >= MAX_LOSSES_ALONE]
    ends = messages.finished_as(Status.DEAD, now, dead_reason=DeadReason.WORKER_LOST, last_fault=Fault.WORKER_LOST)
    Message.objects.settle_as([message.pk for message in buried], changes={**ends, **changes})
    Message.objects.promote((message.service_id, message.ordering_key) for message in buried)
    Message.objects.held_by(worker.pk).update(**messages.back_to_pending(now, last_fault=Fault.WORKER_LOST, **changes))
    lost, dead = (Counter(message.service_id for message in those) for those in (held, buried))
    tally.add({service_id: tally.Counts(lost=lost[service_id], dead=dead[service_id]) for service_id in lost}, now)
    return len(held)


def _lost_attempt(message: Message, worker: Worker, now: datetime, detail: str) -> Attempt:
    return Attempt(
        message=message,
        service_id=message.service_id,
        endpoint_id=message.endpoint_id,
        number=message.calls + 1,
        trigger=trigger_for(message.attempts, message.probe_generation is not None),
        worker_id=worker.pk,
        started_at=message.claimed_at or now,
        outcome=Result.LOST,
        fault=Fault.WORKER_LOST,
        detail=detail,
        method=message.method,
    )
