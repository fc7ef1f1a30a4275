"""A released migration cannot be edited or removed unnoticed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

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
