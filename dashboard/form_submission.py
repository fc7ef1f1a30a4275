"""A form that is sent twice does one thing: double clicks, reloads and impatient proxies end at the same page."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha256

from django.http import HttpRequest, HttpResponse

from dashboard.access import person
from dashboard.responses import SeeOther
from integrations.idempotency import run_once, run_once_unlocked
from integrations.models.idempotency import KeyedRequest

FIELD = "form_key"
Action = Callable[[], HttpResponse]


def fresh_key() -> str:
    """A hidden value that identifies one rendering of a form."""
    return secrets.token_urlsafe(16)


class NotDone(Exception):
    """A response that is no redirect, such as a form with errors: it undoes everything and is not stored."""

    def __init__(self, response: HttpResponse) -> None:
        self.response = response


def submit_once(request: HttpRequest, action: Action) -> HttpResponse:
    """Run ``action`` in a transaction and store where it redirects to; the same form sent again goes there too.

    The same key with different content is a new submission: a person went back, changed a field and sent it again.
    """
    if (keyed := _keyed(request)) is None:
        return action()
    try:
        (answer,) = run_once([keyed], lambda _: lambda: [_redirect_of(action)])
    except NotDone as not_done:
        return not_done.response
    assert not isinstance(answer, Exception)  # noqa: S101 - the action raises, and never returns one
    return answer if isinstance(answer, HttpResponse) else SeeOther(answer.location)


def submit_once_unlocked(request: HttpRequest, action: Action, under_way: Action) -> HttpResponse:
    """The same for an action that may take minutes and must hold no transaction: a call that the person waits for.

    While the first one runs, the same form sent again gets ``under_way`` and starts nothing.
    """
    if (keyed := _keyed(request)) is None:
        return action()
    try:
        answer = run_once_unlocked(keyed, lambda: _redirect_of(action))
    except NotDone as not_done:
        return not_done.response
    if isinstance(answer, HttpResponse):
        return answer
    return under_way() if answer.status is None else SeeOther(answer.location)


def _redirect_of(action: Action) -> HttpResponse:
    response = action()
    if response.status_code // 100 != 3:
        raise NotDone(response)
    return response


def _keyed(request: HttpRequest) -> KeyedRequest | None:
    if not (key := request.POST.get(FIELD, "")[:100]):
        return None
    return KeyedRequest(f"person {person(request).pk}", f"{key}:{_digest(request)}", request.path[:500], "")


def _digest(request: HttpRequest) -> str:
    fields = sorted((name, *values) for name, values in request.POST.lists() if name != "csrfmiddlewaretoken")
    return sha256(repr((request.path, fields)).encode()).hexdigest()
