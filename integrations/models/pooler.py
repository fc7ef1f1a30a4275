"""The losses by a pooler between us and PostgreSQL (integrations/postgresql/base.py says how it is noticed)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from integrations import wakeup
from integrations.models import sql

TIMEOUT = "idle_in_transaction_session_timeout"


def refusal() -> str:
    """Return why this pooler cannot work, in one sentence; empty if it can, and without one."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        if "statement pooling" not in str(error):
            raise
        return (
            "The pooler before PostgreSQL ends a transaction after each statement (pool_mode = statement): set it to "
            "pool_mode = transaction or session."
        )
    try:
        took = wakeup.round_trip() if settings.DIRECT_DATABASE else 0.0
    except DatabaseError as error:
        return f"The database (SWITCHBOARD_DATABASE_DIRECT_URL) cannot be opened: {str(error).strip()}"
    if took is None:
        return "SWITCHBOARD_DATABASE_DIRECT_URL leads to a pooler: set it to the server itself."
    if took == math.inf:
        return "SWITCHBOARD_DATABASE_DIRECT_URL does not lead to the database of SWITCHBOARD_DATABASE_URL."
    return ""


def is_deaf() -> bool:
    """Whether workers have to look for messages, since nothing can wake them."""
    return not settings.DIRECT_DATABASE and sql.is_pooled()


def warnings() -> Iterator[str]:
    """The losses, a sentence each, without its full stop."""
    if is_deaf():
        yield wakeup.POOLED
    if sql.is_pooled():
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT current_setting('{TIMEOUT}'), current_user, current_database()")
            timeout, user, database = cursor.fetchone()
        if timeout == "0":
            quote = connection.ops.quote_name
            yield (
                "a console that is cut off keeps its locks, since the pooler does not pass our timeouts on; run "
                f"ALTER ROLE {quote(user)} IN DATABASE {quote(database)} SET {TIMEOUT} = '5s', and restart the pooler"
            )
