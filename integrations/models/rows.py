"""Many rows in one INSERT, written by hand: the ORM takes several times as long to prepare a row as the database."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from django.db import connection, models

PARAMETERS = 30_000  # in one statement; SQLite takes 32,766


def insert(objects: Sequence[models.Model]) -> None:
    """Inserts rows of one model and gives the objects their keys, as bulk_create does.

    A column that is null in all of them is left to the database; for messages that is half of the columns.
    """
    if not objects:
        return
    fields = [field for field in type(objects[0])._meta.concrete_fields if _is_given(field, objects)]
    adapters = [(field.attname, _adapter(field)) for field in fields]
    at_once = PARAMETERS // len(fields)
    for start in range(0, len(objects), at_once):
        part = objects[start : start + at_once]
        rows = [[adapt(getattr(thing, name)) for name, adapt in adapters] for thing in part]
        for thing, (key,) in zip(part, _insert(fields, rows), strict=True):
            thing.pk = key
            thing._state.adding, thing._state.db = False, connection.alias


def _insert(fields: Sequence[models.Field[Any, Any]], rows: Sequence[Sequence[Any]]) -> Sequence[tuple[Any, ...]]:
    """The keys of the new rows, in their order."""
    model, name = fields[0].model, connection.ops.quote_name
    columns = ", ".join(name(str(field.column)) for field in fields)
    place = f"({', '.join(['%s'] * len(fields))})"
    insert_into = f"INSERT INTO {name(model._meta.db_table)} ({columns}) VALUES "  # noqa: S608
    returning = f" RETURNING {name(str(model._meta.pk.column))}"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # Row by row, because psycopg looks for the places in a long statement at 70 µs a row.
            values = ", ".join(cursor.mogrify(place, row) for row in rows)
            cursor.execute(insert_into + values + returning)
        else:
            values = ", ".join([place] * len(rows))
            cursor.execute(insert_into + values + returning, [value for row in rows for value in row])
        keys: list[tuple[Any, ...]] = cursor.fetchall()
        return keys


def _is_given(field: models.Field[Any, Any], objects: Sequence[models.Model]) -> bool:
    name = field.attname
    return not (field.null or isinstance(field, models.AutoField)) or any(
        getattr(thing, name) is not None for thing in objects
    )


def _adapter(field: models.Field[Any, Any]) -> Callable[[Any], Any]:
    """How a value of this column goes to the database; most go as they are."""
    if isinstance(field, models.DateTimeField):
        return connection.ops.adapt_datetimefield_value
    if isinstance(field, models.JSONField):
        return json.dumps
    return _plain if field.choices else _as_it_is


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _as_it_is(value: Any) -> Any:
    return value
