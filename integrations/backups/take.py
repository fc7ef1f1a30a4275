"""Take a backup: into a folder with another name, which gets its own when everything is in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from django.conf import settings
from django.db import Error, connection

from integrations import __version__
from integrations.backups import contents, keys_file, manifest, postgres, sqlite
from integrations.backups.errors import BackupError
from integrations.backups.keys_file import Keys
from integrations.backups.manifest import Manifest
from integrations.models import Installation, database_now, schema


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was taken."""

    folder: Path
    manifest: Manifest
    seconds: float


def take(target: Path, passphrase: str | None = None) -> Backup:
    """Back up the database, and the keys if there is a passphrase to encrypt them. Everything else may go on.

    ``target`` is a folder that does not exist yet. Raises BackupError; then there is none.
    """
    began = monotonic()
    target = target.absolute()
    if target.exists():
        raise BackupError(f"{target} exists already. Name a folder that does not.")
    draft = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        draft.mkdir(mode=0o700, parents=True)
        made = _fill(draft, passphrase)
        manifest.write(draft, made)
        for file in draft.iterdir():
            file.chmod(0o600)
        manifest.sync(draft)
        os.rename(draft, target)
        manifest.sync(target.parent)
    except OSError as error:
        raise BackupError(f"{target} cannot be written: {error.strerror or error}.") from error
    except (Error, sqlite3.Error) as error:
        raise BackupError(f"The database cannot be read: {' '.join(str(error).split())}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Backup(target, made, monotonic() - began)


def _fill(folder: Path, passphrase: str | None) -> Manifest:
    database = sqlite if connection.vendor == "sqlite" else postgres
    names = [database.NAME]
    if passphrase is not None:  # first, since a short one is refused
        path = folder / keys_file.NAME
        path.write_bytes(keys_file.encrypt(Keys(settings.SECRET_KEY, settings.ENCRYPTION_KEYS), passphrase))
        manifest.sync(path)
        names.append(path.name)
    taken_at = database_now()
    counts = database.copy_to(folder)
    return Manifest(
        version=__version__,
        taken_at=taken_at,
        database="sqlite" if database is sqlite else "postgresql",
        migrations=contents.migrations(),
        counts=counts,
        key_check=_key_check(),
        has_keys=passphrase is not None,
        files={name: manifest.describe(folder / name) for name in names},
    )


def _key_check() -> str:
    return Installation.objects.stored_check() if Installation._meta.db_table in schema.own_tables() else ""
