"""Write the results of calls in one transaction: attempts, messages, breaker and counters."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from random import Random
from typing import Any

from django.db import OperationalError, transaction

from integrations.delivery import failure_groups
from integrations.delivery.attempt import attempt_columns
from integrations.delivery.feedback import feed_back
from integrations.delivery.send import CallResult
from integrations.delivery.target import log
from integrations.logs import line, write
from integrations.models import (
    Attempt,
    Message,
    Priority,
    Result,
    Runtime,
    Status,
    Trigger,
    identifiers,
    meter,
    queue,
    sql,
    tally,
)
from integrations.models.message import Outgoing, Settled
from integrations.outbound.redaction import redacted_text
from integrations.policies import breaker, trace
from integrations.policies.retry import DeadReason, next_attempt
from integrations.policies.verdict import Verdict, judge

random = Random()  # noqa: S311 - jitter is no secret
os.register_at_fork(after_in_child=random.seed)  # forked lanes must not draw the same jitter


def settle(results: Sequence[CallResult]) -> None:
    """Write a batch of results in one transaction. A late result, whose claim was lost, only completes the history."""
    with meter.timed("database", "settle"), transaction.atomic():
        now, fences = queue.fence([result.claim.message.pk for result in results])
        current, late = _split_late(results, fences)
        decisions = [_decide(result, now) for result in current]
        attempts = [_attempt(decision, fences[decision.message.pk].attempt_id) for decision in decisions]
        sql.append(Attempt, attempts)
        groups = failure_groups.record(attempts, [decision.message for decision in decisions], now)
        Message.objects.settle(
            [
                _settled(decision, now, groups.get(attempt["id"]))
                for decision, attempt in zip(decisions, attempts, strict=True)
            ]
        )
        # Locked late, so held briefly: other lanes need these rows to claim.
        _write_runtimes(decisions, attempts, now)
        Message.objects.promote(
            (decision.message.service_id, decision.message.ordering_key) for decision in decisions if decision.ends
        )
        for result in late:
            _complete_lost(result)
        tally.add(_counts(decisions), now)
    _measure(decisions, now)
    write(log, [_log_line(decision) for decision in decisions])


def settle_free(results: Sequence[CallResult]) -> list[CallResult]:
    """Settle results service by service, without those whose rows another transaction has locked. Returns the settled
    ones. For a batch that a lock has held up: one locked row must not keep the results of all services."""
    by_service: dict[int, list[CallResult]] = defaultdict(list)
    for result in results:
        by_service[result.claim.message.service_id].append(result)
    settled: list[CallResult] = []
    for group in by_service.values():
        try:
            with transaction.atomic():
                free = Message.objects.unlocked([result.claim.message.pk for result in group])
                ours = [result for result in group if result.claim.message.pk in free]
                if ours:
                    settle(ours)
        except OperationalError as error:  # the row of the service, or of its counters, is locked
            if not sql.is_lock_timeout(error):
                raise
        else:
            settled += ours
    return settled


def settle_bare(result: CallResult) -> None:
    """Settle a result that the database rejected, without the headers, body and detail of the response."""
    outcome = replace(result.outcome, headers=(), body=b"", truncated=True, detail="the answer could not be recorded")
    settle([replace(result, outcome=outcome)])


def _split_late(
    results: Sequence[CallResult], fences: dict[int, queue.Fence]
) -> tuple[list[CallResult], list[CallResult]]:
    """Split results into those whose claim is still current and late ones."""
    current: list[CallResult] = []
    late: list[CallResult] = []
    for result in results:
        claimed = result.claim
        fence = fences.get(claimed.message.pk)
        stands = fence is not None and (fence.worker_id, fence.calls) == (claimed.worker_id, claimed.number - 1)
        (current if stands else late).append(result)
    return current, late


@dataclass(frozen=True, slots=True)
class _Decision:
    """The next state of a message after its call."""

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


def _decide(result: CallResult, now: datetime) -> _Decision:
    retry, message = result.claim.target.retry, result.claim.message
    verdict = judge(result.outcome, retry, now)
    if verdict.action == "deliver":
        return _Decision(result, verdict, Status.DELIVERED)
    if verdict.action == "bury":
        return _Decision(result, verdict, Status.DEAD, dead_reason=verdict.dead_reason)
    if verdict.action == "pause":
        if message.attempts + 1 >= retry.attempts_allowed:
            return _Decision(result, verdict, Status.DEAD, dead_reason=DeadReason.GONE)
        return _Decision(result, verdict, Status.PENDING, due_at=now)
    next_due = next_attempt(
        retry,
        attempts=message.attempts + 1,
        first_due=message.first_due,
        expires_at=message.expires_at,
        now=now,
        retry_after=verdict.retry_after,
        random=random,
    )
    if isinstance(next_due, DeadReason):
        return _Decision(result, verdict, Status.DEAD, dead_reason=next_due)
    return _Decision(result, verdict, Status.PENDING, due_at=next_due)


def _attempt(decision: _Decision, key: int) -> dict[str, Any]:
    """The columns of the attempt."""
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
        **attempt_columns(result.call, outcome, claimed.target.secret_values),
    }


def _settled(decision: _Decision, now: datetime, failure_id: int | None) -> Settled:
    """The new values of the message's row."""
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


def _write_runtimes(decisions: Sequence[_Decision], attempts: Sequence[dict[str, Any]], now: datetime) -> None:
    """Feed the results back into each service's breaker and throttle."""
    by_service: dict[int, list[tuple[_Decision, dict[str, Any]]]] = defaultdict(list)
    for decision, attempt in zip(decisions, attempts, strict=True):
        by_service[decision.message.service_id].append((decision, attempt))
    runtimes = Runtime.objects.locked(by_service)
    for runtime in runtimes:
        _write_runtime(runtime, by_service[runtime.pk], now)
    Runtime.objects.save_decided(runtimes)


def _write_runtime(runtime: Runtime, pairs: list[tuple[_Decision, dict[str, Any]]], now: datetime) -> None:
    target = pairs[0][0].result.claim.target
    samples = [_sample(decision, attempt, target.breaker, now) for decision, attempt in pairs]
    feed_back(runtime, target, samples, [decision.verdict for decision, _ in pairs], now)


def _sample(
    decision: _Decision, attempt: dict[str, Any], policy: breaker.BreakerPolicy, now: datetime
) -> breaker.Sample:
    return breaker.Sample(
        failed=decision.verdict.breaker == "failure",
        slow=breaker.is_slow(policy, decision.result.outcome.duration),
        neutral=decision.verdict.breaker == "neutral",
        generation=decision.result.claim.generation,
        at=now,
        attempt=identifiers.public_id("att", attempt["id"], attempt["nonce"]),
    )


def _counts(decisions: Sequence[_Decision]) -> dict[int, tally.Counts]:
    counts: dict[int, tally.Counts] = defaultdict(tally.Counts)
    for decision in decisions:
        totals = counts[decision.message.service_id]
        totals.calls += 1
        totals.failures += not decision.result.outcome.succeeded
        totals.retries += decision.result.claim.trigger == Trigger.RETRY
        totals.delivered += decision.status == Status.DELIVERED
        totals.dead += decision.status == Status.DEAD
        totals.took(decision.result.outcome.duration)
    return counts


def _measure(decisions: Sequence[_Decision], now: datetime) -> None:
    for decision in decisions:
        claimed, message = decision.result.claim, decision.message
        if message.calls == 0:
            wait = (decision.result.started_at - message.first_due).total_seconds()
            meter.observe("queue_wait", wait, message.service_id)
        if claimed.target.limits.rate:
            wait = (claimed.send_at - claimed.claimed_at).total_seconds()
            meter.observe("rate_wait", wait, message.service_id)
        if decision.status == Status.DELIVERED:
            meter.observe("end_to_end", (now - message.first_due).total_seconds(), message.service_id)


def _complete_lost(result: CallResult) -> None:
    """Complete the lost attempt of a late result. The message is not touched: another claim may hold it."""
    columns = attempt_columns(result.call, result.outcome, result.claim.target.secret_values)
    columns["detail"] = f"the answer came after the claim was lost: {columns['detail']}"[:500]
    Attempt.objects.filter(message_id=result.claim.message.pk, number=result.claim.number, outcome=Result.LOST).update(
        **columns
    )
    log.warning(line("late", message=result.claim.message.public_id, attempt=result.claim.number))


def _log_line(decision: _Decision) -> str:
    claimed, outcome, call = decision.result.claim, decision.result.outcome, decision.result.call
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
        **trace.logged(call.headers if call else ()),
    )
