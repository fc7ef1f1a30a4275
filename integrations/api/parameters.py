"""Refuse query parameters that a call does not offer: a misspelt filter would return too much."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from ninja.operation import Operation
from ninja.params.models import QueryModel

from integrations.api.problems import validation_problem

READS = {"GET", "DELETE"}  # the other methods take their fields in the body


def refuse_unknown(given: Iterable[str], known: Collection[str]) -> None:
    """Raise Problem(422) that names the nearest parameter, if one is not known."""
    if unknown := [name for name in given if name not in known]:
        raise validation_problem([(("query", name[:100]), _advice(name, known)) for name in unknown])


def refusing_unknown(operation: Operation) -> Callable[..., HttpResponseBase]:
    """Return the operation's view with this check before it."""
    view = operation.view_func
    if not set(operation.methods) <= READS:
        return view
    known = _parameters_of(operation)

    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        refuse_unknown(request.GET, known)
        response: HttpResponseBase = view(request, *args, **kwargs)
        return response

    return checked


def _parameters_of(operation: Operation) -> tuple[str, ...]:
    models = [model for model in operation.models if issubclass(model, QueryModel)]
    return tuple(name for model in models for name in vars(model)["__ninja_flatten_map__"])


def _advice(name: str, known: Collection[str]) -> str:
    if near := get_close_matches(name, known, n=1, cutoff=0.7):
        return f"is not a parameter of this call; did you mean {near[0]}?"
    return f"is not a parameter of this call; use {', '.join(known)}" if known else "this call takes no parameters"
