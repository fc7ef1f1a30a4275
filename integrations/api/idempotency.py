"""`Idempotency-Key`: a repeated request is answered again, byte for byte, and not done again.

The answer is stored in the transaction that does the work, under a unique key. So a crash leaves both or neither,
there is no lock that could go stale, and of two at once one commits first: the database makes the other wait for it,
takes the other's work back, and the other gets the first one's answer. Only what succeeded is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from integrations.api.gate import caller
from integrations.api.problems import Problem, broken
from integrations.models import IdempotentAnswer
from integrations.models.idempotency import KEPT_FOR

KEY_LIMIT = 255  # characters

# What the API's description says about the header.
PARAMETER = {
    "parameters": [
        {
            "in": "header",
            "name": "Idempotency-Key",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT},
            "description": "The same key with the same body is done once; the first answer is given again for 24 h.",
        }
    ]
}


def once(request: HttpRequest, work: Callable[[], HttpResponse]) -> HttpResponse:
    """Does ``work`` unless its key was answered before. ``work`` writes to the database and nowhere else."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return work()
    asked = _Asked.by(request, key)
    if stored := asked.stored():
        return stored
    try:
        with transaction.atomic():
            answer = work()
            asked.store(answer)
    except IntegrityError:
        # Somebody else's answer to this key was committed first; any other broken constraint is none of ours.
        if stored := asked.stored():
            return stored
        raise
    return answer


@dataclass(frozen=True, slots=True)
class _Asked:
    owner: str
    key: str
    path: str
    body_digest: str

    @classmethod
    def by(cls, request: HttpRequest, key: str) -> _Asked:
        if not 0 < len(key) <= KEY_LIMIT or not key.isprintable():
            words = f"1 to {KEY_LIMIT} printable characters are taken"
            raise broken([(("header", "Idempotency-Key"), words)])
        return cls(caller(request).owner, key, request.path[:500], hashlib.sha256(request.body).hexdigest())

    def stored(self) -> HttpResponse | None:
        """The answer given before. Raises Problem(409) where the key stands for another request."""
        row = IdempotentAnswer.objects.filter(owner=self.owner, key=self.key).first()
        if row is None or row.status is None:
            return None
        if row.created_at <= timezone.now() - KEPT_FOR:
            IdempotentAnswer.objects.filter(pk=row.pk).delete()
            return None
        if (row.path, row.body_digest) != (self.path, self.body_digest):
            raise Problem(409, "This Idempotency-Key was used for another request; use a new one.")
        answer = HttpResponse(bytes(row.content), status=row.status, content_type="application/json")
        if row.location:
            answer["Location"] = row.location
        answer["Idempotent-Replayed"] = "true"
        return answer

    def store(self, answer: HttpResponse) -> None:
        if not 200 <= answer.status_code < 300:
            return
        IdempotentAnswer.objects.create(
            owner=self.owner,
            key=self.key,
            path=self.path,
            body_digest=self.body_digest,
            status=answer.status_code,
            location=answer.headers.get("Location", ""),
            content=answer.content,
        )
