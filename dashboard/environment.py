"""Typed readers for the SWITCHBOARD_ environment variables, and the keys of this installation."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import sys
from base64 import urlsafe_b64encode
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

# https://sqlite.org/wal.html#walresetbug: two writing connections could corrupt a WAL database before this version.
SQLITE_WITHOUT_WAL_RESET_BUG = (3, 51, 3)


def text(name: str, default: str = "") -> str:
    return os.environ.get(f"SWITCHBOARD_{name}", default).strip()


def flag(name: str, default: bool = False) -> bool:
    value = text(name)
    return default if not value else value.lower() in ("1", "true", "yes", "on")


def choice(name: str, *choices: str) -> str:
    """One of these words, by default the first. Raises ImproperlyConfigured for any other value."""
    value = text(name) or choices[0]
    if value not in choices:
        raise ImproperlyConfigured(f"SWITCHBOARD_{name} must be {' or '.join(choices)}, not “{value}”.")
    return value


def number(name: str, default: float) -> float:
    """A number from 0 to below 1,000,000. Raises ImproperlyConfigured for any other value."""
    value = text(name)
    try:
        read = float(value) if value else default
    except ValueError:
        read = -1
    if not 0 <= read < 1_000_000:
        raise ImproperlyConfigured(f"SWITCHBOARD_{name} must be a number such as {default:g}, not “{value}”.")
    return read


def database_url() -> str:
    """The database URL; empty for the embedded SQLite. Raises ImproperlyConfigured for an unsupported database."""
    url = text("DATABASE_URL")
    if url and not url.startswith(("sqlite:///", "postgres://", "postgresql://")):
        raise ImproperlyConfigured(
            "SWITCHBOARD_DATABASE_URL must begin with sqlite:///, postgres:// or postgresql://. Omit it to use SQLite "
            "in the data folder."
        )
    return url


def direct_url(pooled: str) -> str:
    """The URL that reaches the database of ``pooled`` past a pooler; empty if none is given."""
    url = text("DATABASE_DIRECT_URL")
    if url and not (url.startswith(("postgres://", "postgresql://")) and pooled.startswith("postgres")):
        raise ImproperlyConfigured(
            "SWITCHBOARD_DATABASE_DIRECT_URL must begin with postgres:// or postgresql://, like "
            "SWITCHBOARD_DATABASE_URL: it reaches the same database without the pooler."
        )
    return url


def listed(name: str, default: str = "") -> list[str]:
    return [part.strip() for part in text(name, default).split(",") if part.strip()]


@dataclass(frozen=True)
class InstallationKeys:
    """The signing key of sessions and links, and the keys that encrypt secrets at rest (newest first)."""

    secret_key: str
    encryption_keys: list[str]
    are_stored: bool  # False if neither the environment nor the data folder has them


def sqlite_path(url: str, data: Path) -> Path:
    """The file of the embedded database."""
    return Path(url.partition("sqlite://")[2].removeprefix("/") or data / "switchboard.sqlite3")


def installation_keys(data: Path, database: Path | None) -> InstallationKeys:
    """The keys from the environment, else from the data folder, where they are created on first use (mode 0600).

    ``database`` is the file of the embedded database, None for PostgreSQL. If it exists without its keys, none are
    created, since new ones read no stored secret: a system check reports them as missing. Only an installation with
    the embedded database creates its own keys. Machines that share one database must share the keys too, so there the
    environment must set them (a system check reports missing ones).
    """
    given = InstallationKeys(text("SECRET_KEY"), listed("ENCRYPTION_KEYS"), are_stored=True)
    if given.secret_key and given.encryption_keys:
        return given
    stored = _stored_keys(data / "keys.json", database) if database else _fresh_keys()
    return InstallationKeys(
        given.secret_key or stored.secret_key,
        given.encryption_keys or stored.encryption_keys,
        are_stored=stored.are_stored,
    )


def _stored_keys(path: Path, database: Path) -> InstallationKeys:
    if not path.exists():
        if database.exists() and database.stat().st_size:
            return _fresh_keys()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _store(path, _fresh_keys())
    stored = json.loads(path.read_text())
    return InstallationKeys(stored["secret_key"], stored["encryption_keys"], are_stored=True)


def _store(path: Path, keys: InstallationKeys) -> None:
    # Written under another name and then linked, so that two processes that start first at once agree on one file.
    draft = path.with_name(f".keys-{os.getpid()}.json")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"secret_key": keys.secret_key, "encryption_keys": keys.encryption_keys}, file)
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def _fresh_keys() -> InstallationKeys:
    return InstallationKeys(
        secrets.token_urlsafe(60), [urlsafe_b64encode(secrets.token_bytes(32)).decode()], are_stored=False
    )


def use_safe_sqlite() -> None:
    """Replace the system's SQLite by that of the pysqlite3 wheel if the system's has the WAL-reset bug."""
    if sqlite3.sqlite_version_info >= SQLITE_WITHOUT_WAL_RESET_BUG:
        return
    try:
        import pysqlite3
    except ImportError:
        return  # `manage.py doctor` reports it
    if pysqlite3.sqlite_version_info > sqlite3.sqlite_version_info:
        sys.modules["sqlite3"] = pysqlite3
        sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
