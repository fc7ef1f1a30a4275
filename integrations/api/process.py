"""`POST /process` as a view: what the description is made of, and the same call for a server without its route."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse
from ninja import Router

from integrations.api.auth import caller, operator
from integrations.api.json_io import json_response, parse
from integrations.api.problems import Problem
from integrations.api.responses import ProcessedOut, UnprocessedOut
from integrations.delivery import direct_call
from integrations.delivery.direct_call import DirectRequest, DirectResult
from integrations.delivery.send import new_client
from integrations.schemas.message import ProcessIn, json_bytes

router = Router(tags=["Messages"])


@router.post("/process", auth=operator, response={200: ProcessedOut | UnprocessedOut})
def process_now(request: HttpRequest, data: ProcessIn) -> HttpResponse:
    """Calls a service now and waits for its answer, with up to two short retries inside `timeout`.

    It feeds and obeys the breaker, the rate, the concurrency and a pause. All tries carry the same `webhook-id`. After
    a 503 the call *may* have been made.
    """
    return document(async_to_sync(_run)(direct_call.prepare(data, caller(request).actor)))


async def _run(asked: DirectRequest) -> DirectResult:
    client = new_client()
    try:
        return await direct_call.run(asked, client=client, in_thread=sync_to_async)
    finally:
        await client.aclose()


# ---- as JSON --------------------------------------------------------------------------------------------------------
def document(answered: DirectResult) -> HttpResponse:
    spent = {"attempts": answered.attempts, "duration": round(answered.duration, 6)}
    status = {} if answered.status_code is None else {"status_code": answered.status_code}
    if answered.kind:
        error = {"kind": answered.kind, "detail": answered.detail}
        return json_response({"success": False, "error": error, "retry": answered.retry, **status, **spent})
    return json_response({"success": True, **_result(answered), **status, **spent, "cached": answered.cached})


def _result(answered: DirectResult) -> dict[str, Any]:
    """The answer's body: JSON where it says so and is, as strictly as we take it ourselves; else text, else bytes."""
    raw = answered.body
    if not raw:
        return {"result": None}
    kind = answered.content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = parse(raw)
            json_bytes(value)  # 1e999 is read as infinity, which JSON cannot say
            return {"result": value}
        except (Problem, ValueError, RecursionError):
            pass
    try:
        return {"result": raw.decode()}
    except UnicodeDecodeError:
        return {"result": None, "result_base64": b64encode(raw).decode()}
