"""Answers kept for `Idempotency-Key`, so that a repeated request is answered again and not done again."""

from __future__ import annotations

from django.db import models
from django.utils import timezone


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

    class Meta:
        constraints = (models.UniqueConstraint(fields=["owner", "key"], name="idempotency_key_of_owner"),)
        indexes = (models.Index(fields=["created_at"], name="idempotency_by_age"),)

    def __str__(self) -> str:
        return self.key
