"""A released migration cannot be edited or removed unnoticed, and a new one that does not only add is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from django.db import migrations as of_django
from django.db import models
from django.db.migrations import Migration
from django.db.migrations.operations.base import Operation

from scripts import check_migrations


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    return Path(shutil.copytree(check_migrations.MIGRATIONS, tmp_path / "migrations"))


def test_the_released_migrations_are_as_they_were() -> None:
    assert check_migrations.changed(check_migrations.MIGRATIONS) == []


def test_an_edited_migration_is_named(
    migrations: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = migrations / "0001_initial.py"
    path.write_text(path.read_text() + "\n")
    monkeypatch.setattr(check_migrations, "MIGRATIONS", migrations)

    assert check_migrations.main() == 1

    said = capsys.readouterr().out
    assert "0001_initial.py is released" in said
    assert "0002" in said


def test_a_removed_migration_is_named(migrations: Path) -> None:
    (migrations / "0001_initial.py").unlink()
    assert check_migrations.changed(migrations) == ["0001_initial.py"]


INDEX = models.Index(fields=["at"], name="by_time")
ADD_COLUMN = "ALTER TABLE integrations_tally ADD COLUMN lost integer"


@pytest.mark.parametrize(
    "operations",
    [
        [of_django.CreateModel("Thing", [("at", models.DateTimeField())]), of_django.AddIndex("Thing", INDEX)],
        [of_django.AddField("message", "at", models.DateTimeField(null=True))],
        [of_django.RunSQL(f"{ADD_COLUMN} NOT NULL DEFAULT 0")],
        [of_django.RunSQL(ADD_COLUMN)],
        [of_django.RunSQL("CREATE INDEX CONCURRENTLY by_time ON integrations_message (at)")],
    ],
)
def test_a_migration_that_only_adds_passes(operations: list[Operation]) -> None:
    assert _problems(operations) == []


@pytest.mark.parametrize(
    "operation",
    [
        of_django.AddField("message", "at", models.DateTimeField(default=None)),
        of_django.AddField("message", "at", models.DateTimeField(null=True, unique=True)),
        of_django.AddIndex("message", INDEX),
        of_django.RemoveField("message", "tags"),
        of_django.RenameField("message", "tags", "labels"),
        of_django.AlterField("message", "path", models.TextField()),
        of_django.RunSQL(f"{ADD_COLUMN} NOT NULL"),
        of_django.RunSQL("UPDATE integrations_message SET priority = 0"),
        of_django.RunSQL(f"{ADD_COLUMN}; DROP TABLE integrations_tally"),
        of_django.RunPython(lambda *_: None),
    ],
)
def test_a_migration_that_changes_what_is_there_is_named(operation: Operation) -> None:
    assert len(_problems([operation])) == 1


def test_the_new_migrations_only_add() -> None:
    assert check_migrations.main() == 0


def _problems(operations: list[Operation]) -> list[str]:
    made = type("Next", (Migration,), {"operations": operations})
    return check_migrations.not_additive(made("0099_next", "integrations"))
