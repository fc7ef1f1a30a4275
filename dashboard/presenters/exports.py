"""Export the messages that a search finds, as CSV or NDJSON with the field names of the API's list.

The file is made while it is sent, 500 messages at a time. No transaction stays open between two steps: each begins at
the row number where the last one ended, so a slow reader costs the database nothing.
"""

from __future__ import annotations

import csv
import json
import re
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
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins with one of these
# One that takes ; or the tab for the separator begins another cell after it, and a row after a line break: quotes count
# for it only where they open its cell.
LATER_FORMULA = re.compile(r"([;\t\r\n][\s\"]*)([=+\-@])")


def as_ndjson(found: SearchResults) -> Iterator[bytes]:
    """One JSON object per line. If the limit cuts the file, the last one is ``{"notice": …}``."""
    for documents in _documents(found):
        if isinstance(documents, str):
            yield to_json({"notice": documents}) + b"\n"
        else:
            yield b"".join(to_json(document) + b"\n" for document in documents)


def as_csv(found: SearchResults) -> Iterator[bytes]:
    """A line of names, then a line per message. If the limit cuts the file, the last line is a notice."""
    yield _lines([COLUMNS])
    for documents in _documents(found):
        if isinstance(documents, str):
            yield _lines([[documents]])
        else:
            yield _lines([[_cell(_at(document, name)) for name in COLUMNS] for document in documents])


def _documents(found: SearchResults) -> Iterator[list[dict[str, Any]] | str]:
    """Batches of messages as the API lists them, newest first; at the limit, a notice at the end."""
    place, left = found.newest + 1, LIMIT
    while place and left:
        rows, place, _ = found.older(place, min(STEP, left))
        left -= len(rows)
        yield messages_json(rows)
    if place:
        yield f"Export limit of {LIMIT:,} messages reached. Narrow the search to export the others."


def _at(document: dict[str, Any], name: str) -> Any:
    outer, _, inner = name.partition(".")
    return document[outer][inner] if inner else document[outer]


def _cell(value: Any) -> str:
    """The value as text that a spreadsheet does not run: a possible formula gets a leading '."""
    if value is None:
        return ""
    if isinstance(value, dict):
        text = json.dumps(value, ensure_ascii=False) if value else ""
    else:
        text = value if isinstance(value, str) else to_json(value).decode().strip('"')
    text = LATER_FORMULA.sub(r"\1'\2", text)
    return f"'{text}" if text.startswith(FORMULA) else text


def _lines(rows: Any) -> bytes:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
