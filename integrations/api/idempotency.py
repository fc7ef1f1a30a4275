"""`Idempotency-Key`: a repeated request is answered again, byte for byte, and not done again.

The answer is stored in the transaction that does the work, under a unique key. So a crash leaves both or neither,
there is no lock that could go stale, and of two at once one commits first: the database makes the other wait for it,
takes the other's work back, and the other gets the first one's answer. Only what succeeded is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import itemgetter

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from integrations.api.auth import caller
from integrations.api.problems import Problem, validation_problem
from integrations.models import IdempotentAnswer, sql
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


Answers = list[HttpResponse | Exception]


def once(request: HttpRequest, work: Callable[[], HttpResponse]) -> HttpResponse:
    """Does ``work`` unless its key was answered before. ``work`` writes to the database and nowhere else."""
    (answer,) = all_once([request], lambda _: lambda: [work()])
    if isinstance(answer, Exception):
        raise answer
    return answer


def all_once(requests: Sequence[HttpRequest], prepare: Callable[[Sequence[int]], Callable[[], Answers]]) -> Answers:
    """The same for requests that share a transaction, each of its own key. An answer that is an error stands alone.

    ``prepare`` is told which of the requests were not answered before, and answers what is to be done for them
    inside the transaction.
    """
    asked = [_read(request) for request in requests]
    answers: dict[int, HttpResponse | Exception] = {}
    while left := _first_of_each_key(asked, answers):
        if known := _answered(asked, left):
            answers |= known
            continue
        work = prepare(left)
        try:
            with _transaction_for(asked):
                done = dict(zip(left, work(), strict=True))
                _store([(asked[position], answer) for position, answer in done.items()])
        except IntegrityError:
            # Somebody else's answer to a key was committed first; any other broken constraint is none of ours.
            if not _answered(asked, left):
                raise
        else:
            answers |= done
    return [answers[position] for position in range(len(requests))]


@dataclass(frozen=True, slots=True)
class _Asked:
    owner: str
    key: str
    path: str
    body_digest: str


def _read(request: HttpRequest) -> _Asked | Problem | None:
    key = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_LIMIT or not key.isprintable():
        return validation_problem([(("header", "Idempotency-Key"), f"1 to {KEY_LIMIT} printable characters are taken")])
    return _Asked(caller(request).owner, key, request.path[:500], hashlib.sha256(request.body).hexdigest())


def _first_of_each_key(asked: Sequence[_Asked | Problem | None], answers: Container[int]) -> list[int]:
    """What has no answer yet, by position; the second of a key waits for the first, whatever becomes of it."""
    seen: set[tuple[str, str]] = set()
    left = []
    for position, one in enumerate(asked):
        if position in answers:
            continue
        if isinstance(one, _Asked):
            if (one.owner, one.key) in seen:
                continue
            seen.add((one.owner, one.key))
        left.append(position)
    return left


def _answered(
    asked: Sequence[_Asked | Problem | None], positions: Sequence[int]
) -> dict[int, HttpResponse | Exception]:
    """What is known already: answers given before, keys that cannot be, keys of another request."""
    keyed = {(one.owner, one.key) for position in positions if isinstance(one := asked[position], _Asked)}
    stored = {(row.owner, row.key): row for row in _stored(sorted(keyed)) if row.status is not None}
    _forget([row for row in stored.values() if _is_old(row)])
    answers: dict[int, HttpResponse | Exception] = {}
    for position in positions:
        one = asked[position]
        if isinstance(one, Problem):
            answers[position] = one
        elif one and (row := stored.get((one.owner, one.key))) and not _is_old(row):
            answers[position] = _again(one, row)
    return answers


def _stored(keys: Sequence[tuple[str, str]]) -> Iterable[IdempotentAnswer]:
    """By hand: the ORM takes longer to write the statement than the database to answer it, and each group asks."""
    if not keys:
        return ()
    places = ", ".join(["(%s, %s)"] * len(keys))
    statement = f"SELECT * FROM integrations_idempotentanswer WHERE (owner, key) IN (VALUES {places})"  # noqa: S608
    return IdempotentAnswer.objects.raw(statement, [word for key in keys for word in key])


def _is_old(row: IdempotentAnswer) -> bool:
    return row.created_at <= timezone.now() - KEPT_FOR


def _forget(rows: Sequence[IdempotentAnswer]) -> None:
    if rows:
        IdempotentAnswer.objects.filter(pk__in=[row.pk for row in rows]).delete()


def _again(asked: _Asked, row: IdempotentAnswer) -> HttpResponse | Problem:
    if (row.path, row.body_digest) != (asked.path, asked.body_digest):
        return Problem(409, "This Idempotency-Key was used for another request; use a new one.")
    answer = HttpResponse(bytes(row.content), status=row.status, content_type="application/json")
    if row.location:
        answer["Location"] = row.location
    answer["Idempotent-Replayed"] = "true"
    return answer


def _transaction_for(asked: Sequence[_Asked | Problem | None]) -> AbstractContextManager[None]:
    """None without a key: then the work decides about its transactions."""
    return transaction.atomic() if any(isinstance(one, _Asked) for one in asked) else nullcontext()


def _store(given: Sequence[tuple[_Asked | Problem | None, HttpResponse | Exception]]) -> None:
    """Keeps what succeeded, in one order everywhere, so that two groups of requests cannot lock each other out."""
    now = timezone.now()
    kept = [
        {
            "owner": asked.owner,
            "key": asked.key,
            "path": asked.path,
            "body_digest": asked.body_digest,
            "status": answer.status_code,
            "location": answer.headers.get("Location", ""),
            "content": answer.content,
            "created_at": now,
        }
        for asked, answer in given
        if isinstance(asked, _Asked) and isinstance(answer, HttpResponse) and 200 <= answer.status_code < 300
    ]
    sql.append(IdempotentAnswer, sorted(kept, key=itemgetter("owner", "key")))
