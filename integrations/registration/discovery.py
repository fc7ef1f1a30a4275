"""Register services that the environment names (``SWITCHBOARD_SERVICE_<NAME>_URL``)."""

from __future__ import annotations

import os
import re

from django.conf import settings
from django.db import transaction
from pydantic import ValidationError

from integrations.models import AuditEntry, Event, Service, Source
from integrations.outbound.addresses import parse_networks
from integrations.registration.registry import address_refusal, register
from integrations.schemas.service import ServiceIn

VARIABLE = re.compile(r"^SWITCHBOARD_SERVICE_([A-Z0-9_]+)_URL$")


def discover(environ: dict[str, str] | None = None) -> list[str]:
    """Apply the variables SWITCHBOARD_SERVICE_<NAME>_URL to the registrations. Return a line for each change or error.

    The environment wins over the form. A removed variable pauses its service and never deletes it. A bad address
    changes nothing.
    """
    found = {
        name: value.strip()
        for name, value in (os.environ if environ is None else environ).items()
        if VARIABLE.match(name) and value.strip()
    }
    report = [text for name, value in sorted(found.items()) if (text := _discover_one(name, value))]
    for service in Service.objects.active().exclude(url_env="").exclude(url_env__in=found):
        with transaction.atomic():
            service.pause(f"{service.url_env} is no longer set")
            facts = {"reason": service.paused_reason, "by": "environment"}
            Event.objects.create(type="service.paused", service=service, facts=facts)
            AuditEntry.objects.record("environment", "service.paused", service.name, reason=service.paused_reason)
        report.append(f"{service.name}: paused, {service.url_env} is no longer set")
    return report


def _discover_one(variable: str, address: str) -> str | None:
    name = service_name(variable)
    service = Service.objects.filter(name=name).first() or Service.objects.filter(url_env=variable).first()
    allowed = service.allowed_networks if service else parse_networks(settings.ALLOW_PRIVATE)
    if refusal := address_refusal(address, allowed):
        return f"{variable} is ignored: {refusal}"
    if service is None:
        try:
            data = ServiceIn(name=name, base_url=address)
        except ValidationError as error:
            return f"{variable} is ignored: {error.errors()[0]['msg']}"
        service = register(data, actor="environment", source=Source.ENVIRONMENT)
        Service.objects.filter(pk=service.pk).update(url_env=variable)
        return f"{name}: registered from {variable}"
    change = None
    unset = f"{variable} is no longer set"
    if service.base_url != address or service.url_env != variable:
        with transaction.atomic():
            service.refresh_from_db(from_queryset=Service.objects.select_for_update(no_key=True))
            before = service.base_url
            service.base_url, service.url_env = address, variable
            # Keep the secrets: the environment is set on deployment, so a new host is not an operator's typo.
            service.bind_secrets(again=True)
            service.save(update_fields=["base_url", "url_env", "secrets", "updated_at"])
            Event.objects.create(type="service.changed", service=service, facts={"fields": ["base_url"]})
            AuditEntry.objects.record(
                "environment",
                "service.changed",
                service.name,
                before={"base_url": before},
                after={"base_url": address},
            )
        change = f"{service.name}: address changed by {variable}"
    if service.is_paused and service.paused_reason == unset:
        with transaction.atomic():
            service.reactivate()
            Event.objects.create(type="service.resumed", service=service, facts={"by": "environment"})
            AuditEntry.objects.record("environment", "service.resumed", service.name)
        change = f"{service.name}: resumed, {variable} is set again"
    return change


def service_name(variable: str) -> str:
    """Derive the service's name: SWITCHBOARD_SERVICE_BILLING_EU_URL is for billing-eu."""
    match = VARIABLE.match(variable)
    return match[1].lower().replace("_", "-") if match else ""
