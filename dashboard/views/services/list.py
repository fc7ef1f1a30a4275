"""The list of services: search, filters, order and pages."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.pagination import page_number
from dashboard.presenters.service_list import SORT_NAMES, ServiceFilters, listed, matching
from dashboard.presenters.service_stats import add_hours, standings_in_brief


@viewer
def listing(request: HttpRequest) -> HttpResponse:
    return render(request, "services/services.html", _listing_context(request))


@viewer
def listing_panel(request: HttpRequest) -> HttpResponse:
    return live.panel(request, "services/_listing.html", _listing_context(request))


def _listing_context(request: HttpRequest) -> dict[str, Any]:
    filters = ServiceFilters.of(request.GET.dict())
    now = timezone.now()
    by_latency = filters.sorted_by == "latency"
    found = listed(
        standings_in_brief(matching(filters.search), now, with_latency=by_latency), filters, page_number(request)
    )
    if not by_latency:
        add_hours(list(found.page.rows), now)
    query = filters.query(page=found.page.number if found.page.previous else "")
    return {
        "filters": filters,
        "sort_names": SORT_NAMES,
        "panel_url": reverse("_services") + (f"?{query}" if query else ""),
        "page": found.page,
        "previous_url": f"?{filters.query(page=found.page.previous)}",
        "next_url": f"?{filters.query(page=found.page.next)}",
        "standings": found.page.rows,
        "tabs": found.tabs,
        "columns": found.columns,
        "tags": found.tags,
    }
