"""Recent calls of a service, of every kind, and one call that was made without a message."""

from __future__ import annotations

from django.db.models import QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.presenters.curl import as_curl
from dashboard.presenters.pagination import page
from integrations.delivery.direct_call import calls_in_flight
from integrations.models import Attempt, Service, Trigger
from integrations.search.pages import SCAN_LIMIT

PAGE = 50
MESSAGE = "message"  # the kind of all calls that deliver messages
KINDS = {
    MESSAGE: "For messages",
    Trigger.PROCESS.value: "Process",
    Trigger.HEALTH.value: "Health",
    Trigger.LAB.value: "Lab",
}
COLUMNS = (
    "nonce", "number", "trigger", "actor", "started_at", "duration", "outcome", "fault", "status_code", "method", "url",
    "endpoint__name", "message__nonce",
)  # fmt: skip


@viewer
@require_GET
def listing(request: HttpRequest, name: str) -> HttpResponse:
    service = get_object_or_404(Service, name=name)
    kind = request.GET.get("trigger", "")
    kind = kind if kind in KINDS else ""
    calls = _of_kind(service, kind).select_related("endpoint", "message").only(*COLUMNS)
    context = {
        "service": service,
        "page": page(calls, request.GET.get("cursor", ""), PAGE),
        "kind": kind,
        "kinds": KINDS,
        "searched": SCAN_LIMIT if kind in (MESSAGE, Trigger.PROCESS, Trigger.LAB) else 0,
        "in_flight": calls_in_flight(service),
    }
    return render(request, "services/calls.html", context)


def _of_kind(service: Service, kind: str) -> QuerySet[Attempt]:
    """The calls of a service; health checks and all kinds together have an index, the others are searched among its
    newest SCAN_LIMIT calls."""
    calls = Attempt.objects.filter(service=service)
    if not kind:
        return calls
    if kind == Trigger.HEALTH:
        return calls.filter(trigger=kind)
    end = calls.order_by("-pk").values("pk")[SCAN_LIMIT : SCAN_LIMIT + 1]
    newest = calls.filter(pk__gt=Coalesce(Subquery(end), 0))
    return newest.filter(message__isnull=False) if kind == MESSAGE else newest.filter(message=None, trigger=kind)


@viewer
@require_GET
def detail(request: HttpRequest, name: str, public_id: str) -> HttpResponse:
    calls = Attempt.objects.filter(service__name=name).select_related("service", "endpoint", "message")
    call = calls.by_public_id(public_id)
    if call is None:
        raise Http404("This service has no call with this ID. It may have been pruned.")
    if call.message is not None:
        return redirect(f"{resolve_url('message', call.message.public_id)}#attempt-{call.number}")
    body = bytes(call.request_body or b"")
    context = {
        "service": call.service,
        "call": call,
        "is_in_flight": call.pk in calls_in_flight(call.service),
        "request_body": body,
        "curl": as_curl(call.method, call.url, call.request_headers, body) if call.url else "",
    }
    return render(request, "services/call.html", context)
