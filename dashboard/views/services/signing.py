"""Signing a service's calls: on, off, and new secrets, each shown on one answer and nowhere else."""

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
from dashboard.responses import form_page, posted, see_other
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
            return _made(request, service, keys)
    return form_page(request, "services/signing.html", {"form": form, "service": service}, is_refused=form.is_bound)


@operator
@require_POST
@never_cache
def enable(request: HttpRequest, name: str) -> HttpResponse:
    """Turns signing on; where there is no secret yet, makes one and shows it."""
    service = get_object_or_404(Service, name=name)
    keys: list[SigningKeys] = []
    try:
        with transaction.atomic():
            if not service.signing_keys:
                keys = registry.rotate_signing(service, timedelta(0), actor=actor(request))
            _turn(service, on=True, by=actor(request))
    except errors.Invalid as refusal:
        messages.error(request, f"Signing stays off: {refusal}.")
        return see_other("service", name)
    if keys:
        return _made(request, service, keys)
    messages.success(request, f"Calls to {name} are signed from now on, with the secret that it has.")
    return see_other("service", name)


@operator
@require_POST
def disable(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    try:
        _turn(service, on=False, by=actor(request))
    except errors.Invalid as refusal:
        messages.error(request, f"Signing stays on: {refusal}.")
    else:
        messages.success(request, f"Calls to {name} are no longer signed. Its secret is kept.")
    return see_other("service", name)


def _turn(service: Service, *, on: bool, by: str) -> None:
    wanted = ServiceIn(name=service.name, base_url=service.base_url, signing=Signing(enabled=on))
    registry.change(service, wanted, {"signing"}, actor=by)


def _made(request: HttpRequest, service: Service, keys: list[SigningKeys]) -> HttpResponse:
    context = {"service": service, "newest": keys[0], "earlier": keys[1:]}
    return render(request, "services/signing_made.html", context)
