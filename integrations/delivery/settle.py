"""The path of a message as named steps: claim → admit → send → settle.

claim    what is due, from services that may be called now, becomes this worker's in one committed write
admit    how many calls a service gets: breaker, concurrency, rate, retry budget
send     one call through the client, outside any transaction
settle   what came of the calls, written together: attempts, messages, breaker, counters

Everything that several processes must agree on is decided under the lock of the service's runtime row.
Lock order: messages that are being delivered, then runtime rows (by service id), then messages that are pending.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from random import Random
from typing import Any
from urllib.parse import urlencode

from django.db import transaction

from integrations import failures, oauth
from integrations.client import Call, Client
from integrations.logs import line, write
from integrations.models import (
    Attempt,
    AuditEntry,
    Event,
    Message,
    Ordering,
    Priority,
    Result,
    Runtime,
    Service,
    Status,
    Trigger,
    database_now,
    identifiers,
    queue,
    rows,
    tally,
)
from integrations.models import message as messages
from integrations.models.message import Outgoing, Settled
from integrations.models.runtime import as_recent
from integrations.network import Network
from integrations.outcome import Fault, Outcome
from integrations.policies import breaker, limits
from integrations.policies.limits import Timeout
from integrations.policies.retry import DeadReason, RetryPolicy, next_attempt
from integrations.policies.verdict import Verdict, judge
from integrations.redaction import redacted_bytes, redacted_headers, redacted_text, redacted_url
from integrations.signing import Signer

log = logging.getLogger("switchboard.delivery")
random = Random()  # noqa: S311 - jitter is no secret
os.register_at_fork(after_in_child=random.seed)  # so that forked lanes do not draw the same

SERVICES_AT_ONCE = 200  # services looked at in one claim; they take turns, so the others are next
SLOT_HORIZON = timedelta(milliseconds=250)  # how far ahead send slots of a rate are claimed
SLOT_LATENESS = 0.015  # seconds a send may come after its slot before the slot is given back
SLOT_LEAD = timedelta(milliseconds=20)  # from the claim to its first slot: what a claim takes until it can be sent
PARK_ROUNDS = 8  # looks past parked messages of ordering keys in one claim
BURIED_AT_ONCE = 500  # messages whose deadline has passed, in one claim


# ---- what a claim carries -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Target:
    """A service's configuration, parsed once for each change of it."""

    service: Service
    revision: datetime  # its updated_at when it was parsed
    retry: RetryPolicy
    breaker: breaker.BreakerPolicy
    limits: limits.Limits
    timeouts: Timeout
    allowed: tuple[Network, ...]
    secret_values: tuple[str, ...]
    signer: Signer


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


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of a claim."""

    claim: Claim
    call: Call | None
    outcome: Outcome
    started_at: datetime


_targets: dict[int, Target] = {}


def target_of(service: Service) -> Target:
    kept = _targets.get(service.pk)
    if kept is None or kept.revision != service.updated_at:
        kept = _targets[service.pk] = Target(
            service=service,
            revision=service.updated_at,
            retry=_retry_policy(service),
            breaker=service.breaker_policy,
            limits=service.limits_policy,
            timeouts=service.timeouts,
            allowed=service.allowed_networks,
            secret_values=tuple(service.secret_values),
            signer=service.signer,
        )
    return kept


def target_for(runtime: Runtime) -> Target | None:
    """None for a registration that cannot be read (a lost encryption key): it holds its own messages, nobody else's."""
    kept = _targets.get(runtime.pk)
    if kept is not None and kept.revision == runtime.configured_at:
        return kept
    try:
        return target_of(Service.objects.get(pk=runtime.pk))
    except Exception:
        log.exception(line("unusable", service=runtime.pk))
        return None


def _retry_policy(service: Service) -> RetryPolicy:
    """With OAuth 2 a 401 mostly means that the token has ended early: it is tried again, with a fresh one."""
    policy = service.retry_policy
    if service.auth.get("type") != "oauth2":
        return policy
    return policy.model_copy(update={"retry_on": (*policy.retry_on, HTTPStatus.UNAUTHORIZED.value)})


# ---- claim ----------------------------------------------------------------------------------------------------------
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
            admission.places = min(admission.places, (left or {}).get(admission.runtime.pk, capacity))
        _choose_candidates(admissions, due, capacity, now)
        places = limits.share(capacity, [len(admission.candidates) for admission in admissions])
        taken = _take([(a, a.candidates[:count]) for a, count in zip(admissions, places, strict=True)], worker_id, now)
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
            ids = list(due.order_by("due_at", "pk").values_list("pk", flat=True)[: min(1, admission.places)])
            taken = _take([(admission, ids)], worker_id, now)
            if admission.decided:
                runtime.save_decided()
            if taken:
                break
        else:
            return []
    return _claims(taken, worker_id, now)


# ---- admit ----------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Admission:
    """What one service gets in this claim."""

    runtime: Runtime
    target: Target
    places: int
    retries: int  # how many of them the retry budget leaves for retries
    is_probing: bool
    candidates: list[int] = field(default_factory=list)
    decided: bool = False  # whether the runtime row has something new to write
    retries_chosen: int = 0

    def wanted(self, priority: Priority, capacity: int) -> int:
        """How many more messages of this priority there is room for."""
        room = min(self.places, capacity) - len(self.candidates)
        if priority == Priority.RETRY and not self.is_probing:
            return min(room, self.retries - self.retries_chosen)
        return room


def with_load(runtimes: Iterable[Runtime], now: datetime) -> list[tuple[Runtime, Target]]:
    """The locked rows, each with its calls and probes in flight: counted from claims, and from process calls' leases,
    so that a crash leaks no permit."""
    found = [(runtime, target_for(runtime)) for runtime in runtimes]
    usable = [(runtime, target) for runtime, target in found if target is not None]
    load = queue.load([runtime.pk for runtime, _ in usable]) if usable else {}
    for runtime, _ in usable:
        leased = runtime.leased(now)
        runtime.in_flight = sum(load[runtime.pk].values()) + len(leased)
        runtime.probes_in_flight = load[runtime.pk].get(runtime.generation, 0) + leased.count(runtime.generation)
    return usable


def admit(runtime: Runtime, target: Target, now: datetime) -> Admission:
    """How many calls the service may have now."""
    before = runtime.breaker
    state, changes = breaker.turn(before, target.breaker, now)
    if state is not before:
        runtime.breaker = state
    if changes:
        runtime.probes_in_flight = 0
        Event.objects.record_changes(target.service, changes, now)
    allowed = breaker.allowance(state, target.breaker, runtime.probes_in_flight, now)
    places = max(0, breaker.ceiling(state, target.limits.concurrency) - runtime.in_flight)
    if allowed is not None:
        places = min(places, allowed)
    if target.limits.rate:
        places = len(_slots(target, runtime, now, places)[0])
    return Admission(
        runtime=runtime,
        target=target,
        places=places,
        retries=limits.budget_left(as_recent(runtime.recent), target.retry.budget, now),
        is_probing=state.state == "half_open" and allowed is not None,
        decided=state is not before,
    )


def _slots(
    target: Target, runtime: Runtime, now: datetime, wanted: int
) -> tuple[tuple[datetime, ...], datetime | None]:
    """Send slots. The first ones of a quick rate would have passed before the claim is written, and go in a clump."""
    lead = SLOT_LEAD if target.limits.rate and target.limits.interval < SLOT_LEAD else timedelta(0)
    return limits.slots(target.limits, runtime.next_slot, now + lead, wanted, SLOT_HORIZON)


def _choose_candidates(
    admissions: Sequence[Admission], due: dict[int, list[Priority]], capacity: int, now: datetime
) -> None:
    """Each service's next messages: first tries, then retries within their budget, then bulk replays."""
    hungry = [admission for admission in admissions if admission.places]
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
        times, next_slot = _slots(admission.target, admission.runtime, now, len(ids))
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
        is_awaited=admission.is_probing or bool(message.ordering_key) or len(admission.candidates) >= admission.places,
    )


def trigger_of(attempts: int, is_probing: bool) -> Trigger:
    if is_probing:
        return Trigger.PROBE
    return Trigger.RETRY if attempts else Trigger.FIRST


# ---- send -----------------------------------------------------------------------------------------------------------
async def send(client: Client, claimed: Claim, now: datetime) -> CallResult:
    """Makes the call. Whatever goes wrong is in the outcome."""
    message = claimed.message
    try:
        call = build_call(
            claimed.target.service,
            method=message.method,
            path=message.path,
            query=message.query,
            headers=message.headers,
            body=bytes(message.body),
            content_type=message.content_type,
            identifier=message.wire_id,
            now=now,
            target=claimed.target,
        )
    except Exception as error:  # whatever a registration holds, the pump goes on
        if not isinstance(error, ValueError):
            log.exception(line("unbuildable", message=message.public_id))
        words = str(error) if isinstance(error, ValueError) else type(error).__name__
        outcome = Outcome(fault=Fault.CONFIG, detail=f"the request cannot be built: {words}")
        return CallResult(claimed, None, outcome, now)
    ready = await oauth.authorized(client, claimed.target.service, call)
    if isinstance(ready, Outcome):
        return CallResult(claimed, call, ready, now)
    outcome = await client.send(ready)
    if outcome.status_code == HTTPStatus.UNAUTHORIZED:
        oauth.forget(claimed.target.service)
    return CallResult(claimed, ready, outcome, now)


def build_call(
    service: Service,
    *,
    method: str,
    path: str,
    query: dict[str, Any],
    headers: dict[str, str],
    body: bytes,
    content_type: str,
    identifier: str,
    now: datetime,
    target: Target | None = None,
) -> Call:
    """The call as it goes out: the service's address, headers and authentication around what is to be sent.

    ``identifier`` becomes ``webhook-id``. Raises ValueError where the request cannot be built.
    """
    target = target or target_of(service)
    if not service.base_url:
        raise ValueError("the service has no address")
    merged: dict[str, tuple[str, str]] = {}
    for name, value in [*service.headers.items(), *headers.items()]:
        merged[name.lower()] = (name, value)
    if content_type and "content-type" not in merged:
        merged["content-type"] = ("Content-Type", content_type)
    for name, value in [
        *_proof(service, body),
        ("webhook-id", identifier),
        ("webhook-timestamp", str(int(now.timestamp()))),
        *target.signer.headers(identifier, now, body),
    ]:
        merged[name.lower()] = (name, value)
    return Call(
        method=method,
        url=_address(service.base_url, path, query),
        headers=tuple(merged.values()),
        body=body,
        connect_timeout=target.timeouts.connect_within,
        total_timeout=target.timeouts.total,
        keep=service.response_cap,
        allowed=target.allowed,
    )


def _address(base: str, path: str, query: dict[str, Any]) -> str:
    """The path below the service's address; parameters of the address come first."""
    base, _, own_query = base.partition("?")
    parameters = "&".join(part for part in (own_query, urlencode(query, doseq=True) if query else "") if part)
    return base.rstrip("/") + path + (f"?{parameters}" if parameters else "")


def _proof(service: Service, body: bytes) -> list[tuple[str, str]]:
    """The headers that prove who is calling."""
    auth = service.auth
    match auth.get("type"):
        case "basic":
            pair = f"{auth['username']}:{service.secret('auth.password') or ''}"
            return [("Authorization", f"Basic {b64encode(pair.encode()).decode()}")]
        case "bearer":
            return [("Authorization", f"Bearer {service.secret('auth.token') or ''}")]
        case "header":
            return [(auth["name"], service.secret("auth.value") or "")]
        case "hmac":
            key = (service.secret("auth.secret") or "").encode()
            return [(auth["header"], hmac.new(key, body, hashlib.sha256).hexdigest())]
    return []  # OAuth 2 needs a call of its own: see oauth.py


# ---- settle ---------------------------------------------------------------------------------------------------------
def settle(results: Sequence[CallResult]) -> None:
    """Writes what came of the calls in one transaction. A result whose claim was lost becomes history, no more."""
    with transaction.atomic():
        now, fences = queue.fence([result.claim.message.pk for result in results])
        current, late = _fenced(results, fences)
        decisions = [_decide(result, now) for result in current]
        attempts = [_attempt(decision, fences[decision.message.pk].attempt_id) for decision in decisions]
        rows.append(Attempt, attempts)
        groups = failures.record(attempts, [decision.message.failure_id for decision in decisions], now)
        Message.objects.settle(
            [
                _settled(decision, now, groups.get(attempt["id"]))
                for decision, attempt in zip(decisions, attempts, strict=True)
            ]
        )
        # Locked late and so held briefly: other lanes claim for these services meanwhile.
        _write_runtimes(decisions, attempts, now)
        Message.objects.promote(
            (decision.message.service_id, decision.message.ordering_key) for decision in decisions if decision.ends
        )
        for result in late:
            _fill_in(result)
        tally.add(_counts(decisions), now)
    write(log, [_line(decision) for decision in decisions])


def settle_bare(result: CallResult) -> None:
    """Settles a result that the database would not take, without what the other side put into it."""
    outcome = replace(result.outcome, headers=(), body=b"", truncated=True, detail="the answer could not be recorded")
    settle([replace(result, outcome=outcome)])


def _fenced(results: Sequence[CallResult], fences: dict[int, queue.Fence]) -> tuple[list[CallResult], list[CallResult]]:
    """The results whose claim still stands, and the late ones."""
    current: list[CallResult] = []
    late: list[CallResult] = []
    for result in results:
        claimed = result.claim
        fence = fences.get(claimed.message.pk)
        stands = fence is not None and (fence.worker_id, fence.calls) == (claimed.worker_id, claimed.number - 1)
        (current if stands else late).append(result)
    return current, late


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of a message after its call."""

    result: CallResult
    verdict: Verdict
    status: Status
    due_at: datetime | None = None
    dead_reason: DeadReason | None = None

    @property
    def message(self) -> Outgoing:
        return self.result.claim.message

    @property
    def ends(self) -> bool:
        return self.status != Status.PENDING


def _decide(result: CallResult, now: datetime) -> Decision:
    retry, message = result.claim.target.retry, result.claim.message
    verdict = judge(result.outcome, retry, now)
    if verdict.action == "deliver":
        return Decision(result, verdict, Status.DELIVERED)
    if verdict.action == "bury":
        return Decision(result, verdict, Status.DEAD, dead_reason=verdict.dead_reason)
    if verdict.action == "pause":
        if message.attempts + 1 >= retry.attempts_allowed:
            return Decision(result, verdict, Status.DEAD, dead_reason=DeadReason.GONE)
        return Decision(result, verdict, Status.PENDING, due_at=now)
    following = next_attempt(
        retry,
        attempts=message.attempts + 1,
        first_due=message.first_due,
        expires_at=message.expires_at,
        now=now,
        retry_after=verdict.retry_after,
        random=random,
    )
    if isinstance(following, DeadReason):
        return Decision(result, verdict, Status.DEAD, dead_reason=following)
    return Decision(result, verdict, Status.PENDING, due_at=following)


def _attempt(decision: Decision, key: int) -> dict[str, Any]:
    """The attempt's row."""
    result = decision.result
    claimed, outcome = result.claim, result.outcome
    return {
        "id": key,
        "nonce": identifiers.fresh_nonce(),
        "message_id": claimed.message.pk,
        "service_id": claimed.message.service_id,
        "endpoint_id": claimed.message.endpoint_id,
        "number": claimed.number,
        "trigger": claimed.trigger,
        "worker_id": claimed.worker_id,
        "actor": "",
        "started_at": result.started_at,
        "outcome": Result.SUCCEEDED if outcome.succeeded else Result.FAILED,
        "retry_at": decision.due_at,
        "request_body": None,  # it is in the message's content
        **call_facts(result.call, outcome, claimed.target.secret_values),
    }


def call_facts(call: Call | None, outcome: Outcome, secret_values: Iterable[str]) -> dict[str, Any]:
    """The columns of an attempt that say what was sent and what came back, without secrets."""
    known = (*secret_values, *_bearer(call))
    return {
        "duration": outcome.duration,
        "fault": outcome.fault or "",
        "status_code": outcome.status_code,
        "detail": redacted_text(outcome.detail, known)[:500],
        "timings": outcome.timings.as_json(),
        "method": call.method if call else "",
        "url": redacted_url(call.url, known)[:4500] if call else "",
        "request_headers": redacted_headers(call.headers, known) if call else [],
        "request_size": len(call.body) if call else 0,
        "response_headers": redacted_headers(outcome.headers, known),
        "response_body": redacted_bytes(outcome.body, known),
        "response_size": outcome.size,
        "truncated": outcome.truncated,
    }


def _bearer(call: Call | None) -> tuple[str, ...]:
    """A fetched OAuth token is nobody's registered secret, and must not be kept where an answer echoes it."""
    headers = call.headers if call else ()
    return tuple(value[7:] for name, value in headers if name == "Authorization" and value.startswith("Bearer "))


def _settled(decision: Decision, now: datetime, failure_id: int | None) -> Settled:
    """What becomes of the message's row."""
    message, outcome = decision.message, decision.result.outcome
    is_pending = decision.status == Status.PENDING
    again = Priority.BULK if message.priority == Priority.BULK else Priority.RETRY
    return Settled(
        pk=message.pk,
        status=decision.status,
        priority=again if is_pending else Priority(message.priority),
        due_at=(decision.due_at or now) if is_pending else None,
        finished_at=None if is_pending else now,
        dead_reason=decision.dead_reason or "",
        last_status_code=outcome.status_code,
        last_fault=outcome.fault or "",
        last_detail=redacted_text(outcome.detail, decision.result.claim.target.secret_values)[:500],
        failure_id=failure_id,
    )


def _write_runtimes(decisions: Sequence[Decision], attempts: Sequence[dict[str, Any]], now: datetime) -> None:
    """Folds the results into each service's breaker and pace."""
    by_service: dict[int, list[tuple[Decision, dict[str, Any]]]] = defaultdict(list)
    for decision, attempt in zip(decisions, attempts, strict=True):
        by_service[decision.message.service_id].append((decision, attempt))
    runtimes = Runtime.objects.locked(by_service)
    for runtime in runtimes:
        _write_runtime(runtime, by_service[runtime.pk], now)
    Runtime.objects.save_decided(runtimes)


def _write_runtime(runtime: Runtime, pairs: list[tuple[Decision, dict[str, Any]]], now: datetime) -> None:
    target = pairs[0][0].result.claim.target
    samples = [_sample(decision, attempt, target.breaker, now) for decision, attempt in pairs]
    fold(runtime, target, samples, [decision.verdict for decision, _ in pairs], now)


def fold(
    runtime: Runtime, target: Target, samples: list[breaker.Sample], verdicts: Sequence[Verdict], now: datetime
) -> None:
    """Folds calls into a locked row, and into the service where they mean more; the caller saves the row."""
    before = runtime.breaker
    backlog = before.state == "half_open" and Message.objects.due(now).filter(service_id=runtime.pk).is_any()
    state, changes = breaker.after(
        before, target.breaker, samples, now, concurrency=target.limits.concurrency, backlog=backlog
    )
    runtime.breaker = state
    if changes:
        Event.objects.record_changes(target.service, changes, now)
    waits = [verdict.throttle for verdict in verdicts if verdict.throttle]
    if waits:
        until = now + timedelta(seconds=max(waits))
        runtime.throttled_until = max(until, runtime.throttled_until or until)
    gone = any(verdict.action == "pause" for verdict in verdicts)
    # An operator's own pause stands, with its reason and its end.
    if gone and not (service := Service.objects.get(pk=runtime.pk)).is_paused and service.pause("answered 410 Gone"):
        Event.objects.create(type="service.paused", at=now, service=service, facts={"reason": "answered 410 Gone"})
        AuditEntry.objects.record("switchboard", "service.paused", service.name, reason="answered 410 Gone")


def _sample(
    decision: Decision, attempt: dict[str, Any], policy: breaker.BreakerPolicy, now: datetime
) -> breaker.Sample:
    return breaker.Sample(
        failed=decision.verdict.breaker == "failure",
        slow=breaker.is_slow(policy, decision.result.outcome.duration),
        neutral=decision.verdict.breaker == "neutral",
        generation=decision.result.claim.generation,
        at=now,
        attempt=identifiers.public_id("att", attempt["id"], attempt["nonce"]),
    )


def _counts(decisions: Sequence[Decision]) -> dict[int, tally.Counts]:
    counts: dict[int, tally.Counts] = defaultdict(tally.Counts)
    for decision in decisions:
        counted = counts[decision.message.service_id]
        counted.calls += 1
        counted.failures += not decision.result.outcome.succeeded
        counted.retries += decision.result.claim.trigger == Trigger.RETRY
        counted.delivered += decision.status == Status.DELIVERED
        counted.dead += decision.status == Status.DEAD
        counted.took(decision.result.outcome.duration)
    return counts


def _fill_in(result: CallResult) -> None:
    """A late result completes the history of its lost call; the message goes its own way."""
    facts = call_facts(result.call, result.outcome, result.claim.target.secret_values)
    facts["detail"] = f"the answer came after the claim was lost: {facts['detail']}"[:500]
    Attempt.objects.filter(message_id=result.claim.message.pk, number=result.claim.number, outcome=Result.LOST).update(
        **facts
    )
    log.warning(line("late", message=result.claim.message.public_id, attempt=result.claim.number))


def _line(decision: Decision) -> str:
    claimed, outcome = decision.result.claim, decision.result.outcome
    return line(
        "attempt",
        service=claimed.target.service.name,
        endpoint=claimed.message.endpoint_id,
        message=claimed.message.public_id,
        attempt=claimed.number,
        trigger=claimed.trigger,
        outcome="succeeded" if outcome.succeeded else "failed",
        fault=outcome.fault,
        status=outcome.status_code,
        duration=outcome.duration,
        next=decision.due_at.isoformat() if decision.due_at else decision.status,
    )


# ---- giving back ----------------------------------------------------------------------------------------------------
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
