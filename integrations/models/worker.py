"""Workers: one row for each run of a pump lane. The row is the lease for all claims of the lane."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Count, F, Max

LEASE = timedelta(seconds=20)  # renewed every 5 s, so four renewals were missed
RENEW_EVERY = timedelta(seconds=5)
BEATS_WITHIN = timedelta(seconds=7)  # a renewal takes the write lock and may be a little late


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self, now: datetime) -> WorkerQuerySet:
        return self.filter(stopped_at=None, lease_until__gt=now)

    def pulse(self, now: datetime) -> tuple[int, bool]:
        """Return how many workers are alive, and whether none of them has beaten lately; one query."""
        found = self.alive(now).aggregate(count=Count("pk"), newest=Max("heartbeat_at"))
        return found["count"], found["newest"] is None or now - found["newest"] > BEATS_WITHIN

    def lapsed(self, now: datetime) -> WorkerQuerySet:
        """Workers whose lease has run out and whose claims are not taken back yet."""
        return self.filter(stopped_at=None, lease_until__lte=now)

    def renew(self, worker_id: int, *, now: datetime, in_flight: int, delivered: int, failed: int) -> bool:
        """Extend a lease; False means that another worker has taken the claims back.

        A lease that ran out still counts until then: a stall alone loses no claim.
        """
        return bool(
            self.filter(pk=worker_id, stopped_at=None).update(
                lease_until=now + LEASE,
                heartbeat_at=now,
                in_flight=in_flight,
                delivered=F("delivered") + delivered,
                failed=F("failed") + failed,
            )
        )


class Worker(models.Model):
    """A pump lane from its start to its end. Another worker that finds the lease run out takes the claims back."""

    cluster = models.CharField(max_length=100)
    host = models.CharField(max_length=200)
    pid = models.PositiveIntegerField()
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    lease_until = models.DateTimeField()
    stopped_at = models.DateTimeField(null=True)
    lost = models.BooleanField(default=False)
    in_flight = models.PositiveIntegerField(default=0)
    delivered = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)

    objects: ClassVar[WorkerQuerySet] = WorkerQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = (models.Index(fields=["lease_until"], name="worker_alive", condition=models.Q(stopped_at=None)),)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"
