"""Add, edit and delete the endpoints of a service."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_POST

from dashboard.access import actor, operator
from dashboard.forms.prefill import from_query
from dashboard.forms.service import EndpointForm
from dashboard.responses import form_page, posted, see_other
from integrations import errors
from integrations.models import Endpoint, Service
from integrations.registration import endpoints


@operator
def endpoint_new(request: HttpRequest, name: str) -> HttpResponse:
    return _endpoint_form(request, get_object_or_404(Service, name=name), None)


@operator
def endpoint_edit(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    found = get_object_or_404(Endpoint.objects.select_related("service"), service__name=name, name=endpoint)
    return _endpoint_form(request, found.service, found)


def _endpoint_form(request: HttpRequest, service: Service, endpoint: Endpoint | None) -> HttpResponse:
    form = EndpointForm(posted(request), present=endpoints.configuration(endpoint) if endpoint else None)
    if endpoint is None and "attempt" in request.GET:  # save a lab call as an endpoint
        form.initial = {**form.initial, **{name: text for name, text in from_query(request.GET).items() if text}}
    name = endpoint.name if endpoint else ""
    if form.is_valid():
        try:
            sent = [field for field in form.fields if form.was_sent(field)]
            saved = endpoints.save(service, form.value, actor=actor(request), endpoint=endpoint, fields=sent)
        except errors.Invalid as refusal:
            form.refuse(refusal)
        else:
            messages.success(request, f"Endpoint {saved.name} saved.")
            return see_other("service", service.name)
    context = {"form": form, "service": service, "endpoint_name": name}
    return form_page(request, "services/endpoint.html", context, is_refused=form.is_bound)


@operator
@require_POST
def endpoint_delete(request: HttpRequest, name: str, endpoint: str) -> HttpResponse:
    found = get_object_or_404(Endpoint, service__name=name, name=endpoint)
    endpoints.delete(found, actor=actor(request))
    messages.success(request, f"Endpoint {endpoint} deleted. Messages that used it keep their path.")
    return see_other("service", name)
