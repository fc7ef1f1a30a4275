"""Preview retry and breaker settings before they are saved: in sentences, and by a backtest on the last day."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_POST

from dashboard.access import operator
from dashboard.forms.service import policy_form
from dashboard.presenters.previews import PolicyPreview, backtest_report, breaker_preview, retry_preview
from dashboard.responses import posted
from integrations.models import (
    Service,
)


def previews(given: QueryDict | None, service: Service | None) -> dict[str, Callable[[], PolicyPreview]]:
    """By group, each made when a template comes to it: most forms show none."""
    return {group: partial(_preview, group, given, service) for group in ("retries", "breaker")}


def _preview(group: str, given: Any, service: Service | None) -> PolicyPreview:
    """``given`` is what a form sent, None for the settings in force (the defaults for a service that is not saved)."""
    form = policy_form(given, service, group)
    if errors := form.complaints:
        return PolicyPreview(group, errors=errors)
    return retry_preview(form.retry) if group == "retries" else breaker_preview(form.breaker)


@operator
@require_POST
def preview_panel(request: HttpRequest, group: str) -> HttpResponse:
    """One group of the form's present values in words, while somebody types."""
    context = {"preview": _preview(group, request.POST, None)}
    return render(request, "services/_preview.html", context)


@operator
@require_POST
def preview_new(request: HttpRequest) -> HttpResponse:
    """The same for both groups as a page: what the form's button opens without JavaScript."""
    return render(request, "services/try.html", {"previews": [one() for one in previews(request.POST, None).values()]})


@operator
def try_out(request: HttpRequest, name: str) -> HttpResponse:
    """The form's present values, or what is in force, tried on the last day: a page. A busy day takes a moment to try,
    so a page that was only followed to has it fetched."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    given = posted(request)
    waits = given is None and "now" not in request.GET
    context = {"service": service, "previews": [one() for one in previews(given, service).values()], "waits": waits}
    return render(request, "services/try.html", context if waits else context | _backtest_context(service, given))


@operator
def backtest_panel(request: HttpRequest, name: str) -> HttpResponse:
    """The trial alone, for the form and for that page."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    return render(request, "services/_backtest.html", _backtest_context(service, posted(request)))


def _backtest_context(service: Service, given: QueryDict | None) -> dict[str, Any]:
    form = policy_form(given, service, "retries", "breaker")
    if form.complaints:
        return {"service": service, "errors": form.complaints}
    return {"service": service, "report": backtest_report(service, form.breaker, form.retry)}
