"""Answers kept for `Idempotency-Key`, so that a repeated request is answered again and not done again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.utils import timezone

KEPT_FOR = timedelta(hours=24)
PRUNE_BATCH = 500  # rows removed at once, so that nobody waits long for the lock


class IdempotentAnswerManager(models.Manager["IdempotentAnswer"]):
    def prune(self, now: datetime) -> None:
        """Removes answers that have served their time."""
        old = self.filter(created_at__lt=now - KEPT_FOR).values_list("pk", flat=True)[:PRUNE_BATCH]
        self.filter(pk__in=list(old)).delete()


class IdempotentAnswer(models.Model):
    """The first 2xx answer to a key, byte for byte. A row without a status is the lock of the one that runs."""

    owner = models.CharField(max_length=40)  # "token 7" for the API, "person 3" for a form of the console
    key = models.CharField(max_length=255)
    path = models.CharField(max_length=500)
    body_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    location = models.CharField(max_length=500, blank=True)
    content = models.BinaryField(default=bytes)
    created_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[IdempotentAnswerManager] = IdempotentAnswerManager()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["owner", "key"], name="idempotency_key_of_owner"),)
        indexes = (models.Index(fields=["created_at"], name="idempotency_by_age"),)

    def __str__(self) -> str:
        return self.key
