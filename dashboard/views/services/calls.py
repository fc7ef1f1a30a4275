"""Calls of a service without a message: direct calls through POST /process, health checks, and lab calls."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.presenters.curl import as_curl
from dashboard.presenters.pagination import page
from integrations.delivery.direct_call import calls_in_flight
from integrations.models import Attempt, Service, Trigger

PAGE = 50
TRIGGERS = (Trigger.PROCESS, Trigger.HEALTH, Trigger.LAB)


@viewer
@require_GET
def listing(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    calls = Attempt.objects.without_message().filter(service=service)
    trigger = request.GET.get("trigger", "")
    if trigger in TRIGGERS:
        calls = calls.filter(trigger=trigger)
    only = calls.select_related("endpoint").only(
        "nonce", "trigger", "actor", "started_at", "duration", "outcome", "fault", "status_code", "method", "url",
        "endpoint__name",
    )  # fmt: skip
    context = {
        "service": service,
        "page": page(only, request.GET.get("cursor", ""), PAGE),
        "trigger": trigger if trigger in TRIGGERS else "",
        "triggers": TRIGGERS,
        "in_flight": calls_in_flight(service),
    }
    return render(request, "services/calls.html", context)


@viewer
@require_GET
def detail(request: HttpRequest, name: str, public_id: str) -> HttpResponse:
    calls = Attempt.objects.without_message().filter(service__name=name).select_related("service", "endpoint")
    call = calls.by_public_id(public_id)
    if call is None:
        raise Http404("This service has no call with this ID. It may have been pruned.")
    body = bytes(call.request_body or b"")
    context = {
        "service": call.service,
        "call": call,
        "is_in_flight": call.pk in calls_in_flight(call.service),
        "request_body": body,
        "curl": as_curl(call.method, call.url, call.request_headers, body) if call.url else "",
    }
    return render(request, "services/call.html", context)
