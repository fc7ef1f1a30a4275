"""Backups by schedule: one process writes each, old ones go, and one that fails or is missing is said everywhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as present

from dashboard.presenters import metrics
from integrations.backups import schedule
from integrations.backups.errors import BackupError
from integrations.management.commands.doctor import check_results
from integrations.models import AuditEntry, BackupSchedule, Message, Role, Status, database_now
from integrations.operators import backup_schedule
from integrations.schemas.actions import BackupsIn
from integrations.workers import housekeeping
from integrations.workers.supervisor import Child, Supervisor
from tests.support.backends import postgres_programs
from tests.support.signed_in import a_service, browser, messages_of, words
from tests.support.waiting import until

HOUR = timedelta(hours=1)
PAGE = "/settings/backups/"


def _set(**given: Any) -> BackupSchedule:
    return backup_schedule.change(BackupsIn(**given).model_dump(), actor="person ada")


def _move_back(by: timedelta) -> None:
    """As if that much time had passed since the schedule was set and the last backup taken."""
    row = BackupSchedule.objects.get(pk=1)
    assert row.changed_at
    BackupSchedule.objects.update(changed_at=row.changed_at - by, taken_at=row.taken_at and row.taken_at - by)


@pytest.mark.django_db
def test_without_a_schedule_none_is_due_and_none_is_missed() -> None:
    now = database_now()
    assert not BackupSchedule.objects.begin("one", now)
    assert BackupSchedule.objects.current().trouble(now + 1000 * HOUR) is None
    assert any(line.startswith("ok: no backup is known") for line in map(str, check_results()))


@pytest.mark.django_db
def test_a_backup_that_is_due_has_one_holder_until_its_lease_ends() -> None:
    _set(every_hours=6)
    now = database_now()
    assert BackupSchedule.objects.begin("one", now)
    assert not BackupSchedule.objects.begin("two", now)
    BackupSchedule.objects.renew("one", now + timedelta(minutes=1))
    assert not BackupSchedule.objects.begin("two", now + timedelta(minutes=2))
    assert BackupSchedule.objects.begin("two", now + timedelta(minutes=4)), "the machine of the first is gone"
    BackupSchedule.objects.give_up("one")
    assert BackupSchedule.objects.current().holder == "two", "who lost its lease takes nothing away"


@pytest.mark.django_db
def test_the_next_one_is_due_after_the_interval_and_soon_after_a_failure() -> None:
    _set(every_hours=6)
    now = database_now()
    BackupSchedule.objects.note_success(taken_at=now, place="here:/b", size=1, seconds=1)
    assert not BackupSchedule.objects.begin("one", now + 6 * HOUR - timedelta(seconds=1))
    assert BackupSchedule.objects.begin("one", now + 6 * HOUR)
    BackupSchedule.objects.note_failure("one", "the disk is full", now + 6 * HOUR)
    assert not BackupSchedule.objects.begin("one", now + 6.2 * HOUR)
    assert BackupSchedule.objects.begin("one", now + 6.3 * HOUR)


def test_a_run_keeps_the_newest_and_touches_nothing_else(
    new_database: Callable[[], None], tmp_path: Path, settings: Any
) -> None:
    folder = tmp_path / "of ours"
    _set(every_hours=1, folder=str(folder), keep=2)
    for name in ("switchboard-20200101T000000Z", "switchboard-20210101T000000Z", "by hand", ".switchboard-x.1.partial"):
        (folder / name).mkdir(parents=True)
    assert BackupSchedule.objects.begin(present.CLUSTER, database_now())
    backup = schedule.run()
    assert backup.folder.parent == folder
    assert {path.name for path in folder.iterdir()} == {"switchboard-20210101T000000Z", "by hand", backup.folder.name}
    row = BackupSchedule.objects.current()
    assert (row.taken_at, row.size, row.holder) == (backup.manifest.taken_at, backup.manifest.size, "")
    assert row.place.endswith(f":{backup.folder}")
    assert any("ok: the last backup is 0.0 h old" in line for line in map(str, check_results()))


def test_a_run_that_fails_is_said_by_the_doctor_and_the_pages(new_database: Callable[[], None], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _set(every_hours=1, folder=str(tmp_path / "file"))
    a_service()
    BackupSchedule.objects.begin(present.CLUSTER, database_now())
    with pytest.raises(BackupError):
        schedule.run()
    assert any(line.startswith("fail: the backup failed: ") for line in map(str, check_results()))
    admin = browser(Role.ADMIN)
    page = words(admin.get("/"))
    assert "The backup failed" in page
    assert "There is no good one." in page
    assert "Not a directory" in words(admin.get("/workers/"))
    assert b"switchboard_backup_trouble 1.0" in metrics.text()
    BackupSchedule.objects.note_success(taken_at=database_now(), place="here:/b", size=1, seconds=1)
    assert "The backup failed" not in words(admin.get("/"))
    assert b"switchboard_backup_trouble 0.0" in metrics.text()


@pytest.mark.django_db
def test_an_overdue_backup_is_said() -> None:
    a_service()
    _set(every_hours=4)
    _move_back(5 * HOUR)
    assert "The backup is overdue" not in words(browser(Role.VIEWER).get("/"))
    _move_back(1.1 * HOUR)
    assert "The backup is overdue" in words(browser(Role.OPERATOR).get("/"))
    assert any(line.startswith("fail: the backup is overdue") for line in map(str, check_results()))


@pytest.mark.django_db
def test_an_admin_sets_the_schedule_and_the_audit_log_has_it() -> None:
    admin = browser(Role.ADMIN, "ada")
    assert "off" in words(admin.get("/settings/"))
    answer = admin.post(PAGE, {"every_hours": "6", "folder": "/backups", "keep": "3"}, follow=True)
    assert "Saved. A backup is made every 6 hours." in words(answer)
    assert "every 6 hours, the newest 3 kept" in words(answer)
    assert BackupSchedule.objects.current().settings == {"every_hours": 6, "folder": "/backups", "keep": 3}
    entry = AuditEntry.objects.get(action="backups.changed")
    assert (entry.actor, entry.before["every_hours"], entry.after["every_hours"]) == ("person ada", None, 6)
    assert "Backups" in words(browser(Role.VIEWER).get("/workers/"))
    admin.post(PAGE, {"every_hours": "", "folder": "", "keep": ""})
    assert BackupSchedule.objects.current().settings == {"every_hours": None, "folder": "", "keep": 7}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "given",
    [{"every_hours": "0"}, {"every_hours": "745"}, {"folder": "backups"}, {"folder": "/b/../etc"}, {"keep": "0"}],
)
def test_a_wrong_schedule_is_refused_beside_its_field(given: dict[str, str]) -> None:
    answer = browser(Role.ADMIN).post(PAGE, {"every_hours": "6", "folder": "", "keep": "7", **given})
    assert answer.status_code == 422
    assert f'id="id_{next(iter(given))}_error"' in answer.content.decode()
    assert BackupSchedule.objects.current().every_hours is None


@pytest.mark.django_db
def test_messages_of_a_restored_backup_are_said_until_none_is_held() -> None:
    held = messages_of(a_service(), Status.PENDING, 2, held=True)
    Message.objects.update(due_at=None)
    now = database_now()
    BackupSchedule.objects.note_restore(now - HOUR, now)
    viewer = browser(Role.VIEWER)
    page = words(viewer.get("/"))
    assert "2 messages of a restored backup are held" in page
    housekeeping.tidy()
    assert BackupSchedule.objects.current().restored_at, "they are still held"
    Message.objects.filter(pk__in=[message.pk for message in held]).retry_now(now)
    housekeeping.tidy()
    assert BackupSchedule.objects.current().restored_at is None
    assert "restored backup" not in words(viewer.get("/"))


@pytest.mark.django_db
def test_a_backup_whose_process_is_killed_is_a_failure_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.workers.supervisor.LOOK_FOR_BACKUPS", 0.0)
    supervisor = Supervisor(host="127.0.0.1", port=0, lanes=1, web=0, workers=False)
    monkeypatch.setattr(supervisor.backup, "start", lambda: _start_sleeper(supervisor.backup))
    _set(every_hours=1)
    supervisor._keep_backups()
    assert BackupSchedule.objects.current().holder == supervisor.cluster
    supervisor._keep_backups()
    assert supervisor.backup.is_running
    supervisor.backup.kill()
    supervisor._keep_backups()
    row = BackupSchedule.objects.current()
    assert (row.failure, row.holder) == ("its process ended with code -9", "")
    BackupSchedule.objects.update(failed_at=database_now() - HOUR)
    supervisor._keep_backups()
    assert BackupSchedule.objects.current().holder == supervisor.cluster
    supervisor.backup.kill()


def _start_sleeper(child: Child) -> None:
    child.process = subprocess.Popen(["sleep", "60"], start_new_session=True)


@pytest.mark.long
def test_up_writes_the_backup_that_is_due(start_installation: Callable[..., Any], tmp_path: Path) -> None:
    path = f"{postgres_programs()}{os.pathsep}{os.environ['PATH']}"
    installation = start_installation("--no-web", start=False, PATH=path)
    folder = tmp_path / "backups"
    code = (
        "from integrations.operators import backup_schedule; "
        f"backup_schedule.change({{'every_hours': 1, 'folder': {str(folder)!r}}}, actor='tests')"
    )
    installation.manage("shell", "-c", code)
    with installation:
        until(lambda: bool(list(folder.glob("switchboard-*/manifest.json"))), 30, lambda: installation.log[-2000:])
    assert installation.manage("restore", str(next(folder.glob("switchboard-*"))), "--check").returncode == 0
