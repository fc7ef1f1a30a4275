"""Record a call that is made without a message: `POST /process`, the lab and health checks.

begin  the attempt is written before the call, as lost: its id becomes ``webhook-id``, and a crash leaves a record
send   ``make_call`` in send.py
end    the attempt's columns are filled in
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from integrations.delivery.attempt import attempt_columns
from integrations.delivery.request import RequestParts
from integrations.delivery.target import Target
from integrations.models import Attempt, Endpoint, Result, Trigger
from integrations.outbound.client import Call
from integrations.outbound.outcome import Fault, Outcome
from integrations.outbound.redaction import redacted_text

UNFINISHED = "The call did not finish: the process that made it stopped."
CANCELLING = "The call is being cancelled."


def begin(
    target: Target,
    parts: RequestParts,
    *,
    trigger: Trigger,
    started_at: datetime,
    actor: str = "",
    endpoint: Endpoint | None = None,
    number: int = 1,
) -> Attempt:
    """Write the attempt of a call that is about to be made."""
    return Attempt.objects.create(
        service_id=target.service.pk,
        endpoint=endpoint,
        number=number,
        trigger=trigger,
        actor=actor[:150],
        started_at=started_at,
        outcome=Result.LOST,
        fault=Fault.WORKER_LOST,
        detail=UNFINISHED,
        method=parts.method,
        url=redacted_text(parts.path, target.secret_values),
        request_body=bytes(parts.body),  # as the caller wrote it: a mask would tell which text equals a secret
        request_size=len(parts.body),
    )


def cancel_lab_calls(actor: str) -> int:
    """Ask the processes that make this person's lab calls to close their connections. They look every 0.25 s."""
    in_flight = Attempt.objects.from_lab().filter(actor=actor[:150], outcome=Result.LOST, detail=UNFINISHED)
    return in_flight.update(detail=CANCELLING)


def is_cancelled(attempt: Attempt) -> bool:
    return Attempt.objects.filter(pk=attempt.pk, detail=CANCELLING).exists()


def end_columns(target: Target, call: Call | None, outcome: Outcome) -> dict[str, Any]:
    """Return the columns that ``end`` writes. Without a built call the requested method, path and size stay."""
    columns = attempt_columns(call, outcome, target.secret_values)
    if call is None:
        for name in ("method", "url", "request_size"):
            del columns[name]
    return {**columns, "outcome": Result.SUCCEEDED if outcome.succeeded else Result.FAILED}


def end(attempt: Attempt, columns: dict[str, Any]) -> bool:
    """Write the end of a call. Returns False if the attempt is gone: its service was deleted during the call."""
    for name, value in columns.items():
        setattr(attempt, name, value)
    return bool(Attempt.objects.filter(pk=attempt.pk).update(**columns))
