"""Do a repeated request once: the API's `Idempotency-Key` and the console's form keys.

The answer is stored in the transaction that does the work, under a unique key, so a crash leaves both or neither. The
transaction locks the key before it looks for an answer: of two requests at once the second waits until the first has
committed, and gets the first's answer. The lock ends with its transaction, so it cannot go stale. Only success is
stored.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext

from django.db import transaction
from django.http import HttpResponse

from integrations.models import IdempotentAnswer, Installation, database_now
from integrations.models.idempotency import KeyedRequest

Answers = list[HttpResponse | Exception]
Prepare = Callable[[Sequence[int]], Callable[[], Answers]]


def run_once(
    requests: Sequence[KeyedRequest | None], prepare: Prepare
) -> list[HttpResponse | Exception | IdempotentAnswer]:
    """Do the work of requests that share a transaction, each key once; a key that was answered before gets the stored
    row. A request without a key is always done; without any key the work decides about its transactions.

    ``prepare`` gets the positions of the requests to do, and returns the work to run inside the transaction. The work
    writes to the database and nowhere else. An answer that is an exception stands alone and is not stored; an
    exception that the work raises undoes it all.
    """
    results: dict[int, HttpResponse | Exception | IdempotentAnswer] = {}
    while left := _first_of_each_key(requests, results):
        work = prepare(left)
        keyed = {position: request for position in left if (request := requests[position])}
        with transaction.atomic() if keyed else nullcontext():
            IdempotentAnswer.objects.lock(list(keyed.values()))
            if stored := _stored(keyed):
                results |= stored
                continue  # with the others, if there are any
            done = dict(zip(left, work(), strict=True))
            IdempotentAnswer.objects.store(
                [
                    (request, answer.status_code, answer.headers.get("Location", ""), answer.content)
                    for position, request in keyed.items()
                    if isinstance(answer := done[position], HttpResponse) and answer.status_code < 400
                ]
            )
        results |= done
    return [results[position] for position in range(len(requests))]


def run_once_unlocked(request: KeyedRequest, work: Callable[[], HttpResponse]) -> HttpResponse | IdempotentAnswer:
    """Do work that may take minutes and must hold no transaction: a call to a service that a person waits for.

    A repeated request gets the stored row, which has no status while the work runs. After an exception the key is free
    again.
    """
    row, is_first = IdempotentAnswer.objects.get_or_create(
        owner=request.owner, key=request.key, defaults={"path": request.path, "body_digest": request.body_digest}
    )
    if not is_first:
        return row
    try:
        response = work()
    except BaseException:
        row.delete()
        raise
    row.status, row.location = response.status_code, response.headers.get("Location", "")[:500]
    row.content = response.content
    row.save(update_fields=["status", "location", "content"])
    return response


def _first_of_each_key(requests: Sequence[KeyedRequest | None], results: Container[int]) -> list[int]:
    """The positions without a result. The second request of a key waits for the first, whatever its result."""
    seen: set[tuple[str, str]] = set()
    left = []
    for position, request in enumerate(requests):
        if position in results:
            continue
        if request:
            if (request.owner, request.key) in seen:
                continue
            seen.add((request.owner, request.key))
        left.append(position)
    return left


def _stored(keyed: dict[int, KeyedRequest]) -> dict[int, IdempotentAnswer]:
    """The stored answers by position; expired ones are deleted."""
    rows = {(row.owner, row.key): row for row in IdempotentAnswer.objects.stored_for(list(keyed.values()))}
    expired = [row.pk for row in rows.values() if row.has_expired]
    if expired and not Installation.objects.may_judge_age(database_now()):
        expired = []  # after a leap of the clock a key would seem to be a day old, and its work would be done twice
    if expired:
        IdempotentAnswer.objects.filter(pk__in=expired).delete()
    return {
        position: row
        for position, request in keyed.items()
        if (row := rows.get((request.owner, request.key))) and row.pk not in expired
    }
