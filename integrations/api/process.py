"""`POST /process` as a view, for the OpenAPI document and for servers that do not run `asgi/direct_call.py`."""

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
    """Call a service now and return its response, with up to two short retries within `timeout`.

    The call obeys breaker, rate, concurrency and pause, and counts for them. All attempts have the same `webhook-id`.
    After a 503 the call *may* have been made.
    """
    return result_response(async_to_sync(_run)(direct_call.prepare(data, caller(request).actor, request.headers)))


async def _run(prepared: DirectRequest) -> DirectResult:
    client = new_client()
    try:
        return await direct_call.run(prepared, client=client, in_thread=sync_to_async)
    finally:
        await client.aclose()


# ---- as JSON --------------------------------------------------------------------------------------------------------
def result_response(result: DirectResult) -> HttpResponse:
    spent = {"attempts": result.attempts, "duration": round(result.duration, 6)}
    status = {} if result.status_code is None else {"status_code": result.status_code}
    if result.kind:
        error = {"kind": result.kind, "detail": result.detail}
        return json_response({"success": False, "error": error, "retry": result.retry, **status, **spent})
    return json_response({"success": True, **_body(result), **status, **spent, "cached": result.cached})


def _body(result: DirectResult) -> dict[str, Any]:
    """Return the response's body: parsed if it is strict JSON of a JSON type, else as text, else as bytes."""
    raw = result.body
    if not raw:
        return {"result": None}
    kind = result.content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            value = parse(raw)
            json_bytes(value)  # refuses 1e999, which Python parses as infinity
            return {"result": value}
        except (Problem, ValueError, RecursionError):
            pass
    try:
        return {"result": raw.decode()}
    except UnicodeDecodeError:
        return {"result": None, "result_base64": b64encode(raw).decode()}
