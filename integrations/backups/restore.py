"""Restore a backup: everything is checked before anything is replaced."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, Error, connection
from django.utils import timezone

from integrations import __version__
from integrations.backups import contents, keys_file, manifest, postgres, sqlite
from integrations.backups.errors import BackupError
from integrations.backups.hold import hold_unfinished
from integrations.backups.keys_file import Keys
from integrations.backups.manifest import Manifest
from integrations.models import WebServer, Worker, database_now, schema
from integrations.models.fields import is_readable
from integrations.models.web_server import ANNOUNCE_EVERY, ANNOUNCED_FOR

DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore."""

    manifest: Manifest
    held: int  # messages
    kept: Path | None = None  # the file of the database that was there before
    keys: Path | None = None  # where the keys of the backup were written


def check(source: Path) -> Manifest:
    """Read a backup as a restore would, and change nothing. Raises BackupError."""
    found = manifest.read(source)
    manifest.verify(source, found)
    if unknown := contents.unknown(found.migrations):
        raise BackupError(
            f"This backup was made by Switchboard {found.version}, whose migration {unknown[0]} this version, "
            f"{__version__}, does not know. Install {found.version} or newer."
        )
    if found.database != connection.vendor:
        raise BackupError(
            f"This is a backup of {DATABASES[found.database]}, and this installation uses "
            f"{DATABASES[connection.vendor]}: set SWITCHBOARD_DATABASE_URL to a {DATABASES[found.database]} database."
        )
    return found


def restore(source: Path, *, passphrase: str | None = None, replace: bool = False) -> Restored:
    """Put a backup in the place of the database, with every unfinished message held. Raises BackupError.

    ``passphrase`` takes the keys from the backup as well. A database with data is replaced only with ``replace``.
    """
    found = check(source)
    keys = _keys(source, found, passphrase)
    held, kept = 0, None

    def prepare() -> None:
        nonlocal held
        held = _prepare(found)

    try:
        has_data = _has_data()
        if has_data and not replace:
            raise BackupError(
                "The database has data. Give --replace to put the backup in its place, or name an empty database."
            )
        if connection.vendor == "sqlite":
            kept = sqlite.restore_from(source, prepare, timezone.now() if has_data else None)
        else:
            postgres.restore_from(source, prepare)
    except OSError as error:
        raise BackupError(f"The restore failed: {error.strerror or error}.") from error
    except Error as error:
        raise BackupError(f"The restore failed: {' '.join(str(error).split())}.") from error
    return Restored(found, held, kept, _store(keys) if keys else None)


def _has_data() -> bool:
    """Whether the present database holds anything. Raises BackupError while a process uses it."""
    if connection.vendor != "sqlite":
        _refuse_if_running()
        return contents.has_data()
    if not sqlite.is_there():
        return False
    try:
        _refuse_if_running()
        has_data = contents.has_data()
    except DatabaseError:
        has_data = True  # damaged: its owner may still want it
    sqlite.refuse_if_in_use()
    return has_data


def _prepare(found: Manifest) -> int:
    """Compare the restored rows with the manifest, bring the tables to this version, and hold the messages."""
    if (counts := contents.counts()) != found.counts:
        different = next(name for name, count in found.counts.items() if counts.get(name) != count)
        raise BackupError(f"The restored database has {counts.get(different)} {different}, not as its manifest says.")
    call_command("migrate", verbosity=0, interactive=False)
    held = hold_unfinished(found.taken_at, found.version)
    schema.end_restore()
    return held


def _refuse_if_running() -> None:
    tables, now = schema.own_tables(), database_now()
    running = []
    if Worker._meta.db_table in tables and (workers := Worker.objects.alive(now).count()):
        running.append(f"{workers} worker{'s' if workers > 1 else ''}")
    # A web server that was killed leaves its row; one that lives has renewed it lately.
    lately = now + ANNOUNCED_FOR - timedelta(seconds=2 * ANNOUNCE_EVERY)
    if WebServer._meta.db_table in tables and (servers := WebServer.objects.announced(lately).count()):
        running.append(f"{servers} web server{'s' if servers > 1 else ''}")
    if running:
        raise BackupError(
            f"Switchboard runs on this database ({' and '.join(running)}). Stop it on every machine, then try again; "
            "after a crash wait a minute."
        )


# ---- keys -----------------------------------------------------------------------------------------------------------
def _keys(source: Path, found: Manifest, passphrase: str | None) -> Keys | None:
    """The keys of the backup, if they are asked for. Raises BackupError unless they, or those of this installation,
    read its secrets."""
    if passphrase is None:
        keys, theirs = None, list(settings.ENCRYPTION_KEYS)
    elif not found.has_keys:
        raise BackupError("This backup has no keys. Restore it without --keys.")
    else:
        keys = keys_file.decrypt((source / keys_file.NAME).read_bytes(), passphrase)
        theirs = keys.encryption_keys
    if found.key_check and not is_readable(found.key_check, theirs):
        how = (
            "Give --keys and the passphrase" if found.has_keys else f"Put its keys.json into {settings.DATA_DIR} first"
        )
        raise BackupError(
            f"The keys of this installation do not read the secrets of this backup. {how}, or set them in "
            "SWITCHBOARD_SECRET_KEY and SWITCHBOARD_ENCRYPTION_KEYS."
        )
    return keys


def _store(keys: Keys) -> Path | None:
    """Write the keys where this installation reads them, and keep other ones that were there. If the environment has
    the keys, write them to another file, from which an admin takes them. Returns where, or None if they are in use."""
    if (keys.secret_key, keys.encryption_keys) == (settings.SECRET_KEY, list(settings.ENCRYPTION_KEYS)):
        return None
    path = settings.DATA_DIR / ("keys-of-backup.json" if _are_in_environment() else "keys.json")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        os.replace(path, path.with_name(f"{path.name}.before-restore-{timezone.now():%Y%m%dT%H%M%S}"))
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(keys.as_json())
    return path


def _are_in_environment() -> bool:
    return not settings.EMBEDDED or bool(os.environ.get("SWITCHBOARD_SECRET_KEY"))
