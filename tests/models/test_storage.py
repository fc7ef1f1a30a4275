"""A database that takes no writes is said by `/readyz`, `doctor` and the pages, with the reason.

The long forms, with a whole installation, are in tests/faults/test_chaos.py.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.utils import timezone

from integrations.api import problems
from integrations.management.commands.doctor import check_results
from integrations.models import BackupSchedule, storage
from integrations.models.storage import Trouble
from tests.support.database import held_by_another
from tests.support.records import a_worker
from tests.support.signed_in import a_service, browser, words

FULL = Trouble("its disk is full", "Free space on it; delivery then goes on by itself")


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LOCK_WAIT", 0.1)


def _locked_by_another() -> AbstractContextManager[None]:
    """Another session locks what every delivery writes: on SQLite the file, on PostgreSQL one of the tables."""

    def take() -> None:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("LOCK TABLE integrations_message")

    return held_by_another(take)


@pytest.mark.django_db(transaction=True)
def test_a_database_that_takes_writes_is_no_trouble() -> None:
    assert storage.trouble() is None
    assert Client().get("/readyz").json()["writable"] is True
    assert "ok: the database takes writes" in map(str, check_results())


@pytest.mark.django_db(transaction=True)
def test_a_locked_database_is_not_ready_and_says_why() -> None:
    """`/readyz` was 200, and the doctor said that no worker was running."""
    with _locked_by_another():
        answer = Client().get("/readyz")
        found = storage.trouble()
    assert answer.status_code == 503
    assert answer.json()["writable"] is False
    assert found is not None
    assert "locked" in found.text
    assert found.cause in answer.json()["reason"]
    assert found.text not in answer.json()["reason"], "everyone may read it"
    if connection.vendor == "sqlite":
        assert (found.holder, found.text) == (os.getpid(), f"process {os.getpid()} has locked it")
    else:
        assert "session" in found.text
        assert "of PostgreSQL has locked its tables" in found.text
    assert storage.trouble() is None


@pytest.mark.django_db(transaction=True)
def test_the_doctor_fails_for_a_locked_database_and_sends_nobody_to_start_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = Trouble("another process has locked it", "End that process", is_lock=True)
    monkeypatch.setattr(storage, "trouble", lambda: found)
    lines = list(map(str, check_results()))
    assert f"fail: {found}" in lines
    assert not any("start manage.py up" in line for line in lines)


@pytest.mark.django_db(transaction=True)
def test_a_database_that_lanes_write_all_the_time_is_busy_and_not_locked() -> None:
    if connection.vendor == "postgresql":
        return  # nothing of ours holds a lock on a table there
    a_worker()
    with _locked_by_another():
        assert storage.trouble() is None


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SQLite's own error, from a file that may not grow."""
    with sqlite3.connect(tmp_path / "small.sqlite3") as small:
        small.execute("CREATE TABLE t (b)")
        small.execute("PRAGMA max_page_count = 3")
        with pytest.raises(sqlite3.OperationalError) as full:
            small.execute("INSERT INTO t VALUES (zeroblob(100000))")
    _refuse(monkeypatch, full.value)
    assert storage.trouble() == FULL


def test_a_full_disk_of_postgresql_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from psycopg.errors import DiskFull

    _refuse(monkeypatch, DiskFull('could not extend file "base/5/1": No space left on device'))
    assert storage.trouble() == FULL


def _refuse(monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    def refuse() -> None:
        raise OperationalError(str(cause)) from cause

    monkeypatch.setattr(storage, "_write_sqlite", refuse)
    monkeypatch.setattr(storage, "_write_postgres", refuse)


@pytest.mark.django_db
def test_an_unknown_error_names_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse(monkeypatch, OSError("secret host name"))
    answer = Client().get("/readyz")
    assert (answer.status_code, answer.json()["writable"]) == (503, False)
    assert "secret host name" not in answer.content.decode()


@pytest.mark.servers_only
@pytest.mark.django_db(transaction=True)
def test_on_postgresql_the_small_write_allocates_space() -> None:
    """While the disk is full, a heartbeat still fits into its page, and only new pages fail."""
    with connection.cursor() as cursor:
        cursor.execute("SET temp_file_limit = '64kB'")
        try:
            with pytest.raises(OperationalError, match="temporary file"):
                storage._write_postgres()
            assert storage.trouble() is None, "a limit of this role is not a full disk"
        finally:
            cursor.execute("RESET temp_file_limit")


@pytest.mark.django_db(transaction=True)
def test_on_sqlite_the_small_write_reaches_the_disk() -> None:
    """A row that is updated with its own values is not written."""
    if connection.vendor != "sqlite":
        return
    storage._write_sqlite()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.fetchall()
    assert storage.wal_bytes() == 0
    storage._write_sqlite()
    assert storage.wal_bytes() > 0


# ---- pages ----------------------------------------------------------------------------------------------------------
@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/", "/workers/"])
def test_a_page_says_that_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(storage, "trouble", lambda: FULL)
    a_service()
    page = words(browser().get(path))
    assert "The database takes no writes" in page
    assert "Its disk is full." in page
    assert "Free space on it; delivery then goes on by itself." in page
    assert "Start workers with" not in page
    assert "Start web and workers" not in page


@pytest.mark.django_db
def test_a_page_writes_nothing_while_lanes_beat_unless_a_write_has_failed(
    monkeypatch: pytest.MonkeyPatch, rf: Any
) -> None:
    writes: list[int] = []

    def write() -> Trouble:
        writes.append(1)
        return FULL

    monkeypatch.setattr(storage, "trouble", write)
    a_worker()
    client = browser()
    assert "takes no writes" not in words(client.get("/workers/"))
    assert writes == []
    problems._database_problem(rf.post("/"), OperationalError("disk full"))
    assert "takes no writes" in words(client.get("/workers/"))
    client.get("/workers/")
    assert writes == [1]


@pytest.mark.django_db
def test_lanes_that_beat_no_more_make_a_page_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "trouble", lambda: FULL)
    worker = a_worker()
    worker.heartbeat_at = timezone.now() - timedelta(seconds=10)
    worker.save()
    assert "takes no writes" in words(browser().get("/workers/"))


@pytest.mark.django_db
def test_a_write_ahead_log_behind_a_reader_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grew by 70 KB a message, without a word."""
    a_service()
    a_worker()
    assert not any("write-ahead log" in str(result) for result in check_results())
    monkeypatch.setattr(storage, "wal_bytes", lambda: 120 * 1024**2)
    (line,) = [str(result) for result in check_results() if "write-ahead log" in str(result)]
    assert line.startswith("warn: SQLite's write-ahead log has 120 MiB")
    page = words(browser().get("/"))
    assert "write-ahead log has 120.0 MB" in page
    assert "Nothing needs attention" not in page
    BackupSchedule.objects.create(pk=1, holder="one", lease_until=timezone.now() + timedelta(minutes=1))
    assert "End that process" in page
    assert "A backup is being written" in words(browser(name="bob").get("/")), "it ends by itself"


@pytest.mark.django_db(transaction=True)
def test_threads_that_ask_at_once_write_once(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[int] = []
    may_go = threading.Event()

    def write() -> None:
        writes.append(1)
        may_go.wait(5)

    monkeypatch.setattr(storage, "trouble", write)
    threads = [threading.Thread(target=storage.recent_trouble) for _ in range(4)]
    for thread in threads:
        thread.start()
    may_go.set()
    for thread in threads:
        thread.join()
    assert writes == [1]
