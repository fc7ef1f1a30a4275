"""Register a service, and edit its settings."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from dashboard.access import actor, operator, person
from dashboard.forms.presets import PRESETS, preset_named
from dashboard.forms.service import ServiceForm
from dashboard.responses import form_page, posted, see_other
from dashboard.views.services.preview import previews
from integrations import errors
from integrations.models import Role, Service, Source
from integrations.registration import registry


@operator
def new(request: HttpRequest) -> HttpResponse:
    preset = preset_named(request.POST.get("preset", request.GET.get("preset")))
    form = ServiceForm(
        posted(request),
        present=preset.configuration if preset else None,
        may_allow_private=person(request).may(Role.ADMIN),
    )
    if not form.is_bound:  # as the lab offers for a host of no service
        form.initial = {
            **form.initial,
            **{name: request.GET[name] for name in ("name", "base_url") if name in request.GET},
        }
    then_lab = "lab" in (request.POST.get("then"), request.GET.get("then"))
    if service := registered(request, form):
        messages.success(request, f"{service.name} registered. Test it, then send it a message.")
        return see_other(f"{reverse('lab')}?service={service.name}") if then_lab else see_other("service", service.name)
    context = _form_context(request, form) | {"presets": PRESETS, "preset": preset, "then_lab": then_lab}
    return form_page(request, "services/edit.html", context, is_refused=form.is_bound)


def registered(request: HttpRequest, form: ServiceForm) -> Service | None:
    """The new service; None, with all errors at their fields, if something is refused or nothing was sent."""
    options: dict[str, Any] = {"actor": actor(request), "may_allow_private": person(request).may(Role.ADMIN)}
    if form.is_valid():
        try:
            service = registry.register(form.value, source=Source.FORM, **options)
        except errors.Invalid as refusal:
            form.refuse(refusal)
        else:
            _warn_of_address(request, form)
            return service
    elif form.partial is not None:
        draft = Service(name=form.partial.name)
        if found := registry.refusal(draft, form.partial, form.partial.model_fields_set, **options):
            form.refuse(found)
    return None


def _warn_of_address(request: HttpRequest, form: ServiceForm) -> None:
    """Say at once what the first call would say. The address is saved: its host may come later."""
    if form.address.unresolved:
        messages.warning(request, f"{form.address.unresolved} has no address in DNS. Calls fail until it has one.")
    elif form.address.refusal and not form.permits:
        messages.warning(request, f"Calls will be refused: {form.address.refusal}.")


@operator
def edit(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    may_allow_private = person(request).may(Role.ADMIN)
    form = ServiceForm(
        posted(request),
        service=service,
        present=registry.configuration(service),
        may_allow_private=may_allow_private,
    )
    if form.is_valid():
        had_secrets = set(service.secrets)
        try:
            registry.change(
                service, form.value, form.given_fields, actor=actor(request), may_allow_private=may_allow_private
            )
        except errors.Invalid as refusal:
            form.refuse(refusal)
            service = get_object_or_404(Service, name=name)  # as stored, without the refused changes
        else:
            if "base_url" in form.changed_data:
                _warn_of_address(request, form)
            messages.success(request, f"{service.name} saved. The changes apply from the next call.")
            if cleared := had_secrets - set(service.secrets):
                names = ", ".join(sorted(cleared))
                messages.warning(request, f"Host or authentication changed, so these secrets were cleared: {names}.")
            return see_other("service", service.name)
    elif form.partial is not None:
        draft = get_object_or_404(Service, name=name)
        if found := registry.refusal(
            draft, form.partial, form.given_fields, actor=actor(request), may_allow_private=may_allow_private
        ):
            form.refuse(found)
    return form_page(request, "services/edit.html", _form_context(request, form, service), is_refused=form.is_bound)


def _form_context(request: HttpRequest, form: ServiceForm, service: Service | None = None) -> dict[str, Any]:
    return {
        "form": form,
        "service": service,
        "shows_all": "all" in request.GET,
        "previews": previews(posted(request), form.present),
        "address": form.address,
        "secret_names": ",".join(sorted(ServiceForm.secret)),
    }


@operator
@require_POST
def address(request: HttpRequest, name: str = "") -> HttpResponse:
    """The check of the base URL while the operator types it."""
    service = get_object_or_404(Service, name=name) if name else None
    form = ServiceForm(request.POST, service=service, may_allow_private=person(request).may(Role.ADMIN))
    return render(request, "services/_address.html", {"form": form, "address": form.address, "is_typing": True})


@operator
def form_group(request: HttpRequest, group: str, name: str = "") -> HttpResponse:
    """The fields of one group of the form, fetched when the operator opens the group."""
    service = get_object_or_404(Service, name=name) if name else None
    preset = preset_named(request.GET.get("preset"))
    present = registry.configuration(service) if service else preset.configuration if preset else None
    form = ServiceForm(service=service, present=present, may_allow_private=person(request).may(Role.ADMIN))
    if (shown := form.group(group)) is None:
        raise Http404
    return render(request, "services/_group.html", {"group": shown, "previews": previews(None, present)})
