"""Register the endpoints of a service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import transaction

from integrations.errors import Invalid
from integrations.models import AuditEntry, Endpoint, Service
from integrations.outbound.urls import query_refusal
from integrations.registration.registry import masked, refusing_duplicates
from integrations.schemas.service import EndpointIn


def save(
    service: Service,
    data: EndpointIn,
    *,
    actor: str,
    endpoint: Endpoint | None = None,
    fields: Iterable[str] = tuple(EndpointIn.model_fields),
) -> Endpoint:
    """Create an endpoint, or change the ``fields`` of the given one. Raises Invalid if the service has another one of
    this name."""
    taken = Invalid((("name",), f"{service.name} already has an endpoint named {data.name}; choose another name"))
    with transaction.atomic():
        # The service's lock, which the API's PATCH takes too: one save of its endpoints after another, so that none
        # writes back a value that it read before the other changed it.
        base_url = Service.objects.select_for_update(no_key=True).get(pk=service.pk).base_url
        if refusal := query_refusal(base_url, data.path, data.query):
            raise Invalid((("query",), refusal))
        if service.endpoints.filter(name=data.name).exclude(pk=endpoint.pk if endpoint else 0).exists():
            raise taken
        if endpoint:
            endpoint.refresh_from_db()
        before = configuration(endpoint) if endpoint else {}
        endpoint = endpoint or Endpoint(service=service)
        for name in fields if before else EndpointIn.model_fields:
            setattr(endpoint, name, getattr(data, name))
        with refusing_duplicates(taken):
            endpoint.save(update_fields={*fields, "updated_at"} if before else None)
        AuditEntry.objects.record(
            actor,
            "endpoint.changed" if before else "endpoint.created",
            str(endpoint),
            before=masked(before),
            after=masked(configuration(endpoint)),
        )
    return endpoint


def delete(endpoint: Endpoint, *, actor: str) -> None:
    with transaction.atomic():
        AuditEntry.objects.record(actor, "endpoint.deleted", str(endpoint), before=masked(configuration(endpoint)))
        endpoint.delete()


def configuration(endpoint: Endpoint) -> dict[str, Any]:
    """Return the settings. Viewers and the audit log get them through ``registry.masked``."""
    names = ("name", "method", "path", "query", "headers", "content_type", "body", "description")
    return {name: getattr(endpoint, name) for name in names}
