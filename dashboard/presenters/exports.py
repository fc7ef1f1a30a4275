"""What a search finds, as a file: CSV or NDJSON, in the words of the API's list.

It is made while it is sent, a few hundred messages at a time. Nothing is held open between two of them: each step
begins at the row number where the last one ended, so a slow reader costs the database nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import StringIO
from typing import Any

from pydantic_core import to_json

from integrations.api.messages import messages_json
from integrations.search.pages import SearchResults

LIMIT = 1_000_000  # messages in one file
STEP = 500  # messages read at once
COLUMNS = (
    "id", "service", "endpoint", "method", "path", "status", "attempts", "created_at", "next_attempt_at", "finished_at",
    "deliver_at", "expires_at", "ordering_key", "tags", "dead_reason", "last.status_code", "last.fault", "last.detail",
    "replay_of", "operation",
)  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one, at the beginning of a cell


def as_ndjson(found: SearchResults) -> Iterator[bytes]:
    """A JSON object a line; where the file ends too early, the last one is ``{"notice": …}``."""
    for documents in _documents(found):
        if isinstance(documents, str):
            yield to_json({"notice": documents}) + b"\n"
        else:
            yield b"".join(to_json(document) + b"\n" for document in documents)


def as_csv(found: SearchResults) -> Iterator[bytes]:
    """A line of names, then a line for each; where the file ends too early, the last one has only a notice."""
    yield _lines([COLUMNS])
    for documents in _documents(found):
        if isinstance(documents, str):
            yield _lines([[documents]])
        else:
            yield _lines([[_cell(_at(document, name)) for name in COLUMNS] for document in documents])


def _documents(found: SearchResults) -> Iterator[list[dict[str, Any]] | str]:
    """The messages that there are now, newest first, as the API lists them; at the limit, a notice at the end."""
    place, left = found.newest + 1, LIMIT
    while place and left:
        rows, place, _ = found.older(place, min(STEP, left))
        left -= len(rows)
        yield messages_json(rows)
    if place:
        yield f"The file ends here, at {LIMIT:,} messages. Narrow the search to get the others."


def _at(document: dict[str, Any], name: str) -> Any:
    outer, _, inner = name.partition(".")
    return document[outer][inner] if inner else document[outer]


def _cell(value: Any) -> str:
    """The value as text that a spreadsheet does not run: what may be a formula gets a ' before it."""
    if value is None:
        return ""
    if isinstance(value, dict):
        text = json.dumps(value, ensure_ascii=False) if value else ""
    else:
        text = value if isinstance(value, str) else to_json(value).decode().strip('"')
    return f"'{text}" if text.startswith(FORMULA) else text


def _lines(rows: Any) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
