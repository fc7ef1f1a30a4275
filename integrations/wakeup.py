"""Wake-ups: a lane learns at once that another process has committed something, and not only at its next look.

On PostgreSQL this is LISTEN/NOTIFY, on SQLite a counter that changes with every commit of another connection. A lost
wake-up costs a quarter of a second and nothing else, because a lane also looks by itself.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, connection, transaction

from integrations.logs import line

log = logging.getLogger("switchboard.wakeup")

CHANNEL = "switchboard_due"
LOOK_EVERY = 0.01  # seconds between looks at SQLite's counter; one look takes 4.5 µs


def notify() -> None:
    """Wake the lanes after the current transaction has committed.

    NOTIFY runs in a transaction of its own: inside the current one, it would take a lock that makes all accepting
    transactions commit one by one.
    """
    if connection.vendor == "postgresql":
        transaction.on_commit(_notify, robust=True)


def _notify() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CHANNEL}")


class WakeupListener:
    """Call ``on_wakeup`` on the running loop. Call ``open`` regularly: it replaces a lost connection."""

    def __init__(self, on_wakeup: Callable[[], None]) -> None:
        self._on_wakeup = on_wakeup
        self._listener: Any = None
        self._watched = -1  # the file descriptor of its socket
        self._counter: sqlite3.Connection | None = None
        self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        if connection.vendor == "postgresql":
            self._listen()
        elif self._counter is None:
            self._counter = sqlite3.connect(connection.settings_dict["NAME"], timeout=0, isolation_level=None)
            self._look()

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._counter:
            self._counter.close()
        self._disconnect()

    # ---- PostgreSQL ------------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        if self._listener is not None and not self._listener.closed:
            return
        import psycopg

        self._disconnect()
        try:
            parameters = connection.get_connection_params()
            parameters = {
                name: value for name, value in parameters.items() if name not in ("context", "cursor_factory")
            }
            parameters.pop("prepare_threshold", None)
            self._listener = psycopg.connect(**parameters, autocommit=True)
            self._listener.execute(f"LISTEN {CHANNEL}")
        except (psycopg.Error, DatabaseError) as error:
            log.warning(line("wake-ups unavailable", error=str(error).partition("\n")[0]))
            self._listener = None
            return
        self._watched = self._listener.fileno()
        asyncio.get_running_loop().add_reader(self._watched, self._receive)

    def _receive(self) -> None:
        try:
            self._listener.pgconn.consume_input()
            while self._listener.pgconn.notifies():
                pass
        except Exception as error:  # any error of libpq: the connection is dead, and open() makes a new one
            log.warning(line("wake-ups lost", error=str(error).partition("\n")[0]))
            self._disconnect()
        self._on_wakeup()

    def _disconnect(self) -> None:
        if self._listener is None:
            return
        # Also after libpq has closed the socket itself: another connection soon gets the same descriptor, and asyncio
        # refuses that connection while this reader is registered.
        asyncio.get_running_loop().remove_reader(self._watched)
        self._listener.close()
        self._listener = None

    # ---- SQLite ----------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        try:
            assert self._counter is not None  # noqa: S101 - open() has set it
            (version,) = self._counter.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            version = self._seen
        if version != self._seen:
            self._seen = version
            self._on_wakeup()
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
