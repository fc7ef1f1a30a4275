"""An unsafe or broken configuration is refused in one line that names the variable and what to put there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

BROKEN = [
    ({"SWITCHBOARD_ALLOW_PRIVATE": "nonsense"}, "SWITCHBOARD_ALLOW_PRIVATE", "10.0.0.0/8"),
    ({"SWITCHBOARD_METRICS_ALLOW": "everybody"}, "SWITCHBOARD_METRICS_ALLOW", "10.0.0.0/8"),
    ({"SWITCHBOARD_HTTPS": "1"}, "SWITCHBOARD_TRUSTED_PROXIES", "127.0.0.1"),
    ({"SWITCHBOARD_OWN_PORT": "https"}, "SWITCHBOARD_OWN_PORT", "443"),
    ({"SWITCHBOARD_TRUSTED_PROXIES": "*"}, "SWITCHBOARD_TRUSTED_PROXIES", "10.0.0.0/8"),
    ({"SWITCHBOARD_DATABASE_URL": "mysql://x/y"}, "SWITCHBOARD_DATABASE_URL", "postgres://"),
    ({"SWITCHBOARD_DATABASE_URL": "postgres://u@127.0.0.1:1/x"}, "SWITCHBOARD_ENCRYPTION_KEYS", "set both"),
    ({"SWITCHBOARD_ALLOWED_HOSTS": "*"}, "SWITCHBOARD_ALLOWED_HOSTS", "list the host names"),
    (
        {"SWITCHBOARD_ALLOWED_HOSTS": "*", "SWITCHBOARD_DEBUG": "1"},
        "SWITCHBOARD_ALLOWED_HOSTS",
        "list the host names",
    ),
    (
        {"SWITCHBOARD_ALLOWED_HOSTS": "localhost, console.example", "SWITCHBOARD_DEBUG": "1"},
        "SWITCHBOARD_DEBUG",
        "Unset SWITCHBOARD_DEBUG",
    ),
    ({"SWITCHBOARD_ENCRYPTION_KEYS": "short"}, "SWITCHBOARD_ENCRYPTION_KEYS", "32 bytes"),
    ({"SWITCHBOARD_SECRET_KEY": "abc"}, "SWITCHBOARD_SECRET_KEY", "32 characters"),
    ({"SWITCHBOARD_TOKEN_RATE": "many"}, "SWITCHBOARD_TOKEN_RATE", "a number"),
    ({"SWITCHBOARD_DATABASE_URL": "sqlite:////no/such/folder/x.db"}, "/no/such/folder/x.db", "cannot be opened"),
]


@pytest.mark.parametrize(("given", "name", "advice"), BROKEN, ids=[next(iter(given.values())) for given, *_ in BROKEN])
def test_up_refuses_a_broken_configuration_in_words(
    given: dict[str, str], name: str, advice: str, tmp_path: Path
) -> None:
    refused = manage(tmp_path, "up", "--port", "1", **given)
    assert refused.returncode != 0
    assert name in refused.stderr
    assert advice in refused.stderr
    assert "Traceback" not in refused.stderr


def test_keys_are_made_once_and_for_this_account_alone(tmp_path: Path) -> None:
    manage(tmp_path, "check")
    keys = tmp_path / "keys.json"
    first = keys.read_text()
    manage(tmp_path, "check")
    assert keys.read_text() == first
    assert keys.stat().st_mode & 0o777 == 0o600


def manage(data: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SWITCHBOARD_", "DJANGO_"))}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**plain, "SWITCHBOARD_DATA": str(data), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
