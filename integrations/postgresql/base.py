"""Django's PostgreSQL, with or without a pooler in between.

A pooler such as PgBouncer lends a server's session for one transaction and then gives it to another client. By then,
prepared statements, SET and LISTEN are lost to the first client, or meet the second one. So behind a pooler nothing is
kept in a session, whatever the pooler's mode: that can change while we are connected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.conf import settings
from django.db.backends.postgresql import base

# A machine that is cut off must not keep its locks: PostgreSQL ends an idle transaction after 5 s, and both sides drop
# a dead connection. Five seconds are a quarter of a lease.
IDLE_TIMEOUT = "5s"
SESSION = {
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT,
    "tcp_user_timeout": "5s",
    "tcp_keepalives_idle": "3",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
}
# The session is set after the connection is made, in one statement: poolers refuse these settings at its start.
BEGIN = (
    "SELECT pg_backend_pid(), (SELECT count(set_config(name, value, false)) "
    "FROM unnest(%s::text[], %s::text[]) AS wanted(name, value) WHERE pg_backend_pid() = %s)"
)
LOCAL = "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)"


class DatabaseWrapper(base.DatabaseWrapper):
    is_pooled = False  # of the connection that is open, or was last
    lock_timeout = ""  # how long the statements of this thread wait for a lock; empty for the server's own limit

    def init_connection_state(self) -> None:
        super().init_connection_state()
        if self.connection is None:
            return
        options = str(self.settings_dict["OPTIONS"].get("options", ""))
        session = {name: value for name, value in SESSION.items() if name not in options}
        if self.lock_timeout:
            session["lock_timeout"] = self.lock_timeout
        with self.wrap_database_errors:
            self.is_pooled = is_pooled(self.connection, session)
        if self.is_pooled:
            # Also where the pooler carries prepared statements: their plans would age in sessions that no DISCARD PLANS
            # of ours reaches (integrations/models/sql.py).
            self.connection.prepare_threshold = None

    def limit_lock_waits(self, timeout: str) -> None:
        """Set ``lock_timeout``, now and in later connections of this thread."""
        self.lock_timeout = timeout
        if self.connection is not None and not self.is_pooled:
            with self.cursor() as cursor:
                cursor.execute(f"SET lock_timeout = '{timeout}'" if timeout else "RESET lock_timeout")

    def _set_autocommit(self, autocommit: bool) -> None:
        super()._set_autocommit(autocommit)  # type: ignore[misc]
        if self.is_pooled and self.lock_timeout and not autocommit:
            # Only in the threads that limit their waits for locks, which are those that lock for all: a statement more.
            try:
                with self.wrap_database_errors:
                    self.connection.execute(LOCAL, [self.lock_timeout, IDLE_TIMEOUT])
            except Exception:
                self.close()
                raise

    def chunked_cursor(self) -> Any:
        """Behind a pooler a cursor of the server ends with the statement, except in a transaction."""
        self.ensure_connection()
        return self.cursor() if self.is_pooled and self.get_autocommit() else super().chunked_cursor()

    @contextmanager
    def directly(self) -> Iterator[None]:
        """Connect past the pooler in the meantime, where SWITCHBOARD_DATABASE_DIRECT_URL says how."""
        if not settings.DIRECT_DATABASE:
            yield
            return
        usual = self.settings_dict
        self.close()
        self.settings_dict = usual | settings.DIRECT_DATABASE
        try:
            yield
        finally:
            self.close()
            self.settings_dict = usual

    def own_session(self) -> psycopg.Connection[Any] | None:
        """A connection apart from Django's, past the pooler; None if a pooler stands there as well."""
        direct = type(self)(self.settings_dict | (settings.DIRECT_DATABASE or {}), self.alias)
        parameters = direct.get_connection_params()
        for name in ("context", "cursor_factory", "prepare_threshold"):
            parameters.pop(name, None)
        with self.wrap_database_errors:
            session = psycopg.connect(**parameters, autocommit=True)
            try:
                pooled = is_pooled(session, SESSION)
            except BaseException:
                session.close()
                raise
        if pooled:
            session.close()
        return None if pooled else session


def is_pooled(connection: psycopg.Connection[Any], session: dict[str, str]) -> bool:
    """Whether a pooler stands before the server; if not, set ``session``.

    The server tells its process id when a connection begins, as part of the key by which a client cancels a statement.
    A pooler, whose clients have no server of their own, has to make up keys. So the id that we were told is that of
    the process that answers only if we talk to the server itself. That takes one statement, needs no access to the
    pooler's console, and does not depend on how busy the pooler is, as watching the id change would.
    """
    told = connection.info.backend_pid
    with psycopg.Cursor(connection) as cursor:
        cursor.execute(BEGIN, [list(session), list(session.values()), told], prepare=False)
        found = cursor.fetchone()
    return found is None or found[0] != told
