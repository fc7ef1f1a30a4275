"""The declared fields of bodies: what a search by body.… finds, and one more of them."""

from __future__ import annotations

from django import forms
from django.contrib import messages as toasts
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_http_methods

from dashboard.access import actor, person, viewer
from dashboard.responses import form_page, posted, see_other
from integrations.errors import Invalid
from integrations.models import Role, Service, field_value
from integrations.registration import indexing

DAYS = 30


class FieldForm(forms.Form):
    """A field to declare, and how far back its messages are indexed."""

    service = forms.CharField(max_length=63, widget=forms.TextInput(attrs={"list": "services", "autocomplete": "off"}))
    path = forms.CharField(
        max_length=field_value.PATH_LIMIT,
        label="Field of the body",
        help_text="Names joined by dots; a number or * is an element of an array.",
        widget=forms.TextInput(attrs={"class": "mono", "placeholder": "order.id", "spellcheck": "false"}),
    )
    days = forms.IntegerField(
        min_value=1,
        max_value=indexing.DAYS_LIMIT,
        initial=DAYS,
        label="Index the last … days",
        help_text="Workers fill in the messages of these days, the newest first. Later messages are always indexed.",
    )


@viewer
@require_http_methods(["GET", "POST"])
def fields(request: HttpRequest) -> HttpResponse:
    services = list(Service.objects.only("name", "search_fields").order_by("name"))
    given = {name: request.GET[name] for name in ("service", "path", "days") if name in request.GET}
    form = FieldForm(posted(request), initial=given)
    if form.is_bound and not person(request).may(Role.OPERATOR):
        raise PermissionDenied(f"Declaring a field needs the {Role.OPERATOR} role. Yours is {person(request).role}.")
    if form.is_valid():
        data = form.cleaned_data
        service = next((service for service in services if service.name == data["service"]), None)
        if service is None:
            form.add_error("service", "No service has this name.")
            return _page(request, form, services)
        try:
            operation = indexing.declare(service, data["path"], data["days"], actor=actor(request))
        except Invalid as refusal:
            for location, text in refusal.errors:
                form.add_error(str(location[0]) if location[0] in form.fields else None, text)
        else:
            toasts.success(request, f"{data['path']} is declared. Its older messages are being indexed.")
            return see_other("operation", operation.public_id)
    return _page(request, form, services)


def _page(request: HttpRequest, form: FieldForm, services: list[Service]) -> HttpResponse:
    context = {"form": form, "services": services, "declaring": [one for one in services if one.search_fields]}
    return form_page(request, "messages/fields.html", context, is_refused=form.is_bound)
