"""`manage.py doctor`: what is wrong with this installation, one line each; exit 1 when something is."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import redis
from django.conf import settings
from django.core.checks import ERROR, WARNING, Tags, run_checks
from django.core.management.base import BaseCommand
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Min
from django.utils import timezone

from integrations.models import Message, ServiceStatus, Worker, database_now

FREE_FAILS, FREE_WARNS = 200 * 1024**2, 1024**3  # bytes: below the first, a burst of messages fills the disk
SKEW_LIMIT = timedelta(seconds=2)  # leases are judged by the database's clock, schedules are given by ours
LATE = timedelta(minutes=5)

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    words: str

    def __str__(self) -> str:
        return f"{self.level}: {self.words}"


class Command(BaseCommand):
    help = "Says what is wrong with this installation, one line each; exit 1 when something is."
    requires_system_checks: list[str] = []  # a broken installation is what this is for

    def handle(self, *_: Any, **__: Any) -> None:
        failed = False
        for finding in findings():
            self.stdout.write(str(finding))
            failed = failed or finding.level == "fail"
        if failed:
            raise SystemExit(1)


def findings() -> Iterator[Finding]:
    """Everything that is looked at, in the order of what depends on what."""
    yield from _settings()
    usable = yield from _database()
    if usable:
        yield _clock()
        yield _workers()
        yield _backlog()
    else:
        yield Finding("warn", "clock, workers and backlog were not looked at: the database is not ready")
    yield _redis()
    yield _disk()


def _settings() -> Iterator[Finding]:
    problems = run_checks(tags=[Tags.security])
    ours = [problem for problem in problems if str(problem.id).startswith("switchboard.")]
    for problem in ours:
        if problem.level >= WARNING:
            yield Finding("fail" if problem.level >= ERROR else "warn", problem.msg.replace("\n", " "))
    if not any(problem.level >= ERROR for problem in ours):
        count = len(settings.ENCRYPTION_KEYS)
        yield Finding("ok", f"keys are set ({count} for secrets at rest)")
    if settings.DEBUG:
        yield Finding("warn", "SWITCHBOARD_DEBUG is on: errors show their insides to whoever causes them")
    else:
        yield Finding("ok", "debug is off")
    if settings.ALLOW_PRIVATE:
        yield Finding("warn", f"every service may reach private networks: {settings.ALLOW_PRIVATE}")
    else:
        yield Finding("ok", "private networks are closed, save where a service has its own")


# ---- database -----------------------------------------------------------------------------------------------------
def _database() -> Generator[Finding, None, bool]:
    """Returns whether it can be asked about traffic."""
    try:
        connection.ensure_connection()
        missing = _missing_migrations()
    except DatabaseError as error:
        yield Finding("fail", f"the database cannot be reached: {_line(error)}")
        return False
    name = "SQLite" if connection.vendor == "sqlite" else "PostgreSQL"
    yield Finding("ok", f"the {name} database is reachable")
    if missing:
        yield Finding("fail", f"{missing} migrations are not applied; run manage.py migrate")
    else:
        yield Finding("ok", "all migrations are applied")
    if connection.vendor == "sqlite":
        yield from _sqlite()
    return not missing


def _missing_migrations() -> int:
    executor = MigrationExecutor(connection)
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _sqlite() -> Iterator[Finding]:
    if sqlite3.sqlite_version_info >= settings.SQLITE_WITHOUT_WAL_RESET_BUG:
        yield Finding("ok", f"SQLite {sqlite3.sqlite_version}")
    else:
        yield Finding(
            "warn",
            f"SQLite {sqlite3.sqlite_version} can corrupt a database that two processes write (the WAL-reset bug, "
            "mended in 3.51.3); install pysqlite3 into this environment",
        )
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = cursor.fetchone()[0]
    if mode in ("wal", "memory"):
        yield Finding("ok", f"journal mode {mode}")
    else:
        yield Finding("fail", f"journal mode is {mode}, not wal: the data folder has to be on a local disk")
    yield from _file_modes(Path(str(connection.settings_dict["NAME"])))


def _file_modes(path: Path) -> Iterator[Finding]:
    files = [path, Path(settings.DATA_DIR) / "keys.json"]
    for file in (file for file in files if file.is_file()):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            yield Finding("fail", f"{file.name} can be read by others (mode {mode:04o}); run chmod 600 on it")
        else:
            yield Finding("ok", f"{file.name} is ours alone (mode {mode:04o})")


def _clock() -> Finding:
    skew = abs(timezone.now() - database_now())
    if skew > SKEW_LIMIT:
        return Finding("fail", f"the database's clock is {skew.total_seconds():.1f} s away from ours; set both by NTP")
    return Finding("ok", "our clock and the database's agree")


# ---- traffic ------------------------------------------------------------------------------------------------------
def _workers() -> Finding:
    count = Worker.objects.alive(database_now()).count()
    if not count:
        return Finding("warn", "no worker is running; start manage.py up")
    return Finding("ok", f"{count} worker{'s are' if count > 1 else ' is'} running")


def _backlog() -> Finding:
    now = database_now()
    oldest = Message.objects.due(now).filter(service__status=ServiceStatus.ACTIVE).aggregate(at=Min("due_at"))["at"]
    if oldest is None:
        return Finding("ok", "nothing is due")
    age = now - oldest
    level: Level = "warn" if age > LATE else "ok"
    return Finding(level, f"the oldest due message has waited for {age.total_seconds():.0f} s")


# ---- around it ----------------------------------------------------------------------------------------------------
def _redis() -> Finding:
    if not settings.REDIS_URL:
        return Finding("ok", "no Redis is used")
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return Finding("fail", f"Redis cannot be reached: {_line(error)}")
    return Finding("ok", "Redis is reachable")


def _disk() -> Finding:
    folder = Path(settings.DATA_DIR)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    words = f"{free / 1024**3:.1f} GiB are free for the data folder"
    return Finding("fail" if free < FREE_FAILS else "warn" if free < FREE_WARNS else "ok", words)


def _line(error: BaseException) -> str:
    """The error in one line, without the address that may hold a password."""
    words = " ".join(str(error).split())[:200] or type(error).__name__
    for url in (settings.DATABASE_URL, settings.REDIS_URL):
        words = words.replace(url, "…") if url else words
    return words
