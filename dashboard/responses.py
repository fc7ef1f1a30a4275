"""Responses to forms: redirects, toasts with undo, and pages with errors."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme


class ExplainedNotFound(Http404):
    """A 404 whose message the page shows."""


class SeeOther(HttpResponseRedirect):
    """303 after a form was processed; unlike a 302 it never repeats the POST."""

    status_code = 303


def see_other(to: Any, *args: Any, **kwargs: Any) -> SeeOther:
    return SeeOther(resolve_url(to, *args, **kwargs))


def own_page(address: str) -> str:
    """The address if it is a path of this console, which a form may lead back to; else empty."""
    is_ours = address.startswith("/") and url_has_allowed_host_and_scheme(address, allowed_hosts=None)
    return address if is_ours else ""


def say_done(request: HttpRequest, text: str, undo: str = "", *args: Any) -> None:
    """Say that something was done. ``undo`` names the address that takes it back when its form is sent empty."""
    # The template of the toasts reads the address from the tags.
    messages.success(request, text, extra_tags=resolve_url(undo, *args) if undo else "")


def posted(request: HttpRequest) -> QueryDict | None:
    """The data of a submitted form, possibly empty; None if no form was submitted."""
    return request.POST if request.method == "POST" else None


def form_page(request: HttpRequest, template: str, context: dict[str, Any], *, is_refused: bool) -> HttpResponse:
    """A page with a form; 422 if it shows the errors of a submitted one."""
    return render(request, template, context, status=422 if is_refused else 200)
