"""`manage.py rotate-keys`: re-encrypt stored secrets with the newest key."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from integrations.models import AuditEntry
from integrations.registration import key_rotation


class Command(BaseCommand):
    help = (
        "Re-encrypt stored secrets with the first of SWITCHBOARD_ENCRYPTION_KEYS, while everything runs. First add the "
        "new key in front of the old one and restart every process. After an interruption, run it again."
    )

    def handle(self, *_: Any, **__: Any) -> None:
        for progress in key_rotation.rotate():
            self.stderr.write(f"{progress.checked:,} of {progress.total:,} rows checked")
        if progress.rotated:
            AuditEntry.objects.record("command line", "keys.rotated", "secrets", after={"rows": progress.rotated})
        if progress.unreadable:
            raise CommandError(
                f"No key of SWITCHBOARD_ENCRYPTION_KEYS reads the secrets of {', '.join(progress.unreadable)}. Add the "
                "key that they were written with, or enter the secrets again; keep the old keys until then."
            )
        if left := key_rotation.outdated():
            raise CommandError(
                f"{left:,} rows were saved with an old key in the meantime. Restart the processes that do not have the "
                "new key yet, then run this again."
            )
        done = f"{progress.rotated:,} rows re-encrypted; the newest key reads every stored secret."
        if len(settings.ENCRYPTION_KEYS) > 1:
            done += " Remove the old keys from SWITCHBOARD_ENCRYPTION_KEYS and restart every process."
        self.stdout.write(done)
