"""After a restore: nothing goes out by itself that may have gone out since the backup was taken."""

from __future__ import annotations

from datetime import datetime

from django.contrib.sessions.models import Session
from django.db import transaction
from django.db.models import Q

from integrations.models import AuditEntry, BackupSchedule, Message, Operation, WebServer, Worker, database_now
from integrations.operators import bulk_operations
from integrations.workers import housekeeping

ACTOR = "command line"
LOST = "the call was in flight when the backup was taken; its result is not known"


def hold_unfinished(taken_at: datetime, version: str) -> int:
    """Hold every unfinished message until an operator retries or cancels it. Returns how many.

    The calls that were in flight are recorded as lost, running operations are paused, and everyone signs in again: a
    session or its account may have been ended since.
    """
    with transaction.atomic():
        claims = Message.objects.delivering().values("worker_id")
        for pk in Worker.objects.filter(Q(stopped_at=None) | Q(pk__in=claims)).values_list("pk", flat=True):
            housekeeping.stop_worker(pk, LOST)
        held = Message.objects.pending().filter(held=False).hold()
        for operation in Operation.objects.active():
            bulk_operations.pause(operation, by=ACTOR)
        WebServer.objects.all().delete()
        Session.objects.all().delete()
        BackupSchedule.objects.note_restore(taken_at, database_now())
        facts = {"taken_at": taken_at.isoformat(), "version": version, "held": held}
        AuditEntry.objects.record(ACTOR, "backup.restored", "database", after=facts)
    return held
