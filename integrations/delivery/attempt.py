"""The columns of an attempt that record what was sent and what came back, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from integrations.outbound.client import Call
from integrations.outbound.outcome import Outcome
from integrations.outbound.redaction import redacted_bytes, redacted_headers, redacted_text, redacted_url


def call_facts(call: Call | None, outcome: Outcome, secret_values: Iterable[str]) -> dict[str, Any]:
    """The columns of an attempt that say what was sent and what came back, without secrets."""
    known = (*secret_values, *_fetched_tokens(call))
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


def _fetched_tokens(call: Call | None) -> tuple[str, ...]:
    """A fetched OAuth token is nobody's registered secret, and must not be kept where an answer echoes it."""
    headers = call.headers if call else ()
    return tuple(value[7:] for name, value in headers if name == "Authorization" and value.startswith("Bearer "))
