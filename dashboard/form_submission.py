"""A form sent twice does one thing: double clicks, reloads and impatient proxies end at the same page."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha256

from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse

from dashboard.access import person
from dashboard.responses import SeeOther
from integrations.models import IdempotentAnswer

FIELD = "form_key"


def fresh_key() -> str:
    """The hidden value that tells one rendering of a form from the next."""
    return secrets.token_urlsafe(16)


def once(request: HttpRequest, action: Callable[[], HttpResponse]) -> HttpResponse:
    """Runs ``action`` in a transaction and remembers where it redirected to; the same form again goes there too.

    Sameness is the form's key *and* its content: who goes back, changes a field and sends again means another thing.
    An answer that is no redirect (a form with errors) undoes everything and is not remembered.
    """
    if not (key := request.POST.get(FIELD, "")[:100]):
        return action()
    owner, key = f"person {person(request).pk}", f"{key}:{_digest(request)}"
    if answered := _answered(owner, key):
        return answered
    try:
        with transaction.atomic():
            # The row is the lock: another request with this key waits here until the first one has committed.
            row = IdempotentAnswer.objects.create(owner=owner, key=key, path=request.path[:500], body_digest="")
            response = action()
            if response.status_code // 100 != 3:
                transaction.set_rollback(True)
                return response
            row.status, row.location = response.status_code, response["Location"][:500]
            row.save(update_fields=["status", "location"])
            return response
    except IntegrityError:
        if answered := _answered(owner, key):
            return answered
        raise


def once_unlocked(
    request: HttpRequest, action: Callable[[], HttpResponse], under_way: Callable[[], HttpResponse]
) -> HttpResponse:
    """The same for an action that may take minutes and must hold no transaction: a call that somebody waits for.

    While the first one runs, the same form again gets ``under_way`` and starts nothing.
    """
    if not (key := request.POST.get(FIELD, "")[:100]):
        return action()
    owner, key = f"person {person(request).pk}", f"{key}:{_digest(request)}"
    row, is_first = IdempotentAnswer.objects.get_or_create(owner=owner, key=key, defaults={"path": request.path[:500]})
    if not is_first:
        return SeeOther(row.location) if row.status else under_way()
    response = None
    try:
        response = action()
    finally:
        if response is None or response.status_code // 100 != 3:
            row.delete()
        else:
            row.status, row.location = response.status_code, response["Location"][:500]
            row.save(update_fields=["status", "location"])
    return response


def _answered(owner: str, key: str) -> HttpResponse | None:
    row = IdempotentAnswer.objects.filter(owner=owner, key=key).first()
    return SeeOther(row.location) if row and row.status else None


def _digest(request: HttpRequest) -> str:
    fields = sorted((name, *values) for name, values in request.POST.lists() if name != "csrfmiddlewaretoken")
    return sha256(repr((request.path, fields)).encode()).hexdigest()
