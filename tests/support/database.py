"""The database that the tests of this process share, emptied after each test that commits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

from django.db import connection, models, transaction

MADE_BY_MIGRATIONS = {"django_migrations", "django_content_type", "auth_permission"}
HELD_FOR = 30  # seconds at most that a test locks rows


def delete_all_rows() -> None:
    """Leave the database as the migrations left it.

    Django's `flush` truncates every table, which takes PostgreSQL 50 ms, and then makes the content types and the
    permissions again, which takes 30 ms. A test fills about five of the thirty tables.
    """
    is_filled = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM {table})" for table in _tables())
    # PostgreSQL and SQLite check foreign keys at the end of the transaction, so the order of the tables is free.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(is_filled)
        for (table,) in cursor.fetchall():
            cursor.execute(f"DELETE FROM {table}")


@cache
def _tables() -> list[str]:
    tables = set(connection.introspection.django_table_names(only_existing=True)) - MADE_BY_MIGRATIONS
    return sorted(connection.ops.quote_name(table) for table in tables)


def locked(rows: models.QuerySet[Any]) -> AbstractContextManager[None]:
    """Another session holds the rows, as an operator's open transaction in psql would."""
    return held_by_another(lambda: list(rows.select_for_update()))


@contextmanager
def held_by_another(take: Callable[[], object]) -> Iterator[None]:
    """Another session holds what ``take`` locks in its transaction: on SQLite the file, whatever it takes."""
    holds, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            take()
            holds.set()
            may_go.wait(HELD_FOR)
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(5)
    try:
        yield
    finally:
        may_go.set()
        holder.join()
