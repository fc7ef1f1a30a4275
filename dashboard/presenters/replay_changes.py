"""The changes that an edited replay makes to a message, part by part."""

from __future__ import annotations

from typing import Any

from dashboard.presenters.bodies import SHOWN, pretty_json
from dashboard.presenters.diffs import Line, difference
from dashboard.presenters.lines import as_lines
from integrations.models import Draft, Message, MessageContent
from integrations.outbound.redaction import redacted_headers, redacted_url


def edited_parts(message: Message, draft: Draft) -> list[tuple[str, list[Line]]]:
    """The changed parts of a message, each with its diff; headers and parameters that are named as credentials are
    masked. Never by value: the operator could read from the mask which text equals a secret."""
    content = message.content
    before = _address(message.method, message.path, content.query)
    parts = [
        ("Method, path and query", difference(before, _address(draft.method, draft.path, draft.query), _parameter)),
        ("Headers", difference(_headers(content), _headers(draft), _header)),
        ("Body", difference(_comparable(bytes(content.body)), _comparable(draft.body))),
    ]
    return [(name, lines) for name, lines in parts if lines]


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
    return (pretty_json(text) or text) if len(body) <= SHOWN else text
