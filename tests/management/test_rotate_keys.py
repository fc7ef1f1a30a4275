"""Keys are rotated online: afterwards the newest key alone reads every secret."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command

from integrations.management.commands.doctor import check_results
from integrations.models import AuditEntry, Service
from integrations.registration import key_rotation

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture
def services(transactional_db: None, settings: Any) -> list[Service]:
    settings.ENCRYPTION_KEYS = [OLD]
    made = [Service(name=f"service-{number}", base_url="https://a.example.com") for number in range(5)]
    for service in made:
        service.keep_secret("auth.token", f"canary-{service.name}")
        service.save()
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    return made


def rotate() -> str:
    said = StringIO()
    call_command("rotate-keys", stdout=said, stderr=StringIO())
    return said.getvalue()


def secrets() -> list[str | None]:
    return [service.secret("auth.token") for service in Service.objects.order_by("name")]


def test_after_a_rotation_the_old_key_can_be_removed(services: list[Service], settings: Any) -> None:
    changed_at = Service.objects.values_list("updated_at", flat=True)
    before = list(changed_at)
    assert "warn: 5 rows of secrets need an old key; run manage.py rotate-keys" in map(str, check_results())
    assert rotate().startswith("5 rows re-encrypted")
    assert "ok: the newest key reads every secret; the old keys can be removed" in map(str, check_results())
    assert list(changed_at) == before
    settings.ENCRYPTION_KEYS = [NEW]
    assert secrets() == [f"canary-{service.name}" for service in services]
    assert "canary" not in str(AuditEntry.objects.get(action="keys.rotated").after)


def test_an_interrupted_rotation_goes_on_where_it_stopped(
    services: list[Service], settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_rotation, "BATCH", 2)
    steps: Any = key_rotation.rotate()
    assert [next(steps).checked for _ in range(2)] == [0, 2]
    steps.close()  # killed here
    assert key_rotation.outdated() == 3
    assert rotate().startswith("3 rows re-encrypted")
    assert rotate().startswith("0 rows re-encrypted")
    settings.ENCRYPTION_KEYS = [NEW]
    assert all(secrets())


@pytest.mark.parametrize("saved_with", [[NEW, OLD], [OLD]])
def test_a_secret_that_is_saved_during_the_rotation_is_not_undone(
    services: list[Service], settings: Any, monkeypatch: pytest.MonkeyPatch, saved_with: list[str]
) -> None:
    rows_after: Callable[..., Any] = key_rotation._rows_after
    is_saved = False

    def rows_then_save(*arguments: Any) -> Any:
        nonlocal is_saved
        rows = rows_after(*arguments)
        if not is_saved:
            is_saved = True
            settings.ENCRYPTION_KEYS = saved_with
            services[0].keep_secret("auth.token", "entered")
            services[0].save()
            settings.ENCRYPTION_KEYS = [NEW, OLD]
        return rows

    monkeypatch.setattr(key_rotation, "_rows_after", rows_then_save)
    rotate()
    settings.ENCRYPTION_KEYS = [NEW]
    assert secrets()[0] == "entered"


def test_a_secret_that_no_key_reads_is_named_and_the_others_are_rotated(services: list[Service], settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    Service.objects.filter(pk=services[1].pk).update(secrets={"auth.token": {"value": "lost", "set_at": ""}})
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    with pytest.raises(CommandError, match=rf"service {services[1].pk}\b.*keep the old keys"):
        rotate()
    assert key_rotation.outdated() == 1
