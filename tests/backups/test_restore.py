"""A backup is complete or is none. A restore brings every row back, and holds messages so that none is sent twice."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection

from integrations.backups import contents, keys_file
from integrations.backups.errors import BackupError
from integrations.backups.restore import check, restore
from integrations.backups.take import take
from integrations.delivery.claim import claim
from integrations.delivery.waiting import waiting_for
from integrations.models import (
    Account,
    Attempt,
    AuditEntry,
    BackupSchedule,
    Draft,
    Installation,
    Message,
    Operation,
    Role,
    Service,
    Status,
    WebServer,
    Worker,
    database_now,
    schema,
)
from integrations.models.operation import Kind, State
from integrations.operators import bulk_operations, traffic
from tests.support.records import a_worker

PASSPHRASE = "correct horse battery"


def a_service(name: str = "billing", **fields: Any) -> Service:
    fields = {"base_url": "http://billing.test", "secrets": {"auth.token": {"value": "s3cret"}}, **fields}
    return Service.objects.create(name=name, retry={"max_attempts": 3, "initial": 0, "jitter": 0}, **fields)


def queue(service: Service, count: int = 1, **fields: Any) -> list[Message]:
    drafts = [
        Draft(service, "POST", f"/orders/{number}", b'{"order": 1}', "application/json") for number in range(count)
    ]
    made = Message.objects.accept(drafts)
    if fields:
        Message.objects.filter(pk__in=[message.pk for message in made]).update(**fields)
    return made


@pytest.fixture
def _quick_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is derived in a third of a second, so that a passphrase cannot be guessed."""
    monkeypatch.setitem(keys_file.COST, "n", 2**10)


@pytest.fixture
def rows(new_database: Callable[[], None]) -> list[Message]:
    """A message in each status, one of them in flight, with a running operation and an account."""
    service = a_service()
    Installation.objects.note_keys()
    Account.objects.register("ada", "correct horse battery", Role.ADMIN)
    now = database_now()
    queue(service, status=Status.DELIVERED, finished_at=now, due_at=None)
    queue(service, status=Status.DEAD, finished_at=now, due_at=None)
    queue(service, status=Status.CANCELLED, finished_at=now, due_at=None)
    bulk_operations.plan(Kind.RETRY_NOW, "service:billing", reason="they are back", rate=1, by="person ada")
    queue(service)
    assert len(claim(a_worker().pk, 1, {})) == 1
    queue(service, deliver_at=now + timedelta(days=1), due_at=now + timedelta(days=1))
    return queue(service)


def test_a_restored_database_has_every_row_and_holds_what_was_unfinished(
    rows: list[Message], new_database: Callable[[], None], tmp_path: Path
) -> None:
    backup = take(tmp_path / "backup")
    assert backup.manifest.counts == contents.counts()
    assert {path.name for path in backup.folder.iterdir()} == {"manifest.json", *backup.manifest.files}
    assert not [path for path in backup.folder.iterdir() if path.stat().st_mode & 0o077]
    before = dict(Message.objects.values_list("pk", "content__body"))

    new_database()
    done = restore(backup.folder)

    if connection.vendor == "sqlite":
        assert not Path(connection.settings_dict["NAME"]).stat().st_mode & 0o077
    assert dict(Message.objects.values_list("pk", "content__body")) == before
    assert Service.objects.get().secrets == {"auth.token": {"value": "s3cret"}}
    assert schema.differences() == []
    unfinished = Message.objects.unfinished()
    assert done.held == unfinished.count() == 3
    assert {(message.status, message.held, message.due_at) for message in unfinished} == {(Status.PENDING, True, None)}
    lost = Attempt.objects.get()
    assert (lost.outcome, "in flight when the backup was taken" in lost.detail) == ("lost", True)
    assert not Worker.objects.filter(stopped_at=None).exists()
    assert Operation.objects.get().state == State.PAUSED
    assert BackupSchedule.objects.current().restored_from == backup.manifest.taken_at
    entry = AuditEntry.objects.get(action="backup.restored")
    assert entry.after["held"] == 3
    waiting = waiting_for(Message.objects.get(pk=rows[0].pk), database_now())
    assert waiting
    assert (waiting.kind, "a backup restored" in waiting.why) == ("held", True)
    newer = queue(Service.objects.get())[0]
    assert newer.pk > max(before), "a restored database gives no id twice"


def test_what_was_delivered_after_the_backup_is_sent_again_only_by_an_operator(
    new_database: Callable[[], None], deliver: Callable[..., None], tmp_path: Path
) -> None:
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request.headers["webhook-id"])
        return httpx.Response(200)

    service = a_service(secrets={}, network={"allow_private": ["127.0.0.0/8"]}, base_url="http://127.0.0.1:9")
    messages = queue(service, 3)
    backup = take(tmp_path / "last-night")
    deliver(answer)
    assert len(calls) == 3

    restore(backup.folder, replace=True)
    deliver(answer)
    assert len(calls) == 3, "a restore sends nothing by itself"

    one = Message.objects.get(pk=messages[0].pk)
    traffic.retry_now(one, actor="person ada")
    deliver(answer)
    assert calls[3:] == [one.wire_id]
    assert Message.objects.get(pk=one.pk).status == Status.DELIVERED


def _damage(folder: Path) -> None:
    file = next(folder.glob("database.*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _make_newer(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["version"], manifest["migrations"]["integrations"] = "9.0.0", "0999_later"
    path.write_text(json.dumps(manifest))


def _cut(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:100])


def test_a_backup_that_is_damaged_or_newer_is_refused(rows: list[Message], tmp_path: Path) -> None:
    sound = take(tmp_path / "backup").folder
    check(sound)
    for number, (change, why) in enumerate(
        [
            (_damage, "is damaged"),
            (lambda folder: next(folder.glob("database.*")).unlink(), "cannot be read"),
            (lambda folder: (folder / "manifest.json").unlink(), "no complete backup"),
            (_cut, "damaged, or of a newer version"),
            (_make_newer, r"by Switchboard 9.0.0, whose migration integrations.0999_later .* Install 9.0.0"),
        ]
    ):
        folder = tmp_path / str(number)
        shutil.copytree(sound, folder)
        change(folder)
        with pytest.raises(BackupError, match=why):
            restore(folder, replace=True)
    assert Message.objects.unfinished().filter(held=True).count() == 0, "nothing was replaced"


def test_a_database_with_data_is_replaced_only_if_told_and_kept(rows: list[Message], tmp_path: Path) -> None:
    Worker.objects.update(stopped_at=database_now())
    folder = take(tmp_path / "backup").folder
    queue(Service.objects.get(), 2)
    with pytest.raises(BackupError, match=r"has data\. Give --replace"):
        restore(folder)
    assert Message.objects.count() == 8
    done = restore(folder, replace=True)
    assert Message.objects.count() == 6
    if connection.vendor == "sqlite":
        assert done.kept
        with closing(sqlite3.connect(done.kept)) as before:
            assert before.execute("SELECT count(*) FROM integrations_message").fetchone() == (8,)


def test_a_database_that_is_in_use_is_not_replaced(rows: list[Message], tmp_path: Path) -> None:
    folder = take(tmp_path / "backup").folder
    with pytest.raises(BackupError, match=r"Switchboard runs on this database \(1 worker\)"):
        restore(folder, replace=True)
    Worker.objects.update(stopped_at=database_now())
    facts: dict[str, Any] = {"host": "here", "port": 8000, "addresses": []}
    WebServer.objects.announce("here-1", **facts, now=database_now())
    with pytest.raises(BackupError, match=r"Switchboard runs on this database \(1 web server\)"):
        restore(folder, replace=True)
    WebServer.objects.all().delete()
    if connection.vendor == "sqlite":
        path = connection.settings_dict["NAME"]
        reader = (
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM integrations_message')"
            ".fetchall(); print('open', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", reader, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            process.stdout.readline()
            with pytest.raises(BackupError, match=r"Another process has .* open"):
                restore(folder, replace=True)
            process.communicate()
    assert Message.objects.filter(held=True).count() == 0
    restore(folder, replace=True)


def test_a_restore_that_fails_leaves_the_database_as_it_was(rows: list[Message], tmp_path: Path) -> None:
    """On PostgreSQL the view of an operator is not dropped; on SQLite the manifest counts other rows."""
    Worker.objects.update(stopped_at=database_now())
    folder = take(tmp_path / "backup").folder
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("CREATE VIEW report AS SELECT status FROM integrations_message")
        why = "Nothing was restored: .*DETAIL: view report depends on table integrations_message"
    else:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["counts"]["messages"] += 1
        path.write_text(json.dumps(manifest))
        why = "The restored database has 6 messages, not as its manifest says"
    with pytest.raises(BackupError, match=why):
        restore(folder, replace=True)
    assert Message.objects.filter(held=True).count() == 0
    assert schema.differences() == []
    assert not list(tmp_path.rglob("*restoring*"))


@pytest.mark.servers_only
def test_a_restore_that_was_killed_is_said_and_can_be_repeated(
    rows: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between PostgreSQL's commit and the hold a start would send everything again."""
    Worker.objects.update(stopped_at=database_now())
    folder = take(tmp_path / "backup").folder
    with monkeypatch.context() as patch:
        patch.setattr(
            "integrations.backups.restore.hold_unfinished", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            restore(folder, replace=True)
    assert [difference.text for difference in schema.differences()] == [
        "the restore of a backup has not ended, so run it again"
    ]
    assert restore(folder).held == 3
    assert schema.differences() == []


def test_a_damaged_database_can_be_replaced(rows: list[Message], tmp_path: Path) -> None:
    if connection.vendor != "sqlite":
        return
    Worker.objects.update(stopped_at=database_now())
    folder = take(tmp_path / "backup").folder
    connection.close()
    path = Path(connection.settings_dict["NAME"])
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(BackupError, match="has data"):
        restore(folder)
    assert restore(folder, replace=True).held == 3
    assert Message.objects.count() == 6


def test_a_backup_that_fails_leaves_nothing(
    rows: list[Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = take(tmp_path / "backup").folder
    with pytest.raises(BackupError, match="exists already"):
        take(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match="cannot be written: Not a directory"):
        take(tmp_path / "file" / "backup")
    with pytest.raises(BackupError, match="at least 12 characters"):
        take(tmp_path / "short", "too short")
    if connection.vendor == "postgresql":
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(BackupError, match=r"pg_dump was not found in PATH\. Install"):
            take(tmp_path / "none")
    assert {path.name for path in tmp_path.iterdir()} - {"data"} == {"backup", "file"}


def test_a_backup_is_one_moment_while_others_write(new_database: Callable[[], None], tmp_path: Path) -> None:
    """Messages and their contents are two rows of one transaction: a backup with one of them alone is torn."""
    service = a_service()
    has_begun, may_end = threading.Event(), threading.Event()

    def write() -> None:
        while not may_end.is_set():
            queue(service, 5)
            has_begun.set()
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert has_begun.wait(10)
        backups = [take(tmp_path / str(number)) for number in range(3)]
    finally:
        may_end.set()
        writer.join()
    assert Message.objects.count() > backups[-1].manifest.counts["messages"], "the writer went on"
    new_database()
    restore(backups[-1].folder)
    assert Message.objects.count() % 5 == 0
    assert Message.objects.filter(content=None).count() == 0


@pytest.mark.usefixtures("_quick_passphrase")
def test_keys_come_back_with_the_passphrase_and_no_other(
    rows: list[Message], new_database: Callable[[], None], tmp_path: Path, settings: Any
) -> None:
    backup = take(tmp_path / "backup", PASSPHRASE)
    for file in backup.folder.iterdir():
        assert settings.ENCRYPTION_KEYS[0].encode() not in file.read_bytes()
        assert settings.SECRET_KEY.encode() not in file.read_bytes()
    keys = settings.ENCRYPTION_KEYS
    new_database()
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]  # of the new machine
    with pytest.raises(BackupError, match=r"do not read the secrets of this backup\. Give --keys"):
        restore(backup.folder)
    with pytest.raises(BackupError, match="The passphrase is not that of this backup"):
        restore(backup.folder, passphrase="another passphrase")
    done = restore(backup.folder, passphrase=PASSPHRASE)
    assert done.keys
    assert done.keys.stat().st_mode & 0o777 == 0o600
    assert json.loads(done.keys.read_text()) == {"secret_key": settings.SECRET_KEY, "encryption_keys": keys}
    settings.ENCRYPTION_KEYS = keys
    assert Installation.objects.has_right_keys()


def test_the_keys_are_encrypted_with_the_passphrase() -> None:
    keys = keys_file.Keys("signing", ["first", "second"])
    stored = keys_file.encrypt(keys, PASSPHRASE)
    assert b"signing" not in stored
    assert keys_file.decrypt(stored, PASSPHRASE) == keys


@pytest.mark.usefixtures("_quick_passphrase")
def test_the_commands_say_what_they_did(
    rows: list[Message], new_database: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.management.commands.backup.signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSPHRASE}\n" * 2))
    target = str(tmp_path / "backup")
    out = io.StringIO()
    call_command("backup", target, keys=True, passphrase_stdin=True, stdout=out)
    assert "6 messages (3 unfinished) and 1 service as of" in out.getvalue()
    assert ", with keys" in out.getvalue()
    with pytest.raises(CommandError, match="exists already"):
        call_command("backup", target)
    call_command("restore", target, check=True, stdout=out)
    assert "The backup is complete" in out.getvalue()
    new_database()
    call_command("restore", target, stdout=out)
    assert "3 unfinished messages are held" in out.getvalue()
    shutil.rmtree(target)
    with pytest.raises(CommandError, match="no complete backup"):
        call_command("restore", target)
