"""What stands around every page: how many services are down, and what the command palette finds."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import reverse

from dashboard import live
from dashboard.access import viewer
from integrations.models import Service

FOUND = 8  # services in the palette, beside the pages and what can be done on this one


@viewer
def trouble_panel(request: HttpRequest) -> HttpResponse:
    """The rail's count of services that are down. It keeps title and icon current on pages without a panel, too."""
    return live.panel(request, "_partials/trouble.html", {})


@viewer
def palette(request: HttpRequest) -> JsonResponse:
    """Services by a part of their name: ``{"services": [{"name", "url"}]}``."""
    names = Service.objects.filter(name__icontains=request.GET.get("q", "")[:63]).order_by("name")
    found = [
        {"name": name, "url": reverse("service", args=[name])} for name in names.values_list("name", flat=True)[:FOUND]
    ]
    return JsonResponse({"services": found}, headers={"Cache-Control": "no-store"})
