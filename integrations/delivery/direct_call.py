"""One call now, waited for: through the same client, policy, breaker and log as delivery, without a message.

prepare  what is asked for, resolved; perhaps an answer that is still fresh
try      begin (admitted under the lock of the runtime row, with an attempt on disk) → send → end
again    a failure worth a retry, or a place that was not free, is tried again within the caller's patience

A call under way holds a *lease* in its service's runtime row, so that it counts for concurrency and the breaker in
every process. The call's end removes it; where the process dies, the lease runs out by itself soon after the call
would have had to end, and the attempt that it began stays as lost.

Steps that ask the database are plain functions for a thread; only waiting and sending happen on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Literal, cast

from django.core.cache import cache
from django.db import OperationalError, transaction
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, stop_any, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from integrations.delivery import accept, failure_groups, oauth
from integrations.delivery.admission import SLOT_HORIZON, Admission, admit, with_load
from integrations.delivery.attempt import call_facts
from integrations.delivery.feedback import fold
from integrations.delivery.request import build_call
from integrations.delivery.target import Target, target_of
from integrations.errors import Invalid
from integrations.logs import line
from integrations.models import (
    Attempt,
    Draft,
    Endpoint,
    Result,
    Runtime,
    Service,
    ServiceStatus,
    Trigger,
    database_now,
    tally,
)
from integrations.models.runtime import as_recent
from integrations.outbound.client import Call, Client
from integrations.outbound.connection import READ_CAP
from integrations.outbound.outcome import Fault, Outcome
from integrations.outbound.redaction import redacted_bytes, redacted_text
from integrations.policies import breaker, freshness, limits
from integrations.policies.verdict import Verdict, judge
from integrations.schemas.message import ProcessIn

log = logging.getLogger("switchboard.process")

TRIES = 3  # looks for a place and calls together; whoever needs more patience queues a message
WAIT = wait_exponential_jitter(multiplier=0.2, max=2, jitter=0.1)  # seconds between them
FULL_TIME = 0.9  # of the service's own time limit: a call that had so much and timed out is the service's failure
LEASE_MARGIN = 10.0  # seconds that a lease outlives its call's deadline: time to write the result
CACHED_SIZE = 128 * 1024  # bytes of an answer that is kept to be given again
UNFINISHED = "The call did not come to its end: the process that made it stopped."

Database = Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]  # makes a plain function one to wait for


@dataclass(frozen=True, slots=True)
class Asked:
    """A call as it was asked for, with all that its service and endpoint add to it."""

    draft: Draft
    actor: str
    timeout: float  # seconds for everything
    cache_key: str  # empty where the answer is not to be kept
    fresh: Answer | None  # an answer that can be given again


@dataclass(frozen=True, slots=True)
class Answer:
    """What the caller is told. ``kind`` is empty for success, else a fault word or why no call was made."""

    kind: str
    detail: str
    retry: bool  # whether the same call may go well later
    status_code: int | None = None
    body: bytes = b""  # without the service's secrets
    content_type: str = ""
    attempts: int = 0
    duration: float = 0.0  # seconds from the question to the answer
    cached: bool = False
    again: bool = False  # whether it is worth another try now


@dataclass(frozen=True, slots=True)
class Ticket:
    """A call that was admitted: its attempt is on disk, its lease in the runtime row."""

    target: Target
    attempt: Attempt
    generation: int
    ahead: float  # seconds until its send slot


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no call may be made now."""

    kind: Literal["paused", "breaker_open", "rate"]
    detail: str


def under_way(service: Service) -> set[int]:
    """The attempts of its process calls that may still come to an end: they are on disk as lost before they begin."""
    now = database_now().timestamp()
    leases = Runtime.objects.filter(service=service).values_list("leases", flat=True)
    return {attempt for of_service in leases for attempt, _, until in of_service if until > now}


# ---- prepare --------------------------------------------------------------------------------------------------------
def prepare(data: ProcessIn, actor: str) -> Asked:
    """The call as it will be made. Raises registry.Invalid, or schemas.TooLarge for the body."""
    service = Service.objects.filter(name=data.service).first()
    endpoint = Endpoint.objects.filter(service=service, name=data.endpoint).first() if data.endpoint else None
    known = accept.Known(
        {service.name: service} if service else {},
        {(endpoint.service_id, endpoint.name): endpoint} if endpoint else {},
    )
    draft = accept.draft(data.as_message(), known)
    key = _cache_key(draft)
    return Asked(
        draft=draft,
        actor=actor[:150],
        timeout=data.timeout or draft.service.timeouts.total,
        cache_key=key,
        fresh=_fresh(key, draft) if key else None,
    )


# ---- the call, on the event loop ------------------------------------------------------------------------------------
async def run(asked: Asked, *, client: Client, database: Database) -> Answer:
    """Makes the call and waits for its end.

    Raises OperationalError where the database does not answer, registry.Invalid where the service is gone by now.
    """
    if asked.fresh:
        return asked.fresh
    return await _Process(asked, client, database).run()


class _Process:
    """The tries of one process call."""

    def __init__(self, asked: Asked, client: Client, database: Database) -> None:
        self.asked, self.client, self.database = asked, client, database
        self.began = time.monotonic()
        self.calls = 0
        self.wire_id = ""  # the first attempt's id: with it a receiver can drop what a retry repeats
        self.retry_after = 0.0
        self.answer: Answer | None = None  # to the last call

    async def run(self) -> Answer:
        retrying = AsyncRetrying(
            stop=stop_any(stop_after_attempt(TRIES), stop_before_delay(self.asked.timeout)),
            wait=self._wait,
            retry=retry_if_result(lambda answer: answer.again),
            retry_error_callback=lambda state: cast(Any, state.outcome).result(),
        )
        answer: Answer = await retrying(self._try)
        return replace(answer, attempts=self.calls, duration=time.monotonic() - self.began)

    @property
    def left(self) -> float:
        """Seconds of the caller's patience."""
        return self.asked.timeout - (time.monotonic() - self.began)

    def _wait(self, state: RetryCallState) -> float:
        return max(WAIT(state), self.retry_after)

    async def _try(self) -> Answer:
        ticket = await self._begin()
        if isinstance(ticket, Refusal):
            again = ticket.kind == "rate"
            if self.answer:  # what a call came to says more than why there was no other
                return replace(self.answer, again=again)
            return Answer(ticket.kind, ticket.detail, retry=True, again=again)
        self.calls += 1
        self.wire_id = self.wire_id or ticket.attempt.public_id
        call, outcome = await self._sent(ticket)
        verdict = _judged(ticket, call, outcome)
        self.retry_after = verdict.retry_after or 0.0
        body = await self.database(_end)(ticket, self.asked, call, outcome, verdict)
        self.answer = Answer(
            kind=outcome.fault or "",
            detail=redacted_text(outcome.detail, ticket.target.secret_values),
            retry=verdict.action in ("retry", "pause"),
            status_code=outcome.status_code,
            body=body,
            content_type=outcome.header("content-type") or "",
            again=verdict.action == "retry" and self.calls < ticket.target.retry.attempts_allowed,
        )
        return self.answer

    async def _begin(self) -> Ticket | Refusal:
        try:
            async with asyncio.timeout(self.left):
                begun: Ticket | Refusal = await self.database(_begin)(self.asked, self.calls + 1, self.left)
        except TimeoutError:
            raise OperationalError("the database did not answer in time") from None
        return begun

    async def _sent(self, ticket: Ticket) -> tuple[Call | None, Outcome]:
        if ticket.ahead > 0:
            await asyncio.sleep(ticket.ahead)
        target = ticket.target
        try:
            call = _built(self.asked.draft, target, self.wire_id, database_time(ticket))
        except ValueError as error:
            return None, Outcome(fault=Fault.CONFIG, detail=f"the request cannot be built: {error}")
        ready = await oauth.authorized(self.client, target.service, self._within(call))
        if isinstance(ready, Outcome):
            return call, ready
        ready = self._within(ready)
        outcome = await self.client.send(ready)
        if outcome.status_code == HTTPStatus.UNAUTHORIZED:
            oauth.forget(target.service)
        if outcome.succeeded and outcome.truncated:
            outcome = replace(outcome, fault=Fault.TOO_LARGE, detail=f"the answer has more than {READ_CAP:,} bytes")
        return ready, outcome

    def _within(self, call: Call) -> Call:
        """The call inside what is left of the caller's patience."""
        return replace(call, keep=READ_CAP, total_timeout=min(call.total_timeout, max(self.left, 0.05)))


def database_time(ticket: Ticket) -> datetime:
    """About now, by the clock that the attempt was begun with."""
    return ticket.attempt.started_at + timedelta(seconds=max(0.0, ticket.ahead))


def _built(draft: Draft, target: Target, identifier: str, now: datetime) -> Call:
    """Raises ValueError where the request cannot be built."""
    return build_call(
        target.service,
        method=draft.method,
        path=draft.path,
        query=draft.query,
        headers=draft.headers,
        body=draft.body,
        content_type=draft.content_type,
        identifier=identifier,
        now=now,
        target=target,
    )


def _judged(ticket: Ticket, call: Call | None, outcome: Outcome) -> Verdict:
    """A caller who would not wait as long as the service may take says nothing about the service."""
    verdict = judge(outcome, ticket.target.retry, ticket.attempt.started_at)
    if outcome.fault is Fault.TIMEOUT and call and call.total_timeout < FULL_TIME * ticket.target.timeouts.total:
        return replace(verdict, breaker="neutral")
    return verdict


# ---- begin ----------------------------------------------------------------------------------------------------------
def _begin(asked: Asked, number: int, left: float) -> Ticket | Refusal:
    """Admits one call under the lock of its service's runtime row, and puts its attempt on disk."""
    with transaction.atomic():
        now = database_now()
        found = with_load(Runtime.objects.locked([asked.draft.service.pk]), now)
        if not found:
            raise Invalid((("service",), f"{asked.draft.service.name} was deleted meanwhile, or cannot be read"))
        runtime, target = found[0]
        if refusal := _hold(runtime, now):
            return refusal
        admission = admit(runtime, target, now)
        if refusal := _refused(admission, now, is_retry=number > 1):
            if admission.decided:
                runtime.save_decided()
            return refusal
        attempt = _begun(asked, target, number, now)
        (slot, *_), runtime.next_slot = limits.slots(target.limits, runtime.next_slot, now, 1, SLOT_HORIZON)
        is_retry = number > 1 and not admission.is_probing
        runtime.recent = limits.record(as_recent(runtime.recent), now, 1, int(is_retry))
        probing_for = runtime.generation if admission.is_probing else None
        runtime.lease(attempt.pk, probing_for, now, max(left, 0) + LEASE_MARGIN)
        runtime.save_decided()
    return Ticket(target, attempt, runtime.generation, (slot - now).total_seconds())


def _hold(runtime: Runtime, now: datetime) -> Refusal | None:
    """What keeps a service from being called at all: asked anew each time, somebody may have paused it meanwhile."""
    status, reason, name = Service.objects.values_list("status", "paused_reason", "name").get(pk=runtime.pk)
    if status == ServiceStatus.PAUSED:
        return Refusal("paused", f"{name} is paused{f': {reason}' if reason else ''}.")
    if runtime.is_throttled(now):
        return Refusal("rate", f"{name} asked us to wait until {cast(datetime, runtime.throttled_until):%H:%M:%S} UTC.")
    return None


def _refused(admission: Admission, now: datetime, *, is_retry: bool) -> Refusal | None:
    runtime, target, name = admission.runtime, admission.target, admission.target.service.name
    state = runtime.breaker
    if admission.places > 0:
        if is_retry and not admission.is_probing and admission.retries < 1:
            return Refusal("rate", f"The retries of {name} have used their share of this minute's calls.")
        return None
    if breaker.allowance(state, target.breaker, runtime.probes_in_flight, now) == 0:
        if state.state == "half_open":
            return Refusal("breaker_open", f"The breaker of {name} is half-open and waits for its probe.")
        return Refusal("breaker_open", f"The breaker of {name} is open{f' ({state.reason})' if state.reason else ''}.")
    if runtime.in_flight >= breaker.ceiling(state, target.limits.concurrency):
        return Refusal("rate", f"All {runtime.in_flight} places of {name} are taken by calls under way.")
    return Refusal("rate", f"The rate limit of {name} is used up for the moment.")


def _begun(asked: Asked, target: Target, number: int, now: datetime) -> Attempt:
    """The attempt before its call: its id travels as ``webhook-id``, and a crash leaves a trace."""
    draft = asked.draft
    return Attempt.objects.create(
        service_id=target.service.pk,
        endpoint=draft.endpoint,
        number=number,
        trigger=Trigger.PROCESS,
        actor=asked.actor,
        started_at=now,
        outcome=Result.LOST,
        fault=Fault.WORKER_LOST,
        detail=UNFINISHED,
        method=draft.method,
        url=redacted_text(draft.path, target.secret_values),
        request_body=redacted_bytes(draft.body, target.secret_values),
        request_size=len(draft.body),
    )


# ---- end ------------------------------------------------------------------------------------------------------------
def _end(ticket: Ticket, asked: Asked, call: Call | None, outcome: Outcome, verdict: Verdict) -> bytes:
    """Writes what came of a call, and answers the body that the caller may see."""
    facts = call_facts(call, outcome, ticket.target.secret_values)
    body: bytes = facts["response_body"]
    if asked.cache_key and outcome.succeeded:
        _keep(asked, outcome, body, ticket.target)
    try:
        _write(ticket, facts, outcome, verdict)
    except Exception:  # the call was made: its answer must not be lost with its record, which then stays as lost
        log.exception(line("unwritten", attempt=ticket.attempt.public_id))
    log.info(
        line(
            "attempt",
            service=ticket.target.service.name,
            endpoint=ticket.attempt.endpoint_id,
            message=None,
            attempt=ticket.attempt.public_id,
            trigger=Trigger.PROCESS,
            outcome="succeeded" if outcome.succeeded else "failed",
            fault=outcome.fault,
            status=outcome.status_code,
            duration=outcome.duration,
            next=verdict.action,
        )
    )
    return body


def _write(ticket: Ticket, facts: dict[str, Any], outcome: Outcome, verdict: Verdict) -> None:
    target, attempt = ticket.target, ticket.attempt
    kept = facts["response_body"][: target.service.response_cap]
    row = {
        **facts,
        "outcome": Result.SUCCEEDED if outcome.succeeded else Result.FAILED,
        "response_body": kept,
        "truncated": outcome.truncated or len(kept) < len(facts["response_body"]),
    }
    if not facts["method"]:  # nothing was built, so what was asked for stays
        row = {name: value for name, value in row.items() if name not in ("method", "url", "request_size")}
    now = database_now()
    sample = breaker.Sample(
        failed=verdict.breaker == "failure",
        slow=breaker.is_slow(target.breaker, outcome.duration),
        neutral=verdict.breaker == "neutral",
        generation=ticket.generation,
        at=now,
        attempt=attempt.public_id,
    )
    placed = {name: getattr(attempt, name) for name in ("id", "service_id", "endpoint_id", "message_id", "started_at")}
    with transaction.atomic():
        if Attempt.objects.filter(pk=attempt.pk).update(**row):
            failure_groups.record([{**placed, **row}], [None], now)
        for runtime in Runtime.objects.locked([attempt.service_id]):  # none where the service was deleted meanwhile
            runtime.end_lease(attempt.pk)
            fold(runtime, target, [sample], [verdict], now)
            runtime.save_decided()
            counted = tally.Counts(
                calls=1,
                failures=int(not outcome.succeeded),
                retries=int(attempt.number > 1),
            )
            counted.took(outcome.duration)
            tally.add({runtime.pk: counted}, now)


# ---- answers that are given again -----------------------------------------------------------------------------------
def _cache_key(draft: Draft) -> str:
    """Of a GET whose service lets answers be kept: the same for requests that the other side cannot tell apart.

    All headers are in it, so whatever ``Vary`` names is; the service's revision too, so a changed registration asks
    anew.
    """
    service = draft.service
    if draft.method != "GET" or not service.cache.get("ttl"):
        return ""
    try:
        target = target_of(service)
        call = _built(draft, target, "", target.revision)
    except ValueError:
        return ""
    headers = sorted((name.lower(), value) for name, value in call.headers)
    told = [row for row in headers if not row[0].startswith("webhook-")]
    text = json.dumps([service.pk, target.revision.isoformat(), call.url, told])
    return f"process:{hashlib.sha256(text.encode() + call.body).hexdigest()}"


def _fresh(key: str, draft: Draft) -> Answer | None:
    began = time.monotonic()
    try:
        found = cache.get(key)
    except Exception:  # a cache that is away costs a call, no more
        log.exception(line("cache away"))
        return None
    if not found:
        return None
    stored_at, status_code, content_type, body = found
    if not freshness.accepts(draft.headers.items(), time.time() - stored_at):
        return None
    took = time.monotonic() - began
    return Answer(
        "", "", False, status_code=status_code, body=body, content_type=content_type, duration=took, cached=True
    )


def _keep(asked: Asked, outcome: Outcome, body: bytes, target: Target) -> None:
    seconds = freshness.lifetime(outcome, target.service.cache.get("ttl", 0), database_now())
    if not seconds or len(body) > CACHED_SIZE or not freshness.may_be_kept(asked.draft.headers.items()):
        return
    entry = (time.time(), outcome.status_code, outcome.header("content-type") or "", body)
    try:
        cache.set(asked.cache_key, entry, seconds)
    except Exception:
        log.exception(line("cache away"))
