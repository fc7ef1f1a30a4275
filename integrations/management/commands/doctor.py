"""`manage.py doctor`: check the installation, one line per check; exit 1 if a check fails."""

from __future__ import annotations

import math
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
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Min
from django.utils import timezone

from integrations import wakeup
from integrations.checks import WRONG_KEYS
from integrations.models import (
    AuditEntry,
    BackupSchedule,
    Installation,
    Message,
    ServiceStatus,
    Worker,
    database_now,
    pooler,
    schema,
    storage,
)
from integrations.models.storage import Trouble
from integrations.registration import key_rotation

FREE_FAILS, FREE_WARNS = 200 * 1024**2, 1024**3  # bytes: below the first, a burst of messages fills the disk
SKEW_LIMIT = timedelta(seconds=2)  # leases go by the database's clock, schedules by this machine's
LATE = timedelta(minutes=5)  # age of the oldest due message that is worth a warning

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check, printed as one line."""

    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


class Command(BaseCommand):
    help = "Check the installation, one line per check; exit 1 if a check fails."
    requires_system_checks: list[str] = []  # Django would refuse to start with the very problems to report

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--accept-clock",
            action="store_true",
            help="after a leap of the clock: say that its present time is right, so that old history is deleted again",
        )

    def handle(self, *_: Any, accept_clock: bool, **__: Any) -> None:
        if accept_clock:
            _accept_clock()
        failed = False
        for result in check_results():
            self.stdout.write(str(result))
            failed = failed or result.level == "fail"
        if failed:
            raise SystemExit(1)


@transaction.atomic
def _accept_clock() -> None:
    now = database_now()
    Installation.objects.accept_clock(now)
    AuditEntry.objects.record("command line", "clock.accepted", "clock", after={"time": now.isoformat()})


def check_results() -> Iterator[CheckResult]:
    """Run all checks: settings first, then the database, and checks that need it only if it is ready."""
    yield from _settings()
    usable = yield from _database()
    usable = usable and (yield from _schema())
    if usable:
        if not Installation.objects.has_right_keys():
            yield CheckResult("fail", WRONG_KEYS)
        yield from _old_keys()
        yield _clock()
        yield from _leap()
        no_writes = storage.trouble()
        yield _writes(no_writes)
        yield from _wal()
        yield _workers(no_writes)
        yield _backlog()
        yield _backups()
    else:
        yield CheckResult("warn", "clock, workers and backlog were not checked: the database is not ready")
    yield _redis()
    yield _disk()


def _settings() -> Iterator[CheckResult]:
    problems = run_checks(tags=[Tags.security])
    ours = [problem for problem in problems if str(problem.id).startswith("switchboard.")]
    for problem in ours:
        if problem.level >= WARNING:
            yield CheckResult("fail" if problem.level >= ERROR else "warn", problem.msg.replace("\n", " "))
    if not any(problem.level >= ERROR for problem in ours):
        count = len(settings.ENCRYPTION_KEYS)
        yield CheckResult("ok", f"keys are set ({count} for encryption)")
    if settings.DEBUG:
        yield CheckResult("warn", "SWITCHBOARD_DEBUG is on: error pages show code and settings to every visitor")
    else:
        yield CheckResult("ok", "debug is off")
    if settings.ALLOW_PRIVATE:
        yield CheckResult("warn", f"every service may reach private networks: {settings.ALLOW_PRIVATE}")
    else:
        yield CheckResult("ok", "private networks are blocked, except those that a service allows itself")


def _old_keys() -> Iterator[CheckResult]:
    """Say, during a rotation of keys, whether the old keys are still needed."""
    if len(settings.ENCRYPTION_KEYS) < 2:
        return
    try:
        count = key_rotation.outdated()
    except ValueError:  # a key has the wrong form, which the settings check reports
        return
    if count:
        yield CheckResult("warn", f"{count} rows of secrets need an old key; run {settings.PROGRAM} rotate-keys")
    else:
        yield CheckResult("ok", "the newest key reads every secret; the old keys can be removed")


# ---- database -----------------------------------------------------------------------------------------------------
def _database() -> Generator[CheckResult, None, bool]:
    """Check the connection and the migrations. Return whether tables can be read."""
    try:
        connection.ensure_connection()
        missing = _missing_migrations()
    except DatabaseError as error:
        yield CheckResult("fail", f"the database cannot be reached: {_line(error)}")
        return False
    name = "SQLite" if connection.vendor == "sqlite" else "PostgreSQL"
    yield CheckResult("ok", f"the {name} database is reachable")
    if missing:
        yield CheckResult("fail", f"{missing} migrations are not applied; run {settings.PROGRAM} migrate")
    else:
        yield CheckResult("ok", "all migrations are applied")
    yield from _sqlite() if connection.vendor == "sqlite" else _pooler()
    return not missing


def _pooler() -> Iterator[CheckResult]:
    """Check what a pooler in between takes away, and that a NOTIFY arrives."""
    try:
        if refusal := pooler.refusal():
            yield CheckResult("fail", refusal)
            return
        for warning in pooler.warnings():
            yield CheckResult("warn", warning)
        if not pooler.is_deaf():
            took = wakeup.round_trip()
            if took is None or took == math.inf:
                yield CheckResult(
                    "fail", f"no NOTIFY arrives within {wakeup.ARRIVES_WITHIN:g} s, so none wakes a worker"
                )
            else:
                yield CheckResult("ok", f"a NOTIFY wakes a listener, after {took * 1000:.1f} ms")
    except DatabaseError as error:
        yield CheckResult("fail", f"the database works badly: {_line(error)}")


def _missing_migrations() -> int:
    executor = MigrationExecutor(connection)
    return len(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _schema() -> Generator[CheckResult, None, bool]:
    """Compare the tables with the models. Return whether statements can work."""
    found = schema.differences()
    serious = [difference for difference in found if not difference.is_harmless]
    harmless = [difference for difference in found if difference.is_harmless]
    if serious:
        text = f"the database does not have the tables of this version: {schema.sentence(serious)}. {schema.WHAT_TO_DO}"
        yield CheckResult("fail", text)
    if harmless:
        yield CheckResult("warn", f"statements are slow: {schema.sentence(harmless)}. {schema.WHAT_TO_DO}")
    if not found:
        yield CheckResult("ok", "the tables are those of this version")
    return not serious


def _sqlite() -> Iterator[CheckResult]:
    if sqlite3.sqlite_version_info >= settings.SQLITE_WITHOUT_WAL_RESET_BUG:
        yield CheckResult("ok", f"SQLite {sqlite3.sqlite_version}")
    else:
        yield CheckResult(
            "warn",
            f"SQLite {sqlite3.sqlite_version} can corrupt a database that two processes write (the WAL-reset bug, "
            "fixed in 3.51.3); install pysqlite3 into this environment",
        )
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        mode = cursor.fetchone()[0]
    if mode in ("wal", "memory"):
        yield CheckResult("ok", f"journal mode {mode}")
    else:
        yield CheckResult("fail", f"journal mode is {mode}, not wal: move the data folder to a local disk")
    yield from _file_modes(Path(str(connection.settings_dict["NAME"])))


def _file_modes(path: Path) -> Iterator[CheckResult]:
    files = [path, Path(settings.DATA_DIR) / "keys.json"]
    for file in (file for file in files if file.is_file()):
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            yield CheckResult("fail", f"other accounts can read {file.name} (mode {mode:04o}); run chmod 600 on it")
        else:
            yield CheckResult("ok", f"only this account can read {file.name} (mode {mode:04o})")


def _clock() -> CheckResult:
    skew = abs(timezone.now() - database_now())
    if skew > SKEW_LIMIT:
        return CheckResult(
            "fail",
            f"the clocks of this machine and the database differ by {skew.total_seconds():.1f} s; set both by NTP",
        )
    return CheckResult("ok", "the clocks of this machine and the database agree")


def _leap() -> Iterator[CheckResult]:
    clock = Installation.objects.clock()
    if clock.leapt_from and clock.leapt_to:
        yield CheckResult(
            "warn",
            f"the clock went from {clock.leapt_from:%F %H:%M} to {clock.leapt_to:%F %H:%M} UTC without a worker in "
            f"between: no history is deleted until workers have run for {clock.hold_left.total_seconds() / 3600:.1f} h "
            f"more. If the time is right, run {settings.PROGRAM} doctor --accept-clock",
        )


def _writes(no_writes: Trouble | None) -> CheckResult:
    if no_writes:
        return CheckResult("fail", str(no_writes))
    return CheckResult("ok", "the database takes writes")


def _wal() -> Iterator[CheckResult]:
    if (size := storage.wal_bytes()) > storage.WAL_LIMIT:
        reader = "a process reads the database for a long time, such as an open sqlite3 session or a backup. End it"
        if BackupSchedule.objects.current().is_being_written(database_now()):
            reader = "a backup is being written; look again when it has ended"
        text = f"SQLite's write-ahead log has {size / 1024**2:.0f} MiB and grows with each message: {reader}"
        yield CheckResult("warn", text)


# ---- traffic ------------------------------------------------------------------------------------------------------
def _workers(no_writes: Trouble | None) -> CheckResult:
    count = Worker.objects.alive(database_now()).count()
    if not count and no_writes:
        return CheckResult("warn", "no worker holds a lease, and none can renew it while the database takes no writes")
    if not count:
        return CheckResult("warn", f"no worker is running; start {settings.PROGRAM} up")
    return CheckResult("ok", f"{count} worker{'s are' if count > 1 else ' is'} running")


def _backlog() -> CheckResult:
    now = database_now()
    oldest = Message.objects.due(now).filter(service__status=ServiceStatus.ACTIVE).aggregate(at=Min("due_at"))["at"]
    if oldest is None:
        return CheckResult("ok", "no message is due")
    age = now - oldest
    level: Level = "warn" if age > LATE else "ok"
    return CheckResult(level, f"the oldest due message has waited for {age.total_seconds():.0f} s")


def _backups() -> CheckResult:
    schedule, now = BackupSchedule.objects.current(), database_now()
    if schedule.taken_at:
        age = (now - schedule.taken_at).total_seconds() / 3600
        last = f"the last backup is {age:,.1f} h old: {schedule.place}"
    else:
        last = "no backup is known"
    match schedule.trouble(now):
        case "failed":
            return CheckResult("fail", f"the backup failed: {schedule.failure}; {last}")
        case "overdue":
            return CheckResult("fail", f"the backup is overdue, it is planned every {schedule.every_hours} h; {last}")
    off = "" if schedule.every_hours else "; no schedule is set, see docs/operating.md"
    return CheckResult("ok", f"{last}{off}")


# ---- Redis and disk -----------------------------------------------------------------------------------------------
def _redis() -> CheckResult:
    if not settings.REDIS_URL:
        return CheckResult("ok", "Redis is not used")
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=3, socket_timeout=3) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        return CheckResult("fail", f"Redis cannot be reached: {_line(error)}")
    return CheckResult("ok", "Redis is reachable")


def _disk() -> CheckResult:
    folder = Path(settings.DATA_DIR)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 1024**3:.1f} GiB are free on the disk of the data folder"
    return CheckResult("fail" if free < FREE_FAILS else "warn" if free < FREE_WARNS else "ok", text)


def _line(error: BaseException) -> str:
    """Return the error in one line, without URLs that may contain a password."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    for url in (settings.DATABASE_URL, settings.DIRECT_URL, settings.REDIS_URL):
        text = text.replace(url, "…") if url else text
    return text
