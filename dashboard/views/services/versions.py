"""The history of a service's settings, and the way back to an earlier version."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render

from dashboard.access import actor, operator, person
from dashboard.responses import see_other
from dashboard.views.audit import changes
from integrations.errors import Conflict, Invalid
from integrations.models import Role, Service
from integrations.registration import registry, versions


@operator
def history(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    entries = [(entry, changes(entry.before, entry.after)) for entry in versions.entries(service)]
    return render(request, "services/history.html", {"service": service, "entries": entries})


@operator
def restore(request: HttpRequest, name: str, pk: int) -> HttpResponse:
    """Show what an earlier version changes, then change it."""
    service = get_object_or_404(Service, name=name)
    if (version := versions.version(service, pk)) is None:
        raise Http404
    if request.method == "POST":
        try:
            versions.restore(service, pk, actor=actor(request), may_allow_private=person(request).may(Role.ADMIN))
        except Conflict as conflict:
            messages.error(request, f"Not restored: {conflict}.")
        except Invalid as refusal:
            messages.error(request, f"Not restored: {'; '.join(text for _, text in refusal.errors)}.")
        else:
            messages.success(request, f"{service.name} has its earlier settings again, from the next call on.")
            return see_other("service", service.name)
        return see_other("service-history", service.name)
    present = registry.masked(registry.configuration(service))
    now = {name: present[name] for name in version.settings}
    context = {
        "service": service,
        "version": version,
        "changes": changes(now, now | registry.masked(version.settings)),
    }
    return render(request, "services/restore.html", context)
