"""Wake-ups: a lane learns at once that another process has committed something, and not only at its next look.

On PostgreSQL this is LISTEN/NOTIFY, on SQLite a counter that changes with every commit of another connection. A lost
wake-up costs a quarter of a second and nothing else, because a lane also looks by itself. So does a pooler, through
which no LISTEN works, unless SWITCHBOARD_DATABASE_DIRECT_URL leads past it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from django.db import DatabaseError, connection, transaction

from integrations.logs import line

log = logging.getLogger("switchboard.wakeup")

CHANNEL = "switchboard_due"
ARRIVES_WITHIN = 2.0  # seconds
POOLED = (
    "a pooler stands before PostgreSQL, so nothing wakes a worker, and a message waits up to 0.25 s longer; set "
    "SWITCHBOARD_DATABASE_DIRECT_URL to the server itself"
)
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


def round_trip() -> float | None:
    """Return how long a NOTIFY takes to a listener, in seconds; infinity if it does not arrive, and None if a pooler
    lets no process listen. On PostgreSQL."""
    channel = f"switchboard_probe_{secrets.token_hex(8)}"
    session = connection.own_session()  # type: ignore[attr-defined]
    if session is None:
        return None
    usual = connection.copy()  # outside of any transaction, whose NOTIFY would come with the commit
    with connection.wrap_database_errors, session, closing(usual):
        session.execute(f"LISTEN {channel}")
        with usual.cursor() as cursor:
            begun = time.monotonic()
            cursor.execute(f"NOTIFY {channel}")
        arrived = list(session.notifies(timeout=ARRIVES_WITHIN, stop_after=1))
        return time.monotonic() - begun if arrived else math.inf


class WakeupListener:
    """Call ``on_wakeup`` on the running loop. Call ``open`` regularly: it replaces a lost connection."""

    def __init__(self, on_wakeup: Callable[[], None]) -> None:
        self._on_wakeup = on_wakeup
        self._listener: Any = None
        self._is_deaf = False
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
        if self._is_deaf or (self._listener is not None and not self._listener.closed):
            return
        self._disconnect()
        try:
            self._listener = connection.own_session()  # type: ignore[attr-defined]
            if self._listener is None:
                self._is_deaf = True
                log.warning(line("wake-ups off", reason=POOLED))
                return
            with connection.wrap_database_errors:
                self._listener.execute(f"LISTEN {CHANNEL}")
        except DatabaseError as error:
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
