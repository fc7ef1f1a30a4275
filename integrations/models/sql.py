"""Statements over many rows, by hand where the ORM was measured to be the main cost of a delivery.

``pk__any=ids`` is one parameter for any number of ids: building ``IN`` with a placeholder for each took 15 µs of CPU a
message, and SQLite accepts no more than 250,000 placeholders. ``append`` takes rows that never were objects, at 10 µs
a row; ``bulk_create`` took 190.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from operator import itemgetter
from typing import Any

from django.db import Error, connection, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone


@models.ForeignKey.register_lookup  # which does not inherit the lookups of fields
@models.Field.register_lookup
class AnyOf(models.Lookup):
    """``column = ANY(array)``; on SQLite the array is JSON."""

    lookup_name = "any"
    prepare_rhs = False

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, Any]:
        column, parameters = self.process_lhs(compiler, connection)
        kind = "text" if isinstance(self.lhs.output_field, models.CharField) else "bigint"
        return is_any(column, kind), [*parameters, array(self.rhs)]


def is_any(column: str, kind: str = "bigint") -> str:
    """The condition that a column is in an ``array``, for statements by hand."""
    if connection.vendor == "postgresql":
        return f"{column} = ANY(%s::{kind}[])"
    return f"{column} IN (SELECT value FROM json_each(%s))"  # noqa: S608 - a name of ours


def array(values: Iterable[Any]) -> Any:
    return list(values) if connection.vendor == "postgresql" else json.dumps(list(values))


def moment(value: datetime) -> Any:
    """A time as a parameter of a statement by hand."""
    return connection.ops.adapt_datetimefield_value(value)


def server_address() -> tuple[str, int] | None:
    """Return address and port of the PostgreSQL that this thread is connected with; None for a socket, and SQLite."""
    if connection.vendor != "postgresql" or connection.connection is None:
        return None
    info = connection.connection.info
    return (info.hostaddr, info.port) if info.hostaddr else None


LOCK_TIMEOUT = "500ms"  # lanes hold a lock for some milliseconds; PostgreSQL looks for deadlocks after a second
LOCK_NOT_AVAILABLE = "55P03"


def limit_lock_waits() -> None:
    """Let the statements of this thread wait for a lock for LOCK_TIMEOUT only, then fail with OperationalError. On
    PostgreSQL, behind a pooler in transactions only; SQLite has one lock, and a timeout of its own."""
    if connection.vendor == "postgresql":
        connection.limit_lock_waits(LOCK_TIMEOUT)  # type: ignore[attr-defined]


def is_pooled() -> bool:
    """Whether a pooler stands between this thread and PostgreSQL."""
    if connection.vendor != "postgresql":
        return False
    connection.ensure_connection()
    return bool(connection.is_pooled)  # type: ignore[attr-defined]


def directly() -> AbstractContextManager[None]:
    """Use a connection past the pooler in the meantime, outside of transactions, where the settings have one."""
    if connection.vendor != "postgresql":
        return nullcontext()
    direct: AbstractContextManager[None] = connection.directly()  # type: ignore[attr-defined]
    return direct


@contextmanager
def short_lock_waits() -> Iterator[None]:
    """The same for the present connection alone, until the block ends."""
    if connection.vendor != "postgresql":
        yield
        return
    limit_lock_waits()
    try:
        yield
    finally:
        connection.limit_lock_waits("")  # type: ignore[attr-defined]


def is_lock_timeout(error: Error) -> bool:
    """Whether a statement failed because another transaction held a lock for too long."""
    return getattr(error.__cause__, "sqlstate", None) == LOCK_NOT_AVAILABLE


@contextmanager
def shared_snapshot() -> Iterator[str]:
    """A transaction that reads one state of the database for as long as it takes, and the name by which another session
    reads the same state. PostgreSQL only."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_export_snapshot()")
        yield cursor.fetchone()[0]


PLANNED_FOR = 5.0  # seconds
_planned = threading.local()  # since each thread has its own connection


@contextmanager
def prepared() -> Iterator[Any]:
    """A cursor for the statements of every delivery. PostgreSQL prepares a repeated statement, and then neither parses
    nor plans it again; Django's own cursor puts the values into the text, so that no statement repeats.

    Plans are kept for some seconds: a plan that was made while a table was empty reads the whole table after it has
    grown, until the server analyzes the table by itself, a minute later.
    """
    if connection.vendor != "postgresql" or connection.queries_logged or connection.execute_wrappers:
        with connection.cursor() as cursor:
            yield cursor
        return
    import psycopg

    connection.close_if_health_check_failed()
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        if not is_pooled() and time.monotonic() >= getattr(_planned, "until", 0.0):
            cursor.execute("DISCARD PLANS", prepare=False)
            _planned.until = time.monotonic() + PLANNED_FOR
        yield cursor


class RowReader:
    """The columns of a SELECT by hand, given as (alias, model, names), and the conversion of its rows."""

    def __init__(self, *parts: tuple[str, type[models.Model], Sequence[str]]) -> None:
        columns: list[tuple[str, Any]] = [
            (alias, model._meta.get_field(name)) for alias, model, names in parts for name in names
        ]
        self.names = [name for _, _, names in parts for name in names]
        self.columns = ", ".join(f"{alias}.{connection.ops.quote_name(field.column)}" for alias, field in columns)
        self._conversions = []
        for index, (_, field) in enumerate(columns):
            expression = field.cached_col
            found = [*connection.ops.get_db_converters(expression), *expression.get_db_converters(connection)]
            self._conversions += [(index, expression, convert) for convert in found]

    def read(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for index, expression, convert in self._conversions:
            values[index] = convert(values[index], expression, connection)
        return values


KEYS = "SELECT nextval(%s), statement_timestamp() FROM generate_series(1, %s)"


def fresh_keys(model: type[models.Model], count: int) -> tuple[datetime, list[int]]:
    """The time by the database's clock, and keys for ``count`` rows that this transaction will insert, ascending.

    On SQLite the transaction must hold the write lock (IMMEDIATE does), or rows of another transaction take the same
    keys.
    """
    table = model._meta.db_table
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(KEYS, [f"{table}_id_seq", count])
            found = cursor.fetchall()
            return found[0][1].astimezone(UTC), [key for key, _ in found]
        cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [table])
        row = cursor.fetchone()
    last = row[0] if row else 0
    return timezone.now(), list(range(last + 1, last + 1 + count))


def last_keys(*given: type[models.Model]) -> list[int]:
    """The last key of each model that was given to a row, which may be deleted or not committed; reads no rows."""
    last = (
        "last_value - (NOT is_called)::int FROM {}_id_seq"  # a sequence begins with 1, not yet given
        if connection.vendor == "postgresql"
        else "seq FROM sqlite_sequence WHERE name = '{}'"
    )
    selects = ", ".join(f"(SELECT {last.format(model._meta.db_table)})" for model in given)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {selects}")
        return [key or 0 for key in cursor.fetchone()]


def append(model: type[models.Model], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows given by attribute name, all with the same columns. A missing column gets no default."""
    if not rows:
        return
    columns, pick, adapters = _plan(model, tuple(rows[0]), connection.vendor)
    values = []
    for row in rows:
        picked = list(pick(row))
        for index, adapt in adapters:
            picked[index] = adapt(picked[index])
        values.append(picked)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            statement = f"COPY {model._meta.db_table} ({columns}) FROM STDIN"
            with connection.wrap_database_errors, cursor.copy(statement) as copy:  # Django does not wrap copy()
                for picked in values:
                    copy.write_row(picked)
        else:
            places = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ({places})", values)  # noqa: S608


Plan = tuple[str, Callable[[dict[str, Any]], tuple[Any, ...]], tuple[tuple[int, Callable[[Any], Any]], ...]]


@lru_cache(maxsize=32)
def _plan(model: type[models.Model], names: tuple[str, ...], vendor: str) -> Plan:
    """The list of columns, a getter of a row's values in their order, and adapters for the values that need one."""
    fields = {field.attname: field for field in model._meta.concrete_fields}
    columns = ", ".join(connection.ops.quote_name(str(fields[name].column)) for name in names)
    adapters = tuple(
        (index, adapter)
        for index, name in enumerate(names)
        if (adapter := _adapter(fields[name], vendor)) is not _as_it_is
    )
    return columns, itemgetter(*names), adapters


def _adapter(field: models.Field[Any, Any], vendor: str) -> Callable[[Any], Any]:
    """The conversion of this column's values for the database; most need none."""
    if isinstance(field, models.DateTimeField) and vendor == "sqlite":
        return connection.ops.adapt_datetimefield_value
    if isinstance(field, models.JSONField):
        return json.dumps
    return _plain if field.choices else _as_it_is  # else a choice's member would be sent as the name of an enum


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _as_it_is(value: Any) -> Any:
    return value
