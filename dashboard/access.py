"""Who may open a page: checked in the view, never only by hiding a button."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, cast

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse

from integrations.models import Account, Role

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]


def needs(role: Role) -> Callable[[View[P]], View[P]]:
    """Lets in who is signed in with at least this role; others get the login page or a 403 in words."""

    def decorate(view: View[P]) -> View[P]:
        @login_required
        @wraps(view)
        def checked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if not person(request).may(role):
                raise PermissionDenied(f"This needs the {role} role; yours is {person(request).role}.")
            return view(request, *args, **kwargs)

        return _marked(cast("View[P]", checked), role)

    return decorate


viewer = needs(Role.VIEWER)
operator = needs(Role.OPERATOR)
admin = needs(Role.ADMIN)


def public(view: View[P]) -> View[P]:
    """Marks the few pages that anybody may open, so that a page without a rule is told apart."""
    return _marked(view, None)


def _marked(view: View[P], role: Role | None) -> View[P]:
    """The rule travels with the view: a test reads it from every route."""
    vars(view)["needed_role"] = role
    return view


def person(request: HttpRequest) -> Account:
    return cast(Account, request.user)


def actor(request: HttpRequest) -> str:
    """How audit entries name who did it."""
    return f"person {person(request).username}"
