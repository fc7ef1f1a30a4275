"""Bulk operations: plan, read, change, pause, resume, cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router
from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from integrations.api.auth import caller, operator, viewer
from integrations.api.idempotency import PARAMETER, once
from integrations.api.json_io import api_path, json_response
from integrations.api.pagination import LIMIT, Cursor, Limit, list_json, page
from integrations.api.responses import ItemPage, OperationOut, OperationPage
from integrations.models import Message, Operation, Service
from integrations.models.identifiers import public_id
from integrations.models.operation import NO_LIMIT, Item, ItemOutcome, Kind, State
from integrations.operators import bulk_operations, operation_calls
from integrations.schemas.fields import StrictModel

router = Router(tags=["Operations"])

Rate = Annotated[float, Field(ge=bulk_operations.SLOWEST, le=bulk_operations.RATE_LIMIT)]
FailureRate = Annotated[float, Field(gt=0, le=1)]
Reason = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]


class OperationIn(StrictModel):
    """One action on many messages."""

    kind: Literal[Kind.REPLAY, Kind.CANCEL, Kind.RETRY_NOW] = Field(
        description="Replay finished messages, or cancel or retry pending ones."
    )
    filter: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=5000)] = Field(
        description="Search that selects the messages, as in the console; `id:a,b` selects single ones."
    )
    reason: Reason = Field("", description="Reason, kept in the audit log. Required unless dry_run is true.")
    rate: Rate | Literal["auto"] | None = Field(
        bulk_operations.RATE,
        description="Messages per second; default 50. auto: starts slowly, doubles while calls succeed, and halves "
        "when they fail or slow down. null, for cancel only: as fast as the database allows.",
    )
    dry_run: bool = Field(False, description="Only freeze and describe the selection; start the operation later.")
    stop_at_failure_rate: FailureRate | None = Field(
        None, description="Stop when more than this share of its latest 100 calls, and at least five, have failed."
    )

    @field_validator("rate")
    @classmethod
    def is_a_number_for_calls(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("kind") not in (None, Kind.CANCEL):
            raise ValueError("only cancelling has no limit, since it makes no calls; give a number")
        return value


class OperationChange(StrictModel):
    """Omitted fields keep their values."""

    reason: Reason = Field("", description="New reason.")
    rate: Rate | Literal["auto"] | None = Field(None, description="New rate, in messages per second, or auto.")
    stop_at_failure_rate: FailureRate | None = Field(None, description="New share of failed calls that stops it.")
    dry_run: Literal[False] | None = Field(None, description="false starts a finished dry run.")


@router.post("/operations", auth=operator, response={202: OperationOut}, openapi_extra=PARAMETER)
def plan_operation(request: HttpRequest, data: OperationIn) -> HttpResponse:
    """Plan an action on all messages that match a filter. Messages accepted later are not affected."""

    def work() -> HttpResponse:
        operation = bulk_operations.plan(
            data.kind,
            data.filter,
            by=caller(request).actor,
            reason=data.reason,
            rate=NO_LIMIT if data.rate is None else data.rate,
            dry_run=data.dry_run,
            stop_at_failure_rate=data.stop_at_failure_rate,
        )
        return json_response(operation_json(operation), 202, location=api_path("operations", operation.public_id))

    return once(request, work)


@router.get("/operations", auth=viewer, response=OperationPage)
def list_operations(
    request: HttpRequest,
    kind: Annotated[Kind | None, Query(description="Action of the operation.")] = None,
    state: Annotated[State | None, Query(description="State of the operation.")] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """List operations, newest first."""
    equal = {"kind": kind, "state": state}
    rows = Operation.objects.filter(**{name: value for name, value in equal.items() if value is not None})
    found, next_cursor = page(rows, "operations", limit, cursor)
    return json_response(list_json(operations_json(found), next_cursor))


@router.get("/operations/{operation_id}", auth=viewer, response=OperationOut)
def get_operation(request: HttpRequest, operation_id: str) -> HttpResponse:
    """Return one operation with its progress."""
    return json_response(operation_json(_find(operation_id)))


@router.get("/operations/{operation_id}/items", auth=viewer, response=ItemPage)
def list_operation_items(
    request: HttpRequest,
    operation_id: str,
    outcome: Annotated[ItemOutcome | None, Query(description="Outcome of the item.")] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """List the messages of the selection with their results, newest first."""
    operation = _find(operation_id)
    rows = operation.items.filter(outcome=outcome) if outcome else operation.items.all()
    found, next_cursor = page(rows, f"items.{operation.pk}", limit, cursor)
    return json_response(list_json(items_json(operation, found), next_cursor))


@router.patch("/operations/{operation_id}", auth=operator, response=OperationOut)
def change_operation(request: HttpRequest, operation_id: str, data: OperationChange) -> HttpResponse:
    """Change the rate or the reason, or start a finished dry run on the selection it froze."""
    operation = _find(operation_id)
    verb = bulk_operations.start if data.dry_run is False else bulk_operations.change
    verb(
        operation,
        by=caller(request).actor,
        reason=data.reason,
        rate=data.rate,
        stop_at_failure_rate=data.stop_at_failure_rate,
    )
    return json_response(operation_json(operation))


@router.post("/operations/{operation_id}/pause", auth=operator, response=OperationOut)
def pause_operation(request: HttpRequest, operation_id: str) -> HttpResponse:
    """Stop after the current step, until the operation is resumed."""
    operation = _find(operation_id)
    bulk_operations.pause(operation, by=caller(request).actor)
    return json_response(operation_json(operation))


@router.post("/operations/{operation_id}/resume", auth=operator, response=OperationOut)
def resume_operation(request: HttpRequest, operation_id: str) -> HttpResponse:
    """Continue a paused operation."""
    operation = _find(operation_id)
    bulk_operations.resume(operation, by=caller(request).actor)
    return json_response(operation_json(operation))


@router.post("/operations/{operation_id}/cancel", auth=operator, response=OperationOut)
def cancel_operation(request: HttpRequest, operation_id: str) -> HttpResponse:
    """End an operation. Finished items stay finished; the others are not touched."""
    operation = _find(operation_id)
    bulk_operations.cancel(operation, by=caller(request).actor)
    return json_response(operation_json(operation))


def _find(operation_id: str) -> Operation:
    operation = Operation.objects.by_public_id(operation_id)
    if operation is None:
        raise Http404(f"No operation has the id {operation_id[:60]}.")
    return operation


# ---- as JSON -------------------------------------------------------------------------------------------------------
COPIED = ("kind", "filter", "reason", "dry_run", "state", "note", "total", "done", "succeeded", "failed")


def operation_json(operation: Operation) -> dict[str, Any]:
    return operations_json([operation])[0]


def operations_json(found: Sequence[Operation]) -> list[dict[str, Any]]:
    numbers = {int(number) for operation in found for number in operation.estimate.get("services", {})}
    names = dict(Service.objects.filter(pk__in=numbers).values_list("pk", "name")) if numbers else {}
    return [
        {
            "id": operation.public_id,
            **{name: getattr(operation, name) for name in COPIED},
            "skipped": operation.skipped,
            "rate": "auto" if operation.is_adaptive else operation.rate if operation.has_limit else None,
            "pace": _pace(operation),
            "stop_at_failure_rate": operation.stop_at_failure_rate,
            "created_by": operation.created_by,
            "created_at": operation.created_at,
            "started_at": operation.started_at,
            "finished_at": operation.finished_at,
            "estimate": _estimate(operation, names),
        }
        for operation in found
    ]


def _pace(operation: Operation) -> dict[str, Any] | None:
    pace = operation_calls.adaptive(operation)
    if pace is None:
        return None
    return {"rate": pace.rate, "why": pace.why, "changed_at": operation_calls.changed_at(pace)}


def _estimate(operation: Operation, names: dict[int, str]) -> dict[str, Any]:
    found = operation.estimate
    services = {names[int(pk)]: count for pk, count in found.get("services", {}).items() if int(pk) in names}
    return {
        "services": services,
        "delivered": found.get("delivered", 0),
        "oldest": found.get("oldest"),
        "seconds": bulk_operations.seconds_left(operation, timezone.now()),
    }


def items_json(operation: Operation, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return items with their message and, of a replay, the new one. A deleted message has no id."""
    ids = [item.message_id for item in items]
    rows = Message.objects.filter(pk__any=ids).values_list("pk", "nonce")
    messages = {pk: public_id("msg", pk, nonce) for pk, nonce in rows}
    made = Message.objects.filter(replay_of__any=ids, operation_id=operation.pk)
    results = {
        original: public_id("msg", pk, nonce) for original, pk, nonce in made.values_list("replay_of_id", "pk", "nonce")
    }
    return [
        {
            "message": messages.get(item.message_id),
            "outcome": item.outcome or None,
            "detail": item.detail,
            "replay": results.get(item.message_id),
            "done_at": item.done_at,
        }
        for item in items
    ]
