"""Whether the database takes writes, by a small write with a short wait, and the size of SQLite's write-ahead log.

Reads go on while the disk is full or the database locked, and so do leases for a while. Only a write tells.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django.db import DatabaseError, Error, InterfaceError, connection, transaction

from integrations.models.attempt import Attempt
from integrations.models.clock import database_now
from integrations.models.installation import Installation
from integrations.models.message import Message, MessageContent
from integrations.models.runtime import Runtime
from integrations.models.tally import Tally
from integrations.models.worker import Worker

LOCK_WAIT = 1.0  # seconds that the small write waits for a lock
HOLDS = 5.0  # seconds that its result holds for a process that asks again and again
WAL_LIMIT = 64 * 1024**2  # bytes; journal_size_limit of the settings cuts the log to it, unless a reader holds it

WRITTEN = (Message, MessageContent, Attempt, Runtime, Tally, Worker)  # by every delivery
DISK_FULL, READ_ONLY, LOCKED, TEMP_FILE_LIMIT = "53100", "25006", "55P03", "53400"  # PostgreSQL's SQLSTATE


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the database takes no writes, and what to do, each without a full stop."""

    cause: str  # without names of sessions, since everyone may read `/readyz`
    advice: str
    is_lock: bool = False
    holder: int = 0  # the process of this machine that holds the lock, if that is known
    named: str = ""  # the cause with the name of the session or process

    @property
    def text(self) -> str:
        return self.named or self.cause

    def __str__(self) -> str:
        return f"the database takes no writes: {self.text}. {self.advice}"


# ---- a write now ----------------------------------------------------------------------------------------------------
def trouble() -> Trouble | None:
    """Make a small write, and return what prevents it. Waits LOCK_WAIT for a lock."""
    try:
        _write_sqlite() if connection.vendor == "sqlite" else _write_postgres()
    except (DatabaseError, InterfaceError) as error:
        if getattr(error.__cause__, "sqlstate", None) == TEMP_FILE_LIMIT:
            return None  # a limit of this role, and not of the disk
        found = _explain(error)
        # Lanes that write all the time can keep a small write waiting; the database is busy then, and not locked.
        if found.is_lock and connection.vendor == "sqlite" and _a_lane_beats():
            return None
        return found
    return None


def _write_sqlite() -> None:
    """Write a page of the file. `user_version` is a number that nothing else uses; a row that is updated with the
    values that it has writes nothing."""
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {int(LOCK_WAIT * 1000)}")
        try:
            with transaction.atomic():
                cursor.execute("PRAGMA user_version")
                cursor.execute(f"PRAGMA user_version = {(cursor.fetchone()[0] + 1) % 2**30}")
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {int(connection.settings_dict['OPTIONS']['timeout'] * 1000)}")


def _write_postgres() -> None:
    """Commit a row, and allocate some space. While the disk is full, a row that fits into its page is still written."""
    tables = ", ".join(model._meta.db_table for model in WRITTEN)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{int(LOCK_WAIT * 1000)}ms'")
        cursor.execute(f"LOCK TABLE {tables} IN ROW EXCLUSIVE MODE")  # as every writer does
        cursor.execute("SET LOCAL work_mem = '64kB'")
        cursor.execute("SELECT count(*) FROM generate_series(1, 20000)")  # a temporary file of 300 KB
        row = f"SELECT id FROM {Installation._meta.db_table} WHERE id = 1 FOR UPDATE SKIP LOCKED"  # noqa: S608
        cursor.execute(f"UPDATE {Installation._meta.db_table} SET steady = steady WHERE id = ({row})")  # noqa: S608


GOES_ON = "delivery then goes on by itself"


def _explain(error: Error) -> Trouble:
    text, state = str(error), getattr(error.__cause__, "sqlstate", None)
    if state == DISK_FULL or "database or disk is full" in text:
        return Trouble("its disk is full", f"Free space on it; {GOES_ON}")
    if state == LOCKED:
        cause, advice = "another session has locked its tables", f"End that transaction; {GOES_ON}"
        return Trouble(cause, advice, is_lock=True, named=_holders())
    if "database is locked" in text:
        cause, advice, holder = "another process has locked it", f"End that process; {GOES_ON}", _holder_of_file()
        named = f"process {holder} has locked it" if holder else ""
        return Trouble(cause, advice, is_lock=True, holder=holder, named=named)
    if state == READ_ONLY or "readonly database" in text:
        return Trouble("it is read-only", "Connect to the primary server, or make file and folder writable")
    if "disk I/O error" in text:
        return Trouble("its disk reports errors", "Read the log of the kernel")
    return Trouble(f"a small write failed ({type(error.__cause__ or error).__name__})", "Read the log of the database")


HOLDERS = """SELECT DISTINCT a.pid, a.application_name
FROM pg_locks l JOIN pg_class t ON t.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND a.pid <> pg_backend_pid() AND t.relname = ANY(%s)
AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') ORDER BY 1 LIMIT 3"""


def _holders() -> str:
    """Name the sessions of PostgreSQL that hold the tables, for `pg_terminate_backend`."""
    found: list[tuple[int, str]] = []
    with suppress(Error), connection.cursor() as cursor:
        cursor.execute(HOLDERS, [[model._meta.db_table for model in WRITTEN]])
        found = cursor.fetchall()
    names = ", ".join(f"{pid} ({name})" if name else str(pid) for pid, name in found)
    few = f"session {names} of PostgreSQL has" if len(found) == 1 else f"sessions {names} of PostgreSQL have"
    return f"{few} locked its tables" if found else ""


SHM_WRITE_LOCK = 120  # the byte that a writer locks: https://sqlite.org/walformat.html#wal_locks


def _holder_of_file() -> int:
    """The process that holds SQLite's write lock, 0 if unknown. From Linux' list of locks: to open and close the file
    itself would release the locks of this process."""
    try:
        inode = Path(f"{connection.settings_dict['NAME']}-shm").stat().st_ino
        for held in Path("/proc/locks").read_text().splitlines():
            # 12: POSIX  ADVISORY  WRITE 4711 fd:01:131074 120 120
            words = held.split()
            if words[1] == "POSIX" and words[3] == "WRITE" and words[5].endswith(f":{inode}"):
                first, last = words[6:8]
                if int(first) <= SHM_WRITE_LOCK and (last == "EOF" or int(last) >= SHM_WRITE_LOCK):
                    return max(0, int(words[4]))
    except (OSError, ValueError, IndexError):
        pass
    return 0


def _a_lane_beats() -> bool:
    _, is_quiet = Worker.objects.pulse(database_now())
    return not is_quiet


# ---- for a process that asks again and again ------------------------------------------------------------------------
_result: tuple[float, Trouble | None] | None = None
_suspected_at = float("-inf")
_looking = threading.Lock()


def recent_trouble() -> Trouble | None:
    """The same, at most every HOLDS seconds; a thread that comes while another one looks gets the last result."""
    global _result
    if _result is not None and (time.monotonic() - _result[0] < HOLDS or not _looking.acquire(blocking=False)):
        return _result[1]
    if _result is None:
        _looking.acquire()
    try:
        if _result is None or time.monotonic() - _result[0] >= HOLDS:
            _result = time.monotonic(), trouble()
        return _result[1]
    finally:
        _looking.release()


def suspect() -> None:
    """Note that a write has failed, so that the next page looks why."""
    global _suspected_at
    _suspected_at = time.monotonic()


def trouble_to_show(is_quiet: bool) -> Trouble | None:
    """For pages: look only if no lane has beaten lately, or a write of this process has failed."""
    is_suspected = time.monotonic() - _suspected_at < 6 * HOLDS
    was_found = _result is not None and _result[1] is not None
    return recent_trouble() if is_quiet or is_suspected or was_found else None


# ---- SQLite's write-ahead log ---------------------------------------------------------------------------------------
def wal_bytes() -> int:
    """The size of SQLite's write-ahead log; 0 without one."""
    if connection.vendor != "sqlite":
        return 0
    try:
        return Path(f"{connection.settings_dict['NAME']}-wal").stat().st_size
    except OSError:
        return 0
