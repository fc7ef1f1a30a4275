"""The schedule of backups, as admins set it. integrations/backups/schedule.py runs it."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from integrations.models import AuditEntry, BackupSchedule, database_now


def change(given: dict[str, Any], *, actor: str) -> BackupSchedule:
    """Change the settings that are given, by field."""
    with transaction.atomic():
        schedule = BackupSchedule.objects.locked()
        before = schedule.settings
        for name, value in given.items():
            setattr(schedule, name, value)
        if schedule.settings != before:
            schedule.changed_at = database_now()
            schedule.save(update_fields=[*before, "changed_at"])
            AuditEntry.objects.record(actor, "backups.changed", "backups", before=before, after=schedule.settings)
    return schedule
