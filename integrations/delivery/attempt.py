"""The columns of an attempt that record a call and its outcome, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from integrations.outbound.client import Call
from integrations.outbound.outcome import Outcome
from integrations.outbound.redaction import named_secrets, redacted_bytes, redacted_headers, redacted_text, redacted_url


def attempt_columns(call: Call | None, outcome: Outcome, secret_values: Iterable[str]) -> dict[str, Any]:
    """Return the columns of an attempt that record the request, the response and the timings, all redacted."""
    # A fetched OAuth token and the credentials in a message's own headers and query are no registered secrets, and a
    # response that echoes them must not be stored either.
    secrets = (*secret_values, *(named_secrets(call.headers, call.url) if call else ()))
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
