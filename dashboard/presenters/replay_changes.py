"""The changes that an edited replay makes to a message, part by part."""

from __future__ import annotations

from typing import Any

from dashboard.presenters.bodies import pretty_json
from dashboard.presenters.diffs import Line, difference
from dashboard.presenters.lines import as_lines
from integrations.models import Draft, Message, MessageContent
from integrations.outbound.redaction import redacted_headers, redacted_url
from integrations.schemas.fields import BODY_LIMIT

Parts = list[tuple[str, list[Line]]]


def edited_parts(message: Message, replay: Draft | Message) -> Parts:
    """The changed parts of a message, each with its diff; headers and parameters that are named as credentials are
    masked. Never by value: the operator could read from the mask which text equals a secret."""
    before, after = message.content, replay.content if isinstance(replay, Message) else replay
    old = _address(message.method, message.path, before.query)
    parts = [
        ("Method, path and query", difference(old, _address(replay.method, replay.path, after.query), _parameter)),
        ("Headers", difference(_headers(before), _headers(after), _header)),
        ("Body", difference(_comparable(bytes(before.body)), _comparable(bytes(after.body)))),
    ]
    return [(name, lines) for name, lines in parts if lines]


def only_changes(parts: Parts, limit: int) -> Parts:
    """The first ``limit`` changed lines of each part, without the lines around them."""
    return [(name, [line for line in lines if line.mark in "+-"][:limit]) for name, lines in parts]


def _header(line: str) -> str:
    name, mark, value = line.partition(": ")
    return mark.join(redacted_headers([(name, value)], ())[0]) if mark else line


def _parameter(line: str) -> str:
    return redacted_url(f"?{line}")[1:]


def _address(method: str, path: str, query: dict[str, Any]) -> str:
    return "\n".join((f"{method} {path}", as_lines(query, "="))).strip()


def _headers(of: Draft | MessageContent) -> str:
    """Sorted by name, because JSON keeps no order and the order does not change the request."""
    kind = [f"Content-Type: {of.content_type}"] if of.content_type else []
    return "\n".join([*kind, *sorted(as_lines(of.headers, ": ").splitlines())])


def _comparable(body: bytes) -> str:
    """The body as the form shows it. A body that is not text is never edited."""
    text = body.decode(errors="replace")
    return pretty_json(text, 2 * BODY_LIMIT) or text
