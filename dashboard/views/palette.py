"""Search of the command palette: services and actions on them, settings, and the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.http import HttpRequest, JsonResponse
from django.urls import reverse

from dashboard.access import person, viewer
from dashboard.presenters import documents
from integrations.models import Account, Role, Service, ServiceStatus

FOUND = 8  # services in the palette, next to the pages and the actions of the open page
SHORTEST = 3  # letters of a verb without a name, or of a word of the documentation
ACTIONS = {  # verb: its page, and the status that it requires
    "edit": ("service-edit", ""),
    "pause": ("service-pause", ServiceStatus.ACTIVE),
    "resume": ("service-resume", ServiceStatus.PAUSED),
    "override": ("breaker-override", ""),
    "backtest": ("service-try", ""),
    "delete": ("service-delete", ""),
}


@dataclass(frozen=True, slots=True)
class Errand:
    """An action or a setting with its page, and further words that a person may type."""

    words: str
    page: str
    role: Role = Role.VIEWER
    also: str = ""


ERRANDS = (
    Errand("Register a service", "service-new", Role.OPERATOR, "add new create"),
    Errand("Send a message", "message-new", Role.OPERATOR, "new queue test"),
    Errand("Call a service by hand", "lab", Role.OPERATOR, "test curl request try"),
    Errand("Get started", "start", also="first steps sandbox demo begin"),
    Errand("Create a token", "token-new", Role.ADMIN, "api key secret access"),
    Errand("Change the retention", "retention", Role.ADMIN, "history delete days keep prune"),
    Errand("Schedule backups", "backups", Role.ADMIN, "backup restore dump copy"),
    Errand("Add a person", "person-new", Role.ADMIN, "user account invite role"),
    Errand("People and tokens", "settings", Role.ADMIN, "settings users api accounts"),
    Errand("Change your password", "password", also="account sign in"),
    Errand("Documentation", "docs", also="docs help manual guide"),
    Errand("API reference", "api:openapi-view", also="docs openapi swagger rest"),
)
# The action verbs of a service that an admin alone may use.
FOR_ADMINS = {"delete"}


@viewer
def palette(request: HttpRequest) -> JsonResponse:
    """Find services by a part of their name, actions on them (“pause bill”, or “pause” alone), settings and sections of
    the documentation. Returns ``{"services": [{"name", "kind", "url"}]}``."""
    text = request.GET.get("q", "").strip().lower()[:80]
    found = [
        *(_choice(name, "Service", reverse("service", args=[name])) for name in _named(text)),
        *_errands(text, person(request)),
        *_actions(text, person(request)),
        *_documentation(text),
    ]
    return JsonResponse({"services": found}, headers={"Cache-Control": "no-store"})


def _errands(text: str, who: Account) -> Iterator[dict[str, str]]:
    words = text.split()
    for errand in ERRANDS:
        known = f"{errand.words} {errand.also}".lower()
        if words and who.may(errand.role) and all(word in known for word in words):
            yield _choice(errand.words, "Action", reverse(errand.page)) | {"also": errand.also}


def _actions(text: str, who: Account) -> Iterator[dict[str, str]]:
    verb, _, rest = text.partition(" ")
    if not (rest or len(verb) >= SHORTEST) or not who.may(Role.OPERATOR):
        return
    for action, (page, status) in ACTIONS.items():
        if not action.startswith(verb) or (action in FOR_ADMINS and not who.may(Role.ADMIN)):
            continue
        for name in _named(rest.strip(), status):
            yield _choice(f"{action.capitalize()} {name}", "Action", reverse(page, args=[name]))


def _documentation(text: str) -> Iterator[dict[str, str]]:
    if len(text) < SHORTEST:
        return
    for place in documents.found(text):
        anchor = f"#{place.anchor}" if place.anchor else ""
        yield _choice(place.title, "Docs", reverse("document", args=[place.document]) + anchor)


def _named(text: str, status: str = "") -> list[str]:
    services = Service.objects.filter(name__icontains=text).order_by("name")
    if status:
        services = services.filter(status=status)
    return list(services.values_list("name", flat=True)[:FOUND])


def _choice(name: str, kind: str, url: str) -> dict[str, str]:
    return {"name": name, "kind": kind, "url": url}
