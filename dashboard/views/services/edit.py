"""Register a service, and edit its settings."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render

from dashboard.access import actor, operator, person
from dashboard.forms.service import ServiceForm
from dashboard.responses import form_page, posted, see_other
from dashboard.views.services.preview import previews
from integrations import errors
from integrations.models import Role, Service, Source
from integrations.registration import registry


@operator
def new(request: HttpRequest) -> HttpResponse:
    may_allow_private = person(request).may(Role.ADMIN)
    form = ServiceForm(posted(request), may_allow_private=may_allow_private)
    if form.is_valid():
        try:
            service = registry.register(
                form.value, actor=actor(request), source=Source.FORM, may_allow_private=may_allow_private
            )
        except errors.Invalid as refusal:
            form.refuse(refusal)
        else:
            messages.success(request, f"{service.name} registered. Test it, then send it a message.")
            return see_other("service", service.name)
    return form_page(request, "services/edit.html", _form_context(request, form), is_refused=form.is_bound)


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
            messages.success(request, f"{service.name} saved. The changes apply from the next call.")
            if cleared := had_secrets - set(service.secrets):
                names = ", ".join(sorted(cleared))
                messages.warning(request, f"Host or authentication changed, so these secrets were cleared: {names}.")
            return see_other("service", service.name)
    return form_page(request, "services/edit.html", _form_context(request, form, service), is_refused=form.is_bound)


def _form_context(request: HttpRequest, form: ServiceForm, service: Service | None = None) -> dict[str, Any]:
    return {
        "form": form,
        "service": service,
        "shows_all": "all" in request.GET,
        "previews": previews(posted(request), service),
        "secret_names": ",".join(sorted(ServiceForm.secret)),
    }


@operator
def form_group(request: HttpRequest, group: str, name: str = "") -> HttpResponse:
    """The fields of one group of the form, fetched when the operator opens the group."""
    service = get_object_or_404(Service, name=name) if name else None
    form = ServiceForm(
        service=service,
        present=registry.configuration(service) if service else None,
        may_allow_private=person(request).may(Role.ADMIN),
    )
    if (shown := form.group(group)) is None:
        raise Http404
    return render(request, "services/_group.html", {"group": shown, "previews": previews(None, service)})
