"""Databases of released versions: each comes to this version with every row, and goes on being delivered."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.conf import global_settings
from django.core.management import CommandError, call_command
from django.db import connection

from integrations.backups import upgrade
from integrations.backups.manifest import read
from integrations.backups.restore import restore
from integrations.delivery.waiting import waiting_for
from integrations.management.commands.up import Command
from integrations.models import (
    Account,
    Installation,
    Message,
    Operation,
    Runtime,
    Service,
    Status,
    database_now,
    schema,
)
from tests.support import releases
from tests.support.backends import Servers
from tests.support.searching import found_by

VERSIONS = sorted(releases.COMMITS)


@pytest.fixture(params=VERSIONS)
def old(request: Any, new_database: Callable[[], None], servers: Servers, database: str, settings: Any) -> str:
    """The database of a release in this process, not migrated."""
    settings.PASSWORD_HASHERS = global_settings.PASSWORD_HASHERS
    settings.SECRET_KEY = releases.KEYS["SWITCHBOARD_SECRET_KEY"]
    settings.ENCRYPTION_KEYS = [releases.KEYS["SWITCHBOARD_ENCRYPTION_KEYS"]]
    connection.close()
    if database == "sqlite":
        path = settings.DATA_DIR / f"{request.param}.sqlite3"
        releases.sqlite_file(request.param, path)
        connection.settings_dict["NAME"] = str(path)
    else:
        url = servers.new_postgres_database()
        releases.fill_postgres(request.param, url)
        connection.settings_dict["NAME"] = url.rpartition("/")[2]
    version: str = request.param
    return version


def by_name(version: str) -> dict[str, Message]:
    told = releases.expected(version)["messages"]
    return {name: Message.objects.get(pk=pk) for name, (pk, _) in told.items()}


def test_a_released_database_is_upgraded_with_every_row_and_delivers(old: str, deliver: Callable[..., None]) -> None:
    up = Command(stdout=io.StringIO())
    up._prepare_database(may_migrate=True)
    up._check_schema()
    up._check_keys()
    assert [difference.text for difference in schema.differences()] == []
    told = releases.expected(old)
    messages = by_name(old)
    assert {name: message.status for name, message in messages.items()} == {
        name: status for name, (_, status) in told["messages"].items()
    }
    assert set(Counter(message.status for message in messages.values())) == set(Status.values)
    assert Service.objects.get(name="good").secrets["auth.token"]["value"] == "of-the-fixture"
    assert Account.objects.get().check_password("correct horse battery")
    assert Runtime.objects.get(service__name="down").state == "open"
    assert Service.objects.get(name="paused").paused_reason == "the partner moves"
    assert Operation.objects.get().total == 2
    replay = messages["replay"]
    assert (replay.replay_of_id, replay.lineage_id) == (messages["dead"].pk, messages["dead"].pk)
    now = database_now()
    kinds = {name: getattr(waiting_for(message, now), "kind", None) for name, message in messages.items()}
    assert (kinds["held"], kinds["paused"], kinds["parked"], kinds["scheduled"]) == (
        "held",
        "paused",
        "ordering",
        "schedule",
    )
    assert found_by("body.order:delivered") == {messages["delivered"].pk}

    # The claim of the worker that was killed is taken back, and due messages are sent.
    called: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        called.append(request.headers["webhook-id"])
        return httpx.Response(200)

    Message.objects.filter(retry_at__isnull=False).update(due_at=now)

    def are_delivered(*names: str) -> Callable[[], bool]:
        return lambda: all(by_name(old)[name].status == Status.DELIVERED for name in names)

    deliver(answer, until=are_delivered("retrying", "ordered", "parked"), within=30)
    deliver(answer, until=are_delivered("delivering"), within=30, alone=True)
    never = ("delivered", "cancelled", "dead", "replay", "scheduled", "held", "paused")
    assert not set(called) & {messages[name].wire_id for name in never}
    assert Installation.objects.has_right_keys()


def test_up_backs_up_the_embedded_database_before_it_migrates(old: str, settings: Any) -> None:
    if connection.vendor != "sqlite":
        return
    for number in range(upgrade.KEPT + 1):
        (settings.DATA_DIR / "backups-before-upgrades" / f"switchboard-2020010{number + 1}T000000Z").mkdir(parents=True)
    out = io.StringIO()
    Command(stdout=out)._prepare_database(may_migrate=False)
    assert "before the migration" in out.getvalue()
    kept = sorted((settings.DATA_DIR / "backups-before-upgrades").iterdir())
    assert len(kept) == upgrade.KEPT
    manifest = read(kept[-1])
    assert manifest.migrations["integrations"].startswith("0001")
    assert upgrade.missing_migrations()[0] == []
    out = io.StringIO()
    Command(stdout=out)._prepare_database(may_migrate=False)
    assert out.getvalue() == "", "there is nothing to migrate"


def test_a_backup_that_fails_prevents_the_migration(old: str, settings: Any) -> None:
    if connection.vendor != "sqlite":
        return
    (settings.DATA_DIR / "backups-before-upgrades").write_text("in the way")
    with pytest.raises(CommandError, match="Nothing was migrated, since the backup before it failed"):
        Command()._prepare_database(may_migrate=False)
    assert "0002_installation" in upgrade.missing_migrations()[0]


def test_up_migrates_postgresql_only_if_told(old: str) -> None:
    if connection.vendor != "postgresql":
        return
    with pytest.raises(
        CommandError, match=r"it needs \d+ migrations \(0002_installation, .*start once with --migrate"
    ) as no:
        Command()._prepare_database(may_migrate=False)
    assert "\n" not in str(no.value)
    Command()._prepare_database(may_migrate=True)
    Command()._prepare_database(may_migrate=False)


def test_rows_are_checked_once_after_the_migrations(old: str) -> None:
    """Django does it in each of them, with SQLite's write lock."""
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.execute("DELETE FROM integrations_service WHERE name = 'good'")
    with pytest.raises(CommandError, match=r"a row is broken, and was so before: .*integrations_service"):
        Command(stdout=io.StringIO())._prepare_database(may_migrate=False)
    assert upgrade.missing_migrations()[0] == []


@pytest.mark.servers_only
def test_a_migration_that_waits_for_a_lock_lets_writers_go_on(old: str) -> None:
    """A dump holds each table. The migration waited for it, and every delivery behind the migration."""
    info = connection.get_connection_params()
    address = {name: info[name] for name in ("host", "user", "dbname")}
    with psycopg.connect(**address) as reader, psycopg.connect(**address, autocommit=True) as writer:
        reader.execute("LOCK TABLE integrations_message IN ACCESS SHARE MODE")
        waits: list[float] = []

        def write() -> None:
            for _ in range(20):
                began = time.monotonic()
                writer.execute("UPDATE integrations_message SET priority = priority WHERE id = 1")
                waits.append(time.monotonic() - began)
                time.sleep(0.1)
            reader.rollback()

        thread = threading.Thread(target=write)
        thread.start()
        Command()._prepare_database(may_migrate=True)
        thread.join()
    assert 0.2 < max(waits) < 1.0
    assert upgrade.missing_migrations()[0] == []


def test_a_backup_of_a_released_version_is_restored_into_this_one(
    old: str, new_database: Callable[[], None], tmp_path: Path
) -> None:
    from integrations.backups.take import take

    backup = take(tmp_path / "backup")
    assert backup.manifest.migrations["integrations"].startswith("0001")
    new_database()
    unfinished = sum(status in ("pending", "delivering") for _, status in releases.expected(old)["messages"].values())
    held_before = 1
    assert restore(backup.folder).held == unfinished - held_before
    assert [difference.text for difference in schema.differences()] == []
    call_command("migrate", check_unapplied=True, verbosity=0)
