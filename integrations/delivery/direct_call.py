"""`POST /process`: one call that the caller waits for. Client, policies, breaker and log are those of delivery, but
there is no message.

prepare  validate the request and resolve its service and endpoint; look for a cached response
try      begin (admission under the lock of the runtime row; the attempt is on disk) → send → end
retry    after a failure worth a retry, or if no concurrency was free, within the caller's timeout

A call in flight holds a *lease* in its service's runtime row, so that every process counts it for concurrency and the
breaker. The end of the call removes the lease. If the process dies, the lease runs out soon after the deadline of the
call, and the attempt that was begun stays as lost.

Functions that use the database are synchronous and run in a thread; the event loop only waits and sends.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, cast

from django.core.cache import cache
from django.db import OperationalError, transaction
from tenacity import AsyncRetrying, RetryCallState, retry_if_result, stop_after_attempt, stop_any, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from integrations.delivery import accept, failure_groups, listeners, unqueued_call
from integrations.delivery.admission import SLOT_HORIZON, Admission, admit, with_load
from integrations.delivery.feedback import feed_back
from integrations.delivery.request import build_call
from integrations.delivery.send import make_call
from integrations.delivery.target import Target, target_of
from integrations.errors import Invalid
from integrations.logs import line
from integrations.models import (
    Attempt,
    Draft,
    Endpoint,
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
from integrations.outbound.redaction import redacted_text
from integrations.policies import breaker, freshness, limits, trace
from integrations.policies.verdict import Verdict, judge
from integrations.schemas.message import ProcessIn

log = logging.getLogger("switchboard.process")

TRIES = 3  # admissions and calls together; a client that needs more retries queues a message
WAIT = wait_exponential_jitter(multiplier=0.2, max=2, jitter=0.1)  # seconds between them
FULL_TIME = 0.9  # of the service's own timeout: a call that had this much and timed out is the service's failure
LEASE_MARGIN = 10.0  # seconds that a lease outlives its call's deadline: time to write the result
CACHED_SIZE = 128 * 1024  # bytes of a response that may be cached

InThread = Callable[[Callable[..., Any]], Callable[..., Awaitable[Any]]]  # makes a synchronous function awaitable


@dataclass(frozen=True, slots=True)
class DirectRequest:
    """A validated request, with everything that its service and endpoint add to it."""

    draft: Draft
    actor: str
    timeout: float  # seconds for everything
    cache_key: str  # empty if the response may not be cached
    cached: DirectResult | None  # a cached response that is still fresh


@dataclass(frozen=True, slots=True)
class DirectResult:
    """The result for the caller. ``kind`` is empty for success, else a fault word or why no call was made."""

    kind: str
    detail: str
    retry: bool  # whether the same call may succeed later
    status_code: int | None = None
    body: bytes = b""  # without the service's secrets
    content_type: str = ""
    attempts: int = 0
    duration: float = 0.0  # seconds from the request to the result
    cached: bool = False
    again: bool = False  # whether another try now is worth it


@dataclass(frozen=True, slots=True)
class _AdmittedCall:
    """A call that may be made: its attempt is on disk, its lease in the runtime row."""

    target: Target
    attempt: Attempt
    generation: int
    delay: float  # seconds until its send slot

    @property
    def database_time(self) -> datetime:
        """The time of its send slot, by the clock that the attempt was begun with."""
        return self.attempt.started_at + timedelta(seconds=max(0.0, self.delay))


@dataclass(frozen=True, slots=True)
class _Refusal:
    """The reason why no call may be made now."""

    kind: Literal["paused", "breaker_open", "rate"]
    detail: str


def calls_in_flight(service: Service) -> set[int]:
    """Return the attempts of a service's direct calls that may still end. On disk they are lost until then."""
    now = database_now().timestamp()
    leases = Runtime.objects.filter(service=service).values_list("leases", flat=True)
    return {attempt for of_service in leases for attempt, _, until in of_service if until > now}


# ---- prepare --------------------------------------------------------------------------------------------------------
def prepare(data: ProcessIn, actor: str, request: Mapping[str, str] | None = None) -> DirectRequest:
    """Validate a direct call and resolve its names; ``request`` has the headers that it came with.

    Raises Invalid, or TooLarge for the body.
    """
    listeners.refresh_if_old()
    service = Service.objects.filter(name=data.service).first()
    endpoint = Endpoint.objects.filter(service=service, name=data.endpoint).first() if data.endpoint else None
    lookup = accept.Lookup(
        {service.name: service} if service else {},
        {(endpoint.service_id, endpoint.name): endpoint} if endpoint else {},
    )
    draft = accept.make_draft(data.as_message(), lookup, request=request)
    key = _cache_key(draft)
    return DirectRequest(
        draft=draft,
        actor=actor,
        timeout=data.timeout or draft.service.timeouts.total,
        cache_key=key,
        cached=_cached(key, draft) if key else None,
    )


# ---- the call, on the event loop ------------------------------------------------------------------------------------
async def run(request: DirectRequest, *, client: Client, in_thread: InThread) -> DirectResult:
    """Make the call, with retries, and wait for its end.

    Raises OperationalError if the database does not respond in time, Invalid if the service was deleted.
    """
    return request.cached or await _DirectCall(request, client, in_thread).run()


class _DirectCall:
    """The tries of one direct call."""

    def __init__(self, request: DirectRequest, client: Client, in_thread: InThread) -> None:
        self.request, self.client, self.in_thread = request, client, in_thread
        self.started = time.monotonic()
        self.calls = 0
        self.wire_id = ""  # the first attempt's id, so that a receiver can drop what a retry repeats
        self.retry_after = 0.0
        self.result: DirectResult | None = None  # of the last call

    async def run(self) -> DirectResult:
        retrying = AsyncRetrying(
            stop=stop_any(stop_after_attempt(TRIES), stop_before_delay(self.request.timeout)),
            wait=self._wait,
            retry=retry_if_result(lambda result: result.again),
            retry_error_callback=lambda state: cast(Any, state.outcome).result(),
        )
        result: DirectResult = await retrying(self._try)
        return replace(result, attempts=self.calls, duration=time.monotonic() - self.started)

    @property
    def time_left(self) -> float:
        """Seconds until the caller's timeout."""
        return self.request.timeout - (time.monotonic() - self.started)

    def _wait(self, state: RetryCallState) -> float:
        return max(WAIT(state), self.retry_after)

    async def _try(self) -> DirectResult:
        admitted = await self._begin()
        if isinstance(admitted, _Refusal):
            again = admitted.kind == "rate"
            if self.result:  # the result of a call says more than the reason why there was no other
                return replace(self.result, again=again)
            return DirectResult(admitted.kind, admitted.detail, retry=True, again=again)
        self.calls += 1
        self.wire_id = self.wire_id or admitted.attempt.public_id
        call, outcome = await self._send(admitted)
        verdict = _judge(admitted, call, outcome)
        self.retry_after = verdict.retry_after or 0.0
        body = await self.in_thread(_end)(admitted, self.request, call, outcome, verdict)
        self.result = DirectResult(
            kind=outcome.fault or "",
            detail=redacted_text(outcome.detail, admitted.target.secret_values),
            retry=verdict.action in ("retry", "pause"),
            status_code=outcome.status_code,
            body=body,
            content_type=outcome.header("content-type") or "",
            again=verdict.action == "retry" and self.calls < admitted.target.retry.attempts_allowed,
        )
        return self.result

    async def _begin(self) -> _AdmittedCall | _Refusal:
        try:
            async with asyncio.timeout(self.time_left):
                admitted: _AdmittedCall | _Refusal = await self.in_thread(_begin)(
                    self.request, self.calls + 1, self.time_left
                )
        except TimeoutError:
            raise OperationalError("the database did not answer in time") from None
        return admitted

    async def _send(self, admitted: _AdmittedCall) -> tuple[Call | None, Outcome]:
        if admitted.delay > 0:
            await asyncio.sleep(admitted.delay)
        target = admitted.target
        build = partial(_build, self.request.draft, target, self.wire_id, admitted.database_time)
        call, outcome = await make_call(self.client, target.service, build, bounded=self._bounded)
        if outcome.succeeded and outcome.truncated:
            outcome = replace(outcome, fault=Fault.TOO_LARGE, detail=f"the answer has more than {READ_CAP:,} bytes")
        return call, outcome

    def _bounded(self, call: Call) -> Call:
        """The call within the time that the caller has left."""
        return replace(call, keep=READ_CAP, total_timeout=min(call.total_timeout, max(self.time_left, 0.05)))


def _build(draft: Draft, target: Target, identifier: str, now: datetime) -> Call:
    return build_call(target.service, draft, identifier=identifier, now=now, target=target)


def _judge(admitted: _AdmittedCall, call: Call | None, outcome: Outcome) -> Verdict:
    """Judge an outcome. A caller's timeout shorter than the service's says nothing about the service."""
    verdict = judge(outcome, admitted.target.retry, admitted.attempt.started_at)
    if outcome.fault is Fault.TIMEOUT and call and call.total_timeout < FULL_TIME * admitted.target.timeouts.total:
        return replace(verdict, breaker="neutral")
    return verdict


# ---- begin ----------------------------------------------------------------------------------------------------------
def _begin(request: DirectRequest, number: int, time_left: float) -> _AdmittedCall | _Refusal:
    """Admit one call under the lock of its service's runtime row, and write its attempt."""
    draft = request.draft
    with transaction.atomic():
        now = database_now()
        found = with_load(Runtime.objects.locked([draft.service.pk]), now)
        if not found:
            raise Invalid((("service",), f"{draft.service.name} was just deleted, or cannot be read"))
        runtime, target = found[0]
        if refusal := _refuse_paused(runtime, now):
            return refusal
        admission = admit(runtime, target, now)
        if refusal := _refuse(admission, now, is_retry=number > 1):
            if admission.decided:
                runtime.save_decided()
            return refusal
        attempt = unqueued_call.begin(
            target,
            draft,
            trigger=Trigger.PROCESS,
            started_at=now,
            actor=request.actor,
            endpoint=draft.endpoint,
            number=number,
        )
        (slot, *_), runtime.next_slot = limits.slots(target.limits, runtime.next_slot, now, 1, SLOT_HORIZON)
        is_retry = number > 1 and not admission.is_probing
        runtime.recent = limits.record(as_recent(runtime.recent), now, 1, int(is_retry))
        probing_for = runtime.generation if admission.is_probing else None
        runtime.lease(attempt.pk, probing_for, now, max(time_left, 0) + LEASE_MARGIN)
        runtime.save_decided()
    return _AdmittedCall(target, attempt, runtime.generation, (slot - now).total_seconds())


def _refuse_paused(runtime: Runtime, now: datetime) -> _Refusal | None:
    """Refuse calls to a paused or throttled service. Read for each try: an operator may have paused it since."""
    status, reason, name = Service.objects.values_list("status", "paused_reason", "name").get(pk=runtime.pk)
    if status == ServiceStatus.PAUSED:
        return _Refusal("paused", f"{name} is paused{f': {reason}' if reason else ''}.")
    if status == ServiceStatus.DELETING:
        return _Refusal("paused", f"{name} is being deleted.")
    if runtime.is_throttled(now):
        return _Refusal(
            "rate", f"{name} asked us to wait until {cast(datetime, runtime.throttled_until):%H:%M:%S} UTC."
        )
    return None


def _refuse(admission: Admission, now: datetime, *, is_retry: bool) -> _Refusal | None:
    runtime, target, name = admission.runtime, admission.target, admission.target.service.name
    state = runtime.breaker
    if admission.permits > 0:
        if is_retry and not admission.is_probing and admission.retries < 1:
            return _Refusal("rate", f"The retry budget of {name} is used up for this minute.")
        return None
    if breaker.allowance(state, target.breaker, runtime.probes_in_flight, now) == 0:
        if state.state == "half_open":
            return _Refusal("breaker_open", f"The breaker of {name} is half-open and waits for its probe.")
        return _Refusal("breaker_open", f"The breaker of {name} is open{f' ({state.reason})' if state.reason else ''}.")
    if runtime.in_flight >= breaker.ceiling(state, target.limits.concurrency):
        return _Refusal("rate", f"{name} has {runtime.in_flight} calls in flight, its maximum.")
    return _Refusal("rate", f"The rate limit of {name} is used up for the moment.")


# ---- end ------------------------------------------------------------------------------------------------------------
def _end(
    admitted: _AdmittedCall, request: DirectRequest, call: Call | None, outcome: Outcome, verdict: Verdict
) -> bytes:
    """Write the result of a call, and return the body that the caller may see."""
    columns = unqueued_call.end_columns(admitted.target, call, outcome)
    body: bytes = columns["response_body"]
    if request.cache_key and outcome.succeeded:
        _cache(request, outcome, body, admitted.target)
    try:
        _write(admitted, columns, outcome, verdict)
    except Exception:  # the call was made: the caller gets its result even if the record stays as lost
        log.exception(line("unwritten", attempt=admitted.attempt.public_id))
    log.info(
        line(
            "attempt",
            service=admitted.target.service.name,
            endpoint=admitted.attempt.endpoint_id,
            message=None,
            attempt=admitted.attempt.public_id,
            trigger=Trigger.PROCESS,
            outcome="succeeded" if outcome.succeeded else "failed",
            fault=outcome.fault,
            status=outcome.status_code,
            duration=outcome.duration,
            next=verdict.action,
            **trace.logged(call.headers if call else ()),
        )
    )
    return body


def _write(admitted: _AdmittedCall, columns: dict[str, Any], outcome: Outcome, verdict: Verdict) -> None:
    target, attempt = admitted.target, admitted.attempt
    body = columns["response_body"]
    stored = body[: target.service.response_cap]
    columns |= {"response_body": stored, "truncated": outcome.truncated or len(stored) < len(body)}
    now = database_now()
    sample = breaker.Sample(
        failed=verdict.breaker == "failure",
        slow=breaker.is_slow(target.breaker, outcome.duration),
        neutral=verdict.breaker == "neutral",
        generation=admitted.generation,
        at=now,
        attempt=attempt.public_id,
    )
    identity = {
        name: getattr(attempt, name) for name in ("id", "service_id", "endpoint_id", "message_id", "started_at")
    }
    with transaction.atomic():
        if unqueued_call.end(attempt, columns):
            failure_groups.record([{**identity, **columns}], [None], now)
        for runtime in Runtime.objects.locked([attempt.service_id]):  # none if the service was deleted during the call
            runtime.end_lease(attempt.pk)
            feed_back(runtime, target, [sample], [verdict], now)
            runtime.save_decided()
            counts = tally.Counts(calls=1, failures=int(not outcome.succeeded), retries=int(attempt.number > 1))
            counts.took(outcome.duration)
            tally.add({runtime.pk: counts}, now)


# ---- cached responses -----------------------------------------------------------------------------------------------
def _cache_key(draft: Draft) -> str:
    """Return the cache key of a GET to a service that allows caching, else an empty string.

    Two requests share a key only if the receiver cannot tell them apart: all headers are part of it, and so is any
    that ``Vary`` may name, but for the trace, which is another one each time. The service's revision is part of it too,
    so a changed registration starts afresh.
    """
    service = draft.service
    if draft.method != "GET" or not service.cache.get("ttl"):
        return ""
    try:
        target = target_of(service)
        call = _build(draft, target, "", target.revision)
    except ValueError:
        return ""
    headers = sorted((name.lower(), value) for name, value in call.headers)
    stable = [pair for pair in headers if not pair[0].startswith(("webhook-", trace.PARENT, trace.STATE))]
    text = json.dumps([service.pk, target.revision.isoformat(), call.url, stable])
    return f"process:{hashlib.sha256(text.encode() + call.body).hexdigest()}"


def _cached(key: str, draft: Draft) -> DirectResult | None:
    started = time.monotonic()
    try:
        found = cache.get(key)
    except Exception:  # an unreachable cache costs a call, no more
        log.exception(line("cache away"))
        return None
    if not found:
        return None
    stored_at, status_code, content_type, body = found
    if not freshness.accepts(draft.headers.items(), time.time() - stored_at):
        return None
    return DirectResult(
        "",
        "",
        False,
        status_code=status_code,
        body=body,
        content_type=content_type,
        duration=time.monotonic() - started,
        cached=True,
    )


def _cache(request: DirectRequest, outcome: Outcome, body: bytes, target: Target) -> None:
    seconds = freshness.lifetime(outcome, target.service.cache.get("ttl", 0), database_now())
    if not seconds or len(body) > CACHED_SIZE or not freshness.may_be_stored(request.draft.headers.items()):
        return
    entry = (time.time(), outcome.status_code, outcome.header("content-type") or "", body)
    try:
        cache.set(request.cache_key, entry, seconds)
    except Exception:
        log.exception(line("cache away"))
