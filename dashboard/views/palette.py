"""Search of the command palette: services, and actions on them."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import reverse

from dashboard.access import person, viewer
from integrations.models import Role, Service, ServiceStatus

FOUND = 8  # services in the palette, next to the pages and the actions of the open page
ACTIONS = {  # verb: its page, and the status that it requires
    "edit": ("service-edit", ""),
    "pause": ("service-pause", ServiceStatus.ACTIVE),
    "resume": ("service-resume", ServiceStatus.PAUSED),
    "override": ("breaker-override", ""),
    "backtest": ("service-try", ""),
}


@viewer
def palette(request: HttpRequest) -> JsonResponse:
    """Find services by a part of their name, and actions on them (“pause bill”). Returns ``{"services": [{"name",
    "kind", "url"}]}``."""
    text = request.GET.get("q", "").strip().lower()[:80]
    found = [_choice(name, "Service", reverse("service", args=[name])) for name, _ in _named(text)]
    verb, _, rest = text.partition(" ")
    if rest and person(request).may(Role.OPERATOR):
        for action, (page, status) in ACTIONS.items():
            if action.startswith(verb):
                found += [
                    _choice(f"{action.capitalize()} {name}", "Action", reverse(page, args=[name]))
                    for name, its_status in _named(rest.strip())
                    if status in ("", its_status)
                ]
    return JsonResponse({"services": found}, headers={"Cache-Control": "no-store"})


def _named(text: str) -> list[tuple[str, str]]:
    services = Service.objects.filter(name__icontains=text).order_by("name")
    return list(services.values_list("name", "status")[:FOUND])


def _choice(name: str, kind: str, url: str) -> dict[str, str]:
    return {"name": name, "kind": kind, "url": url}
