"""Save and delete views: the filters of the list of messages under a name."""

from __future__ import annotations

from urllib.parse import urlencode

from django.contrib import messages as toasts
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.urls import reverse
from django.views.decorators.http import require_POST

from dashboard.access import person, viewer
from dashboard.forms.message_filters import filters_of
from dashboard.responses import see_other
from integrations.models import Role, SavedView
from integrations.models.saved_view import VIEWS_LIMIT


@viewer
@require_POST
def save_view(request: HttpRequest) -> HttpResponse:
    """Keeps the list's filters under a name; one's own view of that name is replaced. Operators may share theirs."""
    filters = urlencode(filters_of(QueryDict(request.POST.get("filters", ""))))
    name = " ".join(request.POST.get("name", "").split())
    shared = "shared" in request.POST
    if shared and not person(request).may(Role.OPERATOR):
        raise PermissionDenied(f"Sharing a view needs the {Role.OPERATOR} role; yours is {person(request).role}.")
    own = SavedView.objects.filter(account=person(request))
    if not filters or not name or len(name) > NAME_LIMIT or len(filters) > QUERY_LIMIT:
        toasts.error(request, f"Not saved: a view has a name of up to {NAME_LIMIT} characters, and filters.")
    elif own.exclude(name=name).count() >= VIEWS_LIMIT:
        toasts.error(request, f"Not saved: you have {VIEWS_LIMIT} views; delete one first.")
    else:
        own.update_or_create(account=person(request), name=name, defaults={"query": filters, "shared": shared})
        toasts.success(request, f"Saved as “{name}”.")
    return see_other(f"{reverse('messages')}?{filters}")


NAME_LIMIT = 60
QUERY_LIMIT = 2000


@viewer
@require_POST
def delete_view(request: HttpRequest, pk: int) -> HttpResponse:
    """One's own, or, for operators, one that is shared."""
    view = SavedView.objects.shown_to(person(request)).filter(pk=pk).first()
    if view is None:
        raise Http404("There is no such view.")
    if view.account_id != person(request).pk and not person(request).may(Role.OPERATOR):
        raise PermissionDenied(f"Deleting a view of somebody else needs the {Role.OPERATOR} role.")
    view.delete()
    toasts.success(request, f"“{view.name}” is deleted.")
    return see_other(f"{reverse('messages')}?{view.query}")
