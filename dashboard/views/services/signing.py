"""Sign a service's calls: enable, disable, and rotate the secret, which only one response shows."""

from __future__ import annotations

from datetime import timedelta

from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from dashboard.access import actor, operator
from dashboard.forms.actions import RotateForm
from dashboard.responses import form_page, posted, say_done, see_other
from integrations import errors
from integrations.errors import Conflict
from integrations.models import Service
from integrations.outbound.signing import SigningKeys
from integrations.registration import registry
from integrations.schemas.service import ServiceIn, Signing


@operator
@never_cache
def rotate(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    form = RotateForm(posted(request))
    if form.is_valid():
        try:
            keys = registry.rotate_signing(service, timedelta(seconds=form.value.overlap), actor=actor(request))
        except Conflict as conflict:
            form.refuse([(("overlap",), str(conflict))])
        else:
            return _show_secret(request, service, keys)
    return form_page(request, "services/signing.html", {"form": form, "service": service}, is_refused=form.is_bound)


@operator
@require_POST
@never_cache
def enable(request: HttpRequest, name: str) -> HttpResponse:
    """Enable signing. Without a secret, create one and show it."""
    service = get_object_or_404(Service, name=name)
    keys: list[SigningKeys] = []
    try:
        with transaction.atomic():
            if not service.signing_keys:
                keys = registry.rotate_signing(service, timedelta(0), actor=actor(request))
            _set_signing(service, enabled=True, by=actor(request))
    except errors.Invalid as refusal:
        messages.error(request, f"Signing not enabled: {refusal}.")
        return see_other("service", name)
    if keys:
        return _show_secret(request, service, keys)
    done = f"Signing enabled. Calls to {name} are signed with its existing secret."
    say_done(request, done, "signing-disable", name)
    return see_other("service", name)


@operator
@require_POST
def disable(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    try:
        _set_signing(service, enabled=False, by=actor(request))
    except errors.Invalid as refusal:
        messages.error(request, f"Signing not disabled: {refusal}.")
    else:
        done = f"Signing disabled. Calls to {name} are no longer signed; its secret is kept."
        say_done(request, done, "signing-enable", name)
    return see_other("service", name)


def _set_signing(service: Service, *, enabled: bool, by: str) -> None:
    changed = ServiceIn(name=service.name, base_url=service.base_url, signing=Signing(enabled=enabled))
    registry.change(service, changed, {"signing"}, actor=by)


def _show_secret(request: HttpRequest, service: Service, keys: list[SigningKeys]) -> HttpResponse:
    context = {"service": service, "newest": keys[0], "earlier": keys[1:]}
    return render(request, "services/signing_made.html", context)
