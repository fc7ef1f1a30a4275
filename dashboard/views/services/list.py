"""The list of services, with search."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.db.models import Case, IntegerField, Q, QuerySet, TextField, When
from django.db.models.functions import Cast
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.service_stats import standings
from integrations.models import Service, ServiceStatus

PAGE = 100
TROUBLE_FIRST = Case(
    When(runtime__state="open", then=0),
    When(runtime__state="half_open", then=1),
    When(status=ServiceStatus.PAUSED, then=2),
    default=3,
    output_field=IntegerField(),
)


@viewer
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "services/services.html", _listing_context(request))


@viewer
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "services/_listing.html", _listing_context(request))


def _listing_context(request: HttpRequest) -> dict[str, Any]:
    search = request.GET.get("q", "").strip()[:200]
    found = _found(search)
    total = found.count()
    page = found.order_by(TROUBLE_FIRST, "name")[:PAGE]
    return {
        "search": search,
        "panel_url": reverse("_services") + (f"?{urlencode({'q': search})}" if search else ""),
        "standings": sorted(standings(page, timezone.now()), key=lambda standing: standing.rank),
        "total": total,
        "limit": PAGE,
    }


def _found(search: str) -> QuerySet[Service]:
    services = Service.objects.all()
    if not search:
        return services
    return services.annotate(tag_text=Cast("tags", TextField())).filter(
        Q(name__icontains=search)
        | Q(base_url__icontains=search)
        | Q(owner__icontains=search)
        | Q(description__icontains=search)
        | Q(tag_text__icontains=search)
    )
