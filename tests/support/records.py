"""Rows that tests of several packages make."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from integrations.models import Operation, Worker, database_now, worker
from integrations.operators import bulk_operations


def in_seconds(seconds: float) -> datetime:
    """A moment by the database's clock; a negative number lies in the past."""
    return database_now() + timedelta(seconds=seconds)


def a_worker() -> Worker:
    """A worker that has just renewed its lease."""
    now = database_now()
    return Worker.objects.create(
        cluster="tests",
        host="here",
        pid=os.getpid(),
        started_at=now,
        heartbeat_at=now,
        lease_until=now + worker.LEASE,
    )


def work(operation: Operation) -> Operation:
    """Do the work of the workers until no step can follow at once."""
    while bulk_operations.step(operation.pk):
        pass
    operation.refresh_from_db()
    return operation
