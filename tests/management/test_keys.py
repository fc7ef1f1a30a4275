"""Keys that are missing or wrong are said, and not replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError

from dashboard.environment import installation_keys
from integrations.checks import keys_are_set
from integrations.management.commands.doctor import check_results
from integrations.management.commands.up import Command
from integrations.models import Installation, Service
from integrations.registration import key_rotation

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


def test_a_missing_keys_file_beside_a_database_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    """After a restore without it, `up` made new keys: every service was unusable and the doctor silent."""
    monkeypatch.delenv("SWITCHBOARD_SECRET_KEY")
    monkeypatch.delenv("SWITCHBOARD_ENCRYPTION_KEYS")
    database = tmp_path / "switchboard.sqlite3"
    assert installation_keys(tmp_path, database).are_stored, "a new installation makes its keys"
    (tmp_path / "keys.json").unlink()
    database.write_bytes(b"SQLite format 3")
    keys = installation_keys(tmp_path, database)
    assert not keys.are_stored
    assert not (tmp_path / "keys.json").exists()
    settings.KEYS, settings.EMBEDDED = keys, True
    (problem, *_) = keys_are_set()
    assert "keys.json is missing, but the database exists" in problem.msg
    assert "\n" not in problem.msg


@pytest.mark.django_db
@pytest.mark.parametrize("is_noted", [True, False])
def test_keys_of_another_database_are_refused_by_up_and_said_by_the_doctor(settings: Any, is_noted: bool) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    if is_noted:
        Command()._check_keys()
    else:  # an installation from before the check
        Service.objects.create(name="billing", base_url="https://billing.example.com")
    settings.ENCRYPTION_KEYS = [NEW]
    with pytest.raises(CommandError, match="not those of this database") as refused:
        Command()._check_keys()
    assert "\n" not in str(refused.value)
    assert f"fail: {refused.value}" in map(str, check_results())


@pytest.mark.django_db(transaction=True)
def test_a_rotation_takes_the_check_value_with_it(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    Installation.objects.note_keys()
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    list(key_rotation.rotate())
    settings.ENCRYPTION_KEYS = [NEW]
    assert Installation.objects.has_right_keys()
