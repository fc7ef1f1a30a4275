"""The doorbell: tells a pump that something was committed, so that it looks at once and not at its next turn.

On PostgreSQL it is LISTEN/NOTIFY; on SQLite a counter that changes with every commit of another connection. Missing
a ring costs a quarter of a second and nothing else: the pump looks by itself.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from django.db import DatabaseError, connection, transaction

from integrations.logs import line

log = logging.getLogger("switchboard.doorbell")

CHANNEL = "switchboard_due"
LOOK_EVERY = 0.01  # seconds between looks at SQLite's counter; one was measured at 4.5 µs


def ring() -> None:
    """Rings after the present transaction has committed.

    On its own then, not inside: NOTIFY takes a lock that would make all accepting transactions commit one by one.
    """
    if connection.vendor == "postgresql":
        transaction.on_commit(_notify, robust=True)


def _notify() -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CHANNEL}")


class Doorbell:
    """Listens on the running loop and calls ``rung`` there. ``open`` it again at times: it mends what has broken."""

    def __init__(self, rung: Callable[[], None]) -> None:
        self._rung = rung
        self._listener: Any = None
        self._watched = -1  # the descriptor of its socket
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
        self._hang_up()

    # ---- PostgreSQL ------------------------------------------------------------------------------------------------
    def _listen(self) -> None:
        if self._listener is not None and not self._listener.closed:
            return
        import psycopg

        self._hang_up()
        try:
            parameters = connection.get_connection_params()
            parameters = {
                name: value for name, value in parameters.items() if name not in ("context", "cursor_factory")
            }
            parameters.pop("prepare_threshold", None)
            self._listener = psycopg.connect(**parameters, autocommit=True)
            self._listener.execute(f"LISTEN {CHANNEL}")
        except (psycopg.Error, DatabaseError) as error:
            log.warning(line("no doorbell", error=str(error).partition("\n")[0]))
            self._listener = None
            return
        self._watched = self._listener.fileno()
        asyncio.get_running_loop().add_reader(self._watched, self._hear)

    def _hear(self) -> None:
        try:
            self._listener.pgconn.consume_input()
            while self._listener.pgconn.notifies():
                pass
        except Exception as error:  # whatever libpq says: the line is dead, and open() makes a new one
            log.warning(line("doorbell lost", error=str(error).partition("\n")[0]))
            self._hang_up()
        self._rung()

    def _hang_up(self) -> None:
        if self._listener is None:
            return
        # Also when libpq has closed the socket by itself: the number is soon that of another connection, which could
        # not be made while the loop takes it for ours.
        asyncio.get_running_loop().remove_reader(self._watched)
        self._listener.close()
        self._listener = None

    # ---- SQLite ----------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        try:
            assert self._counter is not None  # noqa: S101 - open() has made it
            (version,) = self._counter.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            version = self._seen
        if version != self._seen:
            self._seen = version
            self._rung()
        self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look)
