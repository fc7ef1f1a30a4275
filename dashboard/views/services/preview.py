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
from integrations.models import Service
from integrations.registration import registry


def previews(given: QueryDict | None, present: dict[str, Any] | None) -> dict[str, Callable[[], PolicyPreview]]:
    """Previews by group, each computed only when a template renders it: most forms show none."""
    return {group: partial(_preview, group, given, present) for group in ("retries", "breaker")}


def _preview(group: str, given: Any, present: dict[str, Any] | None) -> PolicyPreview:
    """``given``: the submitted form, or None for the ``present`` settings (None: the defaults)."""
    form = policy_form(given, present, group)
    if errors := form.labelled_errors:
        return PolicyPreview(group, errors=errors)
    return retry_preview(form.retry) if group == "retries" else breaker_preview(form.breaker)


@operator
@require_POST
def preview_panel(request: HttpRequest, group: str) -> HttpResponse:
    """The preview of one group while the operator types."""
    context = {"preview": _preview(group, request.POST, None)}
    return render(request, "services/_preview.html", context)


@operator
@require_POST
def preview_new(request: HttpRequest) -> HttpResponse:
    """The previews of both groups as a page, for a browser without JavaScript."""
    return render(
        request, "services/try.html", {"previews": [preview() for preview in previews(request.POST, None).values()]}
    )


@operator
def try_out(request: HttpRequest, name: str) -> HttpResponse:
    """A page with the backtest of the submitted form, or of the current settings, on the last day. A busy day takes a
    moment, so a page that was opened by a link fetches the backtest after it has loaded."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    given = posted(request)
    waits = given is None and "now" not in request.GET
    context = {
        "service": service,
        "previews": [preview() for preview in previews(given, registry.configuration(service)).values()],
        "waits": waits,
    }
    return render(request, "services/try.html", context if waits else context | _backtest_context(service, given))


@operator
def backtest_panel(request: HttpRequest, name: str) -> HttpResponse:
    """The backtest alone, for the form and for its own page."""
    service = get_object_or_404(Service.objects.select_related("runtime"), name=name)
    return render(request, "services/_backtest.html", _backtest_context(service, posted(request)))


def _backtest_context(service: Service, given: QueryDict | None) -> dict[str, Any]:
    form = policy_form(given, registry.configuration(service), "retries", "breaker")
    if form.labelled_errors:
        return {"service": service, "errors": form.labelled_errors}
    return {"service": service, "report": backtest_report(service, form.breaker, form.retry)}
