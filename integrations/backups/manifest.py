"""The manifest of a backup: its version, its contents, and the checksum of each of its files."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from integrations.backups.errors import BackupError

NAME = "manifest.json"


class File(BaseModel):
    """A file of a backup."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """The contents of a backup. A later version may add fields, which this one then ignores."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    version: str  # of the Switchboard that made it
    taken_at: datetime  # the moment whose state it holds
    database: Literal["sqlite", "postgresql"]
    migrations: dict[str, str]  # the last one of each app
    counts: dict[str, int]
    key_check: str  # a text that only the encryption keys of its database read; empty: unknown
    has_keys: bool
    files: dict[str, File]

    @property
    def size(self) -> int:
        return sum(file.bytes for file in self.files.values())


def write(folder: Path, manifest: Manifest) -> None:
    path = folder / NAME
    path.write_text(manifest.model_dump_json(indent=2) + "\n")
    sync(path)


def read(folder: Path) -> Manifest:
    """Read the manifest of a backup. Raises BackupError."""
    try:
        return Manifest.model_validate_json((folder / NAME).read_bytes())
    except FileNotFoundError:
        raise BackupError(f"{folder} is no complete backup: it has no {NAME}.") from None
    except OSError as error:
        raise BackupError(f"{folder / NAME} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors()[0]["loc"]) or "JSON"
        raise BackupError(f"{folder / NAME} is damaged, or of a newer version: {wrong}.") from None


def verify(folder: Path, manifest: Manifest) -> None:
    """Compare each file with its checksum. Raises BackupError."""
    for name, expected in manifest.files.items():
        try:
            found = describe(folder / name)
        except OSError as error:
            raise BackupError(f"{folder / name} cannot be read: {error.strerror}.") from None
        if found != expected:
            raise BackupError(f"{folder / name} is damaged: it is not the file whose checksum the manifest has.")


def describe(path: Path) -> File:
    with path.open("rb") as file:
        return File(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder, before anything relies on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
