"""Stored answers: a request or form that is repeated with its key gets the first answer and is not done again.

integrations/idempotency.py decides when to store and when to repeat an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import ClassVar

from django.db import connection, models
from django.utils import timezone

from integrations.models import sql

KEPT_FOR = timedelta(hours=24)
PRUNE_BATCH = 500  # rows deleted at once, so that no writer waits long for the lock


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request with the key that makes it repeatable; a key belongs to its owner."""

    owner: str
    key: str
    path: str
    body_digest: str

    @property
    def lock(self) -> int:
        """The number of its advisory lock: 64 bits of a hash. Two keys with one number only wait for each other."""
        digest = blake2b(f"{self.owner}\0{self.key}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, signed=True)


STORED = "SELECT * FROM integrations_idempotentanswer WHERE (owner, key) IN (VALUES {places})"
LOCK = "SELECT pg_advisory_xact_lock(number) FROM unnest(%s::bigint[]) AS locks(number)"


class IdempotentAnswerQuerySet(models.QuerySet["IdempotentAnswer"]):
    def lock(self, requests: Sequence[KeyedRequest]) -> None:
        """Make other transactions that lock one of these keys wait until this one has ended.

        The locks are taken in one order everywhere, so that two groups of requests cannot lock each other out. A row
        without an answer, inserted first and updated last, did the same for 20 µs of CPU more a request. On SQLite the
        transaction itself, begun IMMEDIATE, is the lock.
        """
        if requests and connection.vendor == "postgresql":
            with sql.prepared() as cursor:
                cursor.execute(LOCK, [sorted({request.lock for request in requests})])

    def stored_for(self, requests: Sequence[KeyedRequest]) -> list[IdempotentAnswer]:
        """The rows with the keys of these requests. By hand: the ORM takes longer to build the statement than the
        database to run it, and each group of requests runs it."""
        if not requests:
            return []
        statement = STORED.format(places=", ".join(["(%s, %s)"] * len(requests)))
        return list(self.raw(statement, [word for request in requests for word in (request.owner, request.key)]))

    def store(self, answers: Sequence[tuple[KeyedRequest, int, str, bytes]]) -> None:
        """Store answers as status, location and content, in one statement."""
        now = timezone.now()
        rows = [
            {
                "owner": request.owner,
                "key": request.key,
                "path": request.path,
                "body_digest": request.body_digest,
                "status": status,
                "location": location[:500],
                "content": content,
                "created_at": now,
            }
            for request, status, location, content in answers
        ]
        sql.append(IdempotentAnswer, rows)

    def prune(self, now: datetime) -> None:
        """Delete a batch of expired answers."""
        old = self.filter(created_at__lt=now - KEPT_FOR).values_list("pk", flat=True)[:PRUNE_BATCH]
        self.filter(pk__in=list(old)).delete()


class IdempotentAnswer(models.Model):
    """The first successful answer to a key, byte for byte. A row without a status is the lock of a running request."""

    owner = models.CharField(max_length=40)  # "token 7" for the API, "person 3" for a form of the console
    key = models.CharField(max_length=255)
    path = models.CharField(max_length=500)
    body_digest = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(null=True)
    location = models.CharField(max_length=500, blank=True)
    content = models.BinaryField(default=bytes)
    created_at = models.DateTimeField(default=timezone.now)

    objects: ClassVar[IdempotentAnswerQuerySet] = IdempotentAnswerQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = (models.UniqueConstraint(fields=["owner", "key"], name="idempotency_key_of_owner"),)
        indexes = (models.Index(fields=["created_at"], name="idempotency_by_age"),)

    def __str__(self) -> str:
        return self.key

    @property
    def has_expired(self) -> bool:
        return self.created_at <= timezone.now() - KEPT_FOR
