"""Live counts in the sidebar: services that are down, and failure groups that need attention."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from dashboard import live
from dashboard.access import viewer


@viewer
def trouble_panel(request: HttpRequest) -> HttpResponse:
    """The number of services that are down. It also keeps title and icon current on pages without a panel."""
    return live.panel(request, "_partials/trouble.html", {})


@viewer
@require_GET
def failing_panel(request: HttpRequest) -> HttpResponse:
    """The number of open failure groups."""
    return live.panel(request, "_partials/failing.html", {})
