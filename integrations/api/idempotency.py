"""`Idempotency-Key`: a repeated request gets the first answer, byte for byte, and is not done again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from django.http import HttpRequest, HttpResponse

from integrations.api.auth import caller
from integrations.api.problems import Problem, validation_problem
from integrations.idempotency import Answers, Prepare, run_once
from integrations.models import IdempotentAnswer
from integrations.models.idempotency import KeyedRequest

KEY_LIMIT = 255  # characters

# The header in the API's description.
PARAMETER = {
    "parameters": [
        {
            "in": "header",
            "name": "Idempotency-Key",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT},
            "description": "Requests with the same key and body are carried out once. For 24 h, repeated ones get the "
            "first response.",
        }
    ]
}


def once(request: HttpRequest, work: Callable[[], HttpResponse]) -> HttpResponse:
    """Do ``work`` unless its key was answered before. ``work`` writes to the database and nowhere else."""
    (answer,) = all_once([request], lambda _: lambda: [work()])
    if isinstance(answer, Exception):
        raise answer
    return answer


def all_once(requests: Sequence[HttpRequest], prepare: Prepare) -> Answers:
    """Do the work of requests that share a transaction, each key once: see ``run_once``."""
    keyed = [_keyed(request) for request in requests]
    sound = [position for position, request in enumerate(keyed) if not isinstance(request, Problem)]
    results = iter(
        run_once(
            [request for request in keyed if not isinstance(request, Problem)],
            lambda positions: prepare([sound[position] for position in positions]),
        )
    )
    return [request if isinstance(request, Problem) else _answer(request, next(results)) for request in keyed]


def _keyed(request: HttpRequest) -> KeyedRequest | Problem | None:
    key = request.META.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not 0 < len(key) <= KEY_LIMIT or not key.isprintable():
        return validation_problem([(("header", "Idempotency-Key"), f"must be 1 to {KEY_LIMIT} printable characters")])
    return KeyedRequest(caller(request).owner, key, request.path[:500], hashlib.sha256(request.body).hexdigest())


def _answer(
    request: KeyedRequest | None, result: HttpResponse | Exception | IdempotentAnswer
) -> HttpResponse | Exception:
    if not isinstance(result, IdempotentAnswer):
        return result
    if request is None or (result.path, result.body_digest) != (request.path, request.body_digest):
        return Problem(409, "This Idempotency-Key was used for a different request; use a new key.")
    answer = HttpResponse(bytes(result.content), status=result.status, content_type="application/json")
    if result.location:
        answer["Location"] = result.location
    answer["Idempotent-Replayed"] = "true"
    return answer
