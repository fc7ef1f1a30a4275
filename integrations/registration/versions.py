"""Earlier versions of a service's settings, read from the audit log, and their restoration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from integrations.errors import Conflict
from integrations.models import AuditEntry, Service
from integrations.outbound.redaction import MASK
from integrations.registration import registry
from integrations.schemas.service import ServiceIn

LISTED = 50
# Secrets are not in the audit log, and another address or environment variable clears them: both stay as they are.
LEFT_ALONE = ("name", "auth", "url_env")


@dataclass(frozen=True, slots=True)
class Version:
    """The settings after one change. ``left_alone``: those that differ now and that cannot be restored."""

    entry: AuditEntry
    settings: dict[str, Any]
    left_alone: tuple[str, ...]


def entries(service: Service) -> list[AuditEntry]:
    """The changes of a service's settings, newest first, down to its registration: an earlier one had the same name."""
    changes = AuditEntry.objects.filter(target=service.name, action__in=("service.created", "service.changed"))
    found: list[AuditEntry] = []
    for entry in changes.order_by("-pk")[:LISTED]:
        found.append(entry)
        if entry.action == "service.created":
            break
    return found


def version(service: Service, pk: int) -> Version | None:
    """The settings after the change ``pk`` that differ from the present ones; None if it is not in the log."""
    present = registry.masked(registry.configuration(service))
    settings = dict(present)
    for entry in entries(service):
        if entry.pk == pk:
            differing = {name: value for name, value in settings.items() if value != present.get(name)}
            fixed = tuple(name for name in differing if name in LEFT_ALONE or MASK in json.dumps(differing[name]))
            kept = {name: _as_given(name, value) for name, value in differing.items() if name not in fixed}
            return Version(entry, kept, fixed)
        settings |= entry.before
    return None


def restore(service: Service, pk: int, *, actor: str, may_allow_private: bool) -> Service:
    """Give a service the settings that it had after the change ``pk``. Raises Conflict, and Invalid if a rule of today
    refuses them."""
    found = version(service, pk)
    if found is None:
        raise Conflict("this version is no longer in the audit log")
    if not found.settings:
        raise Conflict("the service has these settings already")
    address = {"base_url": service.base_url} if "base_url" not in found.settings else {}
    data = ServiceIn.model_validate({"name": service.name, **address, **found.settings})
    return registry.change(service, data, set(found.settings), actor=actor, may_allow_private=may_allow_private)


def _as_given(name: str, value: Any) -> Any:
    """A setting without the facts that Switchboard adds to it."""
    added = {"signing": ("public_key",), "network": registry.NETWORK_FACTS}.get(name, ())
    return {key: part for key, part in value.items() if key not in added} if added else value
