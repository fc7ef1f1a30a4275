"""Access to pages by role, checked in the view and never only by hiding a button."""

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
    """Require a signed-in account with at least this role; others get the login page or a 403 that says why."""

    def decorate(view: View[P]) -> View[P]:
        @login_required
        @wraps(view)
        def checked(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
            if not person(request).may(role):
                raise PermissionDenied(f"This needs the {role} role. Yours is {person(request).role}.")
            return view(request, *args, **kwargs)

        return _marked(cast("View[P]", checked), role)

    return decorate


viewer = needs(Role.VIEWER)
operator = needs(Role.OPERATOR)
admin = needs(Role.ADMIN)


def public(view: View[P]) -> View[P]:
    """Mark one of the few pages that are open to anyone, so that a test finds pages without a rule."""
    return _marked(view, None)


def _marked(view: View[P], role: Role | None) -> View[P]:
    """Record the rule on the view: a test reads it from every route."""
    vars(view)["needed_role"] = role
    return view


def person(request: HttpRequest) -> Account:
    return cast(Account, request.user)


def actor(request: HttpRequest) -> str:
    """The name of the signed-in account in audit entries."""
    return f"person {person(request).username}"
