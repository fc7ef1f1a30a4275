"""The answers that forms give."""

from __future__ import annotations

from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render, resolve_url


class NotThere(Http404):
    """A 404 whose words are meant for whoever looks."""


class SeeOther(HttpResponseRedirect):
    """303: what was sent is done, look there; unlike a 302 it never repeats the POST."""

    status_code = 303


def see_other(to: Any, *args: Any, **kwargs: Any) -> SeeOther:
    return SeeOther(resolve_url(to, *args, **kwargs))


def posted(request: HttpRequest) -> QueryDict | None:
    """What a form sent, be it nothing at all; None when there was no form."""
    return request.POST if request.method == "POST" else None


def form_page(request: HttpRequest, template: str, context: dict[str, Any], *, is_refused: bool) -> HttpResponse:
    """A page with a form; 422 when it shows what was wrong with what was sent."""
    return render(request, template, context, status=422 if is_refused else 200)
