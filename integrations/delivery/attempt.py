"""The columns of an attempt that record a call and its outcome, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from integrations.outbound.client import Call
from integrations.outbound.outcome import Outcome
from integrations.outbound.redaction import redacted_bytes, redacted_headers, redacted_text, redacted_url


def attempt_columns(call: Call | None, outcome: Outcome, secret_values: Iterable[str]) -> dict[str, Any]:
    """Return the columns of an attempt that record the request, the response and the timings, all redacted."""
    secrets = (*secret_values, *_fetched_tokens(call))
    return {
        "duration": outcome.duration,
        "fault": outcome.fault or "",
        "status_code": outcome.status_code,
        "detail": redacted_text(outcome.detail, secrets)[:500],
        "timings": outcome.timings.as_json(),
        "method": call.method if call else "",
        "url": redacted_url(call.url, secrets)[:4500] if call else "",
        "request_headers": redacted_headers(call.headers, secrets) if call else [],
        "request_size": len(call.body) if call else 0,
        "response_headers": redacted_headers(outcome.headers, secrets),
        "response_body": redacted_bytes(outcome.body, secrets),
        "response_size": outcome.size,
        "truncated": outcome.truncated,
    }


def _fetched_tokens(call: Call | None) -> tuple[str, ...]:
    """The OAuth token of the call. It is no registered secret, and a response that echoes it must not be stored."""
    headers = call.headers if call else ()
    return tuple(value[7:] for name, value in headers if name == "Authorization" and value.startswith("Bearer "))
