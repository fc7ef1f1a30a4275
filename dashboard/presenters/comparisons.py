"""Two calls side by side: the parts in which they differ, and a line about each."""

from __future__ import annotations

from dashboard.presenters.bodies import SHOWN, pretty_json, text_of
from dashboard.presenters.diffs import Line, difference
from integrations.models import Attempt

# Differ in every call, and say nothing about the cause.
OF_EACH_CALL = frozenset({"date", "webhook-id", "webhook-timestamp", "webhook-signature", "age", "x-request-id"})


def differing_parts(before: Attempt, after: Attempt) -> list[tuple[str, list[Line]]]:
    """The parts that differ, each with its diff from ``before`` to ``after``. Stored calls are masked already."""
    parts = [
        ("Method and address", difference(_address(before), _address(after))),
        ("Request headers", difference(_headers(before.request_headers), _headers(after.request_headers))),
        ("Request body", difference(_body(sent_body(before)), _body(sent_body(after)))),
        ("Status", difference(_status(before), _status(after))),
        ("Response headers", difference(_headers(before.response_headers), _headers(after.response_headers))),
        ("Response body", difference(_body(bytes(before.response_body)), _body(bytes(after.response_body)))),
    ]
    return [(name, lines) for name, lines in parts if lines]


def sent_body(attempt: Attempt) -> bytes:
    """The body of a call; that of a message's attempt is in the message's content."""
    if attempt.message is not None:
        return bytes(attempt.message.content.body)
    return bytes(attempt.request_body or b"")


def _address(attempt: Attempt) -> str:
    return f"{attempt.method} {attempt.url}"


def _status(attempt: Attempt) -> str:
    return str(attempt.status_code or attempt.fault) + (f"\n{attempt.detail}" if attempt.detail else "")


def _headers(headers: list[list[str]]) -> str:
    return "\n".join(sorted(f"{name}: {value}" for name, value in headers if name.lower() not in OF_EACH_CALL))


def _body(body: bytes) -> str:
    text = text_of(body[:SHOWN])
    if text is None:
        return f"binary, {len(body):,} bytes"
    return (pretty_json(text) or text) if len(body) <= SHOWN else f"{text}\n…{len(body):,} bytes"
