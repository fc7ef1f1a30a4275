"""The error of this package."""

from __future__ import annotations


class BackupError(Exception):
    """A backup, a restore or an upgrade cannot go on. The text says why, and what to do."""
