"""The error of this package."""

from __future__ import annotations


class BackupError(Exception):
    """A backup or a restore cannot go on. The text says why, and what to do."""
