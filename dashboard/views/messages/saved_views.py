"""Save and delete views: the filters of the list of messages under a name."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages as toasts
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.urls import reverse
from django.views.decorators.http import require_POST

from dashboard.access import actor, person, viewer
from dashboard.forms.message_filters import filters_of
from dashboard.responses import see_other
from integrations.models import AuditEntry, Role, SavedView
from integrations.models.saved_view import VIEWS_LIMIT


@viewer
@require_POST
def save_view(request: HttpRequest) -> HttpResponse:
    """Save the list's filters under a name, or replace the own view of that name. Operators may share theirs."""
    filters = urlencode(filters_of(QueryDict(request.POST.get("filters", ""))))
    name = " ".join(request.POST.get("name", "").split())
    shared = "shared" in request.POST
    if shared and not person(request).may(Role.OPERATOR):
        raise PermissionDenied(f"Sharing a view needs the {Role.OPERATOR} role. Yours is {person(request).role}.")
    own = SavedView.objects.filter(account=person(request))
    if not filters or not name or len(name) > NAME_LIMIT or len(filters) > QUERY_LIMIT:
        toasts.error(request, f"Not saved. Enter a name of up to {NAME_LIMIT} characters, and set a filter.")
    elif own.exclude(name=name).count() >= VIEWS_LIMIT:
        toasts.error(request, f"Not saved. You already have {VIEWS_LIMIT} views. Delete one first.")
    else:
        with transaction.atomic():
            before = _facts(own.select_for_update().filter(name=name).first())
            view, _ = own.update_or_create(
                account=person(request), name=name, defaults={"query": filters, "shared": shared}
            )
            _record_if_shared(request, "view.saved", name, before, _facts(view))
        toasts.success(request, f"View “{name}” saved.")
    return see_other(f"{reverse('messages')}?{filters}")


NAME_LIMIT = 60
QUERY_LIMIT = 2000


@viewer
@require_POST
def delete_view(request: HttpRequest, pk: int) -> HttpResponse:
    """Delete an own view; operators may also delete shared ones."""
    view = SavedView.objects.shown_to(person(request)).filter(pk=pk).first()
    if view is None:
        raise Http404("There is no such view.")
    if view.account_id != person(request).pk and not person(request).may(Role.OPERATOR):
        raise PermissionDenied(f"Deleting another user's view needs the {Role.OPERATOR} role.")
    with transaction.atomic():
        _record_if_shared(request, "view.deleted", view.name, _facts(view), {})
        view.delete()
    toasts.success(request, f"View “{view.name}” deleted.")
    return see_other(f"{reverse('messages')}?{view.query}")


def _facts(view: SavedView | None) -> dict[str, Any]:
    return {"filters": view.query, "shared": view.shared} if view else {}


def _record_if_shared(
    request: HttpRequest, action: str, name: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Own views concern their owner only; others see a shared one."""
    if before.get("shared") or after.get("shared"):
        AuditEntry.objects.record(actor(request), action, f"view {name}", before=before, after=after)
