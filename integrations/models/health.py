"""The health of services by their regular checks, and the time of the next check."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from django.db import models

from integrations.models.clock import database_now
from integrations.models.service import Service


class HealthQuerySet(models.QuerySet["Health"]):
    def due(self, now: datetime) -> HealthQuerySet:
        """Checks that are due, without paused services: their health is of no interest."""
        return self.filter(next_at__lte=now, service__status="active")

    def schedule(self, service: Service) -> None:
        """Start or stop the checks, as the service is configured; a changed check runs at once."""
        if service.health_check.get("interval"):
            self.update_or_create(service=service, defaults={"next_at": database_now()})
        else:
            self.filter(service=service).delete()


class Health(models.Model):
    """One service's health; the row exists while the service has a check."""

    service = models.OneToOneField(Service, on_delete=models.CASCADE, primary_key=True, related_name="health")
    state = models.CharField(max_length=10, default="unknown")  # unknown, up, down
    failed_in_a_row = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField(db_index=True)
    checked_at = models.DateTimeField(null=True)
    changed_at = models.DateTimeField(null=True)  # the last change between up and down
    detail = models.CharField(max_length=500, blank=True)  # the reason for the last failed check
    attempt_id = models.BigIntegerField(null=True)  # of the last check

    objects: ClassVar[models.Manager[Health]] = HealthQuerySet.as_manager()

    def __str__(self) -> str:
        return f"{self.service_id} {self.state}"
