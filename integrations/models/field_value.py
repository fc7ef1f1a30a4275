"""Searchable fields: values of the body's fields that a service declares, in rows of their own for an index.

A path such as ``order.id`` walks down objects by name and arrays by number; ``*`` is any element. Values are stored as
text, and numbers as numbers too, for comparisons. Rows are written when a message is accepted, or by an operation that
indexes a field which was declared later, and never change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from django.db import connection, models

from integrations.models import sql

TEXT_LIMIT = 200  # characters that are stored of a value
PATH_LIMIT = 200  # characters of a path
VALUES_LIMIT = 100  # of one path in one message, such as the elements of a long array


class FieldValue(models.Model):
    """One value of one searchable field of one message."""

    message = models.ForeignKey("integrations.Message", on_delete=models.CASCADE, related_name="field_values")
    path = models.CharField(max_length=PATH_LIMIT)
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


# FOR KEY SHARE keeps the messages until their values are committed: those that retention deletes are waited for.
# Settlements do not wait for it, and claims pass such a message for the milliseconds of a step.
TO_INDEX = """SELECT m.id, c.body, EXISTS (
    SELECT 1 FROM integrations_fieldvalue v WHERE v.message_id = m.id AND v.path = %s) AS has_it
FROM integrations_message m JOIN integrations_messagecontent c ON c.message_id = m.id
WHERE m.service_id = %s AND m.id > %s AND m.id < %s ORDER BY m.id DESC LIMIT %s {lock}"""


class IndexedRows(NamedTuple):
    """The messages that one step of an index has read."""

    messages: int
    found: int  # that have the field, and had no value of it yet
    lowest: int  # the lowest id; 0 if there was no message


def index_messages(service_id: int, path: str, after: int, below: int, limit: int) -> IndexedRows:
    """Store the values of a field for the newest ``limit`` messages of a service with ids between the two bounds.

    In the caller's transaction.
    """
    lock = "FOR KEY SHARE OF m" if connection.vendor == "postgresql" else ""
    found, lowest = 0, 0
    with connection.cursor() as cursor:
        cursor.execute(TO_INDEX.format(lock=lock), [path, service_id, after, below, limit])
        rows = cursor.fetchall()
    values = []
    for key, body, has_it in rows:
        lowest = key
        if not has_it:
            own = [
                {"message_id": key, "path": path, "text": text, "number": number}
                for _, text, number in extracted([path], bytes(body))
            ]
            values += own
            found += bool(own)
    sql.append(FieldValue, values)
    return IndexedRows(len(rows), found, lowest)


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


# One seek in the index for each field, and a count that stops.
HAVING = """SELECT p.path, (SELECT COUNT(*) FROM (
    SELECT 1 FROM integrations_fieldvalue v WHERE v.path = p.path AND v.text = %s LIMIT %s) AS counted)
FROM ({paths}) AS p"""


def fields_having(text: str, paths: Sequence[str], limit: int) -> dict[str, int]:
    """The fields that have this value in a message, with the number of messages, counted up to ``limit``."""
    if not paths:
        return {}
    selected = " UNION ALL ".join(["SELECT %s AS path"] * len(paths))
    if connection.vendor == "postgresql":
        selected = selected.replace("%s", "%s::varchar")
    with connection.cursor() as cursor:
        cursor.execute(HAVING.format(paths=selected), [text[:TEXT_LIMIT], limit, *paths])
        return {path: count for path, count in cursor.fetchall() if count}


def paths_of(text: str, body: bytes) -> list[str]:
    """The fields of a body that have this value, as they would be declared; elements of arrays as ``*``. Bodies that
    are not JSON have none; this never raises."""
    try:
        whole = json.loads(body)
        return list(dict.fromkeys(".".join(steps) for steps in _steps_to(text, whole)))
    except (ValueError, RecursionError):
        return []


def _steps_to(text: str, value: Any) -> Iterator[list[str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from ([name, *steps] for steps in _steps_to(text, inner))
    elif isinstance(value, list):
        for inner in value[:VALUES_LIMIT]:
            yield from (["*", *steps] for steps in _steps_to(text, inner))
    elif as_text(value) == text:
        yield []


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
