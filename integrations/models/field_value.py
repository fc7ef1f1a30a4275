"""Searchable fields: values of the body's fields that a service declares, in rows of their own for an index.

A path such as ``order.id`` walks down objects by name and arrays by number; ``*`` is any element. Values are stored as
text, and numbers as numbers too, for comparisons. Rows are written when a message is accepted and never change: a
field that is declared later is found in messages from then on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.db import connection, models

from integrations.models import sql

TEXT_LIMIT = 200  # characters that are stored of a value
VALUES_LIMIT = 100  # of one path in one message, such as the elements of a long array


class FieldValue(models.Model):
    """One value of one searchable field of one message."""

    message = models.ForeignKey("integrations.Message", on_delete=models.CASCADE, related_name="field_values")
    path = models.CharField(max_length=200)
    text = models.CharField(max_length=TEXT_LIMIT)
    number = models.FloatField(null=True)

    class Meta:
        indexes = (models.Index(fields=["path", "text", "-message"], name="field_value_found"),)

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def store(messages: Iterable[tuple[int, Sequence[str], bytes]]) -> None:
    """Store the values of new messages, given as id, paths that the service declares, and body."""
    values = [
        {"message_id": key, "path": path, "text": text, "number": number}
        for key, paths, body in messages
        for path, text, number in extracted(paths, body)
    ]
    sql.append(FieldValue, values)


# Each step is a seek in the index: a value is read once, however many messages have it.
DIFFERENT = """WITH RECURSIVE found(text, place) AS (
    SELECT (SELECT text FROM integrations_fieldvalue WHERE path = %s AND text >= %s ORDER BY path, text LIMIT 1), 1
    UNION ALL
    SELECT (SELECT text FROM integrations_fieldvalue WHERE path = %s AND text > found.text ORDER BY path, text LIMIT 1),
        place + 1 FROM found WHERE found.text IS NOT NULL AND place < %s
) SELECT text FROM found WHERE text IS NOT NULL"""


def distinct_values(path: str, begun: str, limit: int) -> list[str]:
    """The distinct values of a field from ``begun`` on, in the database's order."""
    with connection.cursor() as cursor:
        cursor.execute(DIFFERENT, [path, begun, path, limit])
        return [text for (text,) in cursor.fetchall()]


def extracted(paths: Sequence[str], body: bytes) -> Iterator[tuple[str, str, float | None]]:
    """The path, text and number of each value. A body that is not JSON has none; this never raises."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):
        return
    for path in paths:
        found: dict[str, float | None] = {}
        for value in _at(whole, path.split(".")):
            if len(found) == VALUES_LIMIT:
                break
            if not isinstance(value, (dict, list)):
                found.setdefault(as_text(value), _number(value))
        for text, number in found.items():
            yield path, text, number


def _at(value: Any, steps: Sequence[str]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    if isinstance(value, dict):
        if step in value:
            yield from _at(value[step], rest)
    elif isinstance(value, list):
        if step == "*":
            for element in value:
                yield from _at(element, rest)
        elif step.isascii() and step.isdecimal() and int(step) < len(value):
            yield from _at(value[int(step)], rest)


def as_text(value: Any) -> str:
    """A value as it is stored and searched: as JSON writes it, strings without their quotes."""
    text = value if isinstance(value, str) else json.dumps(value)
    # No database stores NUL characters and halves of surrogate pairs as text.
    return text[:TEXT_LIMIT].replace("\0", "\ufffd").encode(errors="replace").decode()


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
