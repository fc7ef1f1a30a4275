from __future__ import annotations

import io
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from integrations.management.commands import up
from integrations.management.commands.doctor import check_results
from integrations.models import Account, AuditEntry, Role, Token, Worker
from tests.support.calling import Api


@pytest.mark.django_db
def test_a_token_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("token", "deploy", "--role", "operator", "--expires", "12h")
    secret = capsys.readouterr().out
    assert secret.startswith("sbt_")
    assert secret.count("\n") == 1
    token = Token.objects.get()
    assert (token.name, token.role) == ("deploy", Role.OPERATOR)
    assert token.expires_at is not None
    assert timedelta(hours=11) < token.expires_at - timezone.now() < timedelta(hours=13)
    assert Api(token, secret.strip()).get("/services").status_code == 200
    assert AuditEntry.objects.get().action == "token.created"


@pytest.mark.parametrize(("arguments", "days"), [([], 365), (["--expires", "never"], None)])
@pytest.mark.django_db
def test_a_token_expires_after_a_year_unless_never_is_asked_for(arguments: list[str], days: int | None) -> None:
    call_command("token", "deploy", "--role", "viewer", *arguments)
    expires_at = Token.objects.get().expires_at
    assert (expires_at is None) == (days is None)
    assert days is None or abs(expires_at - timezone.now() - timedelta(days=days)) < timedelta(minutes=1)


@pytest.mark.django_db
def test_a_demotion_by_the_command_ends_the_tokens_that_may_do_more(monkeypatch: pytest.MonkeyPatch) -> None:
    account = Account.objects.register("ada", "long-enough-word-1", Role.ADMIN)
    Token.objects.issue("deploy", Role.ADMIN, by=account)
    monkeypatch.setattr(sys, "stdin", io.StringIO("long-enough-word-2\n"))
    call_command("operator", "ada", "--role", "viewer", "--password-stdin", "--replace")
    assert not Token.objects.exists()


@pytest.mark.parametrize("span", ["0d", "5", "d", "-1d", "1w", "1.5h"])
@pytest.mark.django_db
def test_a_span_that_is_none_is_refused(span: str) -> None:
    with pytest.raises(CommandError):
        call_command("token", "deploy", "--role", "viewer", f"--expires={span}")


@pytest.mark.django_db
def test_an_account_is_made_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(password: str, *more: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(password))
        call_command("operator", "ada", "--role", "admin", "--password-stdin", *more)

    with pytest.raises(CommandError, match="10 characters"):
        make("short\n")
    make("correct horse battery\n")
    assert Account.objects.get().check_password("correct horse battery")
    with pytest.raises(CommandError, match="already exists"):
        make("another good one\n")
    make("another good one\n", "--replace")
    assert Account.objects.get().check_password("another good one")


@pytest.mark.django_db
def test_the_doctor_says_what_is_wrong_one_line_each(capsys: pytest.CaptureFixture[str], settings: Any) -> None:
    settings.REDIS_URL = "redis://:hunter2@127.0.0.1:1/0"
    with pytest.raises(SystemExit) as stopped:
        call_command("doctor")
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok: ", "warn: ", "fail: ")) for line in lines)
    assert any(line.startswith("fail: Redis cannot be reached") for line in lines)
    assert "hunter2" not in "\n".join(lines)
    assert "warn: no worker is running; start manage.py up" in lines
    assert "ok: all migrations are applied" in lines


@pytest.mark.django_db
def test_the_doctor_sees_workers_debug_and_open_networks(settings: Any) -> None:
    settings.DEBUG = True
    settings.ALLOW_PRIVATE = "10.0.0.0/8"
    now = timezone.now()
    Worker.objects.create(
        cluster="c", host="h", pid=1, started_at=now, heartbeat_at=now, lease_until=now + timedelta(minutes=1)
    )
    words = [str(result) for result in check_results()]
    assert "ok: 1 worker is running" in words
    assert "warn: every service may reach private networks: 10.0.0.0/8" in words
    assert any(line.startswith("warn: SWITCHBOARD_DEBUG is on") for line in words)


@pytest.mark.django_db
def test_a_database_that_others_can_read_fails(tmp_path: Path) -> None:
    from integrations.management.commands.doctor import _file_modes

    file = tmp_path / "switchboard.sqlite3"
    file.touch(0o644)
    file.chmod(0o644)
    assert next(_file_modes(file)).level == "fail"
    file.chmod(0o600)
    assert next(_file_modes(file)).level == "ok"


@pytest.mark.parametrize(
    ("https", "host", "link"),
    [(False, "0.0.0.0", "http://localhost:8000/setup/"), (True, "0.0.0.0", "https://console.example/setup/")],
)
@pytest.mark.django_db
def test_the_set_up_link_can_be_opened_from_outside_of_a_container(
    https: bool, host: str, link: str, settings: Any
) -> None:
    settings.HTTPS, settings.ALLOWED_HOSTS = https, ["console.example"]
    printed = io.StringIO()
    remind = up.Command(stdout=printed)._greeting({"host": host, "port": 8000, "no_web": False})
    assert remind is not None
    remind()
    assert link in printed.getvalue()


@pytest.mark.django_db
def test_the_set_up_link_is_printed_again_until_it_is_used() -> None:
    printed = io.StringIO()
    remind = up.Command(stdout=printed)._greeting({"host": "::1", "port": 8001, "no_web": False})
    assert remind is not None
    assert remind()
    assert remind()
    assert printed.getvalue().count("http://[::1]:8001/setup/") == 2
    Account.objects.register("ada", "correct horse battery", Role.ADMIN)
    assert not remind()
    assert printed.getvalue().count("/setup/") == 2
