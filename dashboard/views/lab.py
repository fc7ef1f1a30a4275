"""The lab: preview a call to a service, make it, inspect it, repeat it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as toasts
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_http_methods

from dashboard.access import actor, operator, viewer
from dashboard.form_submission import fresh_key, submit_once_unlocked
from dashboard.forms.curl import read_curl
from dashboard.forms.prefill import from_curl, from_query
from dashboard.forms.request import LabForm, endpoints_of
from dashboard.presenters.bodies import chosen_view
from dashboard.presenters.curl import as_curl
from dashboard.presenters.pagination import CursorPage, page
from dashboard.responses import see_other
from integrations.delivery import lab_call
from integrations.models import Attempt, Certificate, Endpoint

HISTORY = 20
ENDPOINTS_OFFERED = 300


@viewer
@require_http_methods(["GET", "POST"])
def lab(request: HttpRequest) -> HttpResponse:
    if "curl" in request.POST:
        return _from_curl(request)
    if request.method == "POST":
        return _call(request)
    start = {"method": "GET", **{name: value for name, value in from_query(request.GET).items() if value}}
    if not any(request.GET.get(name) for name in ("message", "attempt", "endpoint", "method")):
        start["method"] = "GET"
    return _lab_page(request, LabForm(initial=start))


@operator
def _call(request: HttpRequest) -> HttpResponse:
    form = LabForm(request.POST)
    lab_request = form.request()
    if lab_request is None:
        return _lab_page(request, form, status=422)
    if "preview" in request.POST:
        try:
            return _lab_page(request, form, preview=lab_call.preview(lab_request))
        except ValueError as error:
            form.add_error(None, f"The request cannot be built: {error}.")
            return _lab_page(request, form, status=422)
    return submit_once_unlocked(request, lambda: _run(request, lab_request), lambda: _already_in_flight(request))


@operator
def _from_curl(request: HttpRequest) -> HttpResponse:
    """Fill in the form from a curl command. Sends nothing."""
    command = request.POST["curl"]
    try:
        call = read_curl(command)
        form = LabForm(initial=from_curl(call))
    except ValueError as error:
        toasts.error(request, f"{error}.")
        return _lab_page(request, LabForm(initial={"method": "GET"}), command=command, status=422)
    if call.left_out:
        toasts.info(request, f"Left out: {', '.join(call.left_out)}. The service adds its own authentication.")
    return _lab_page(request, form)


def _run(request: HttpRequest, lab_request: lab_call.LabRequest) -> HttpResponse:
    return see_other("lab-result", lab_call.run(lab_request, actor=actor(request)).public_id)


def _already_in_flight(request: HttpRequest) -> HttpResponse:
    toasts.warning(request, "This call is already in flight. Its result will appear in the history.")
    return see_other("lab")


def _lab_page(
    request: HttpRequest,
    form: LabForm,
    *,
    preview: lab_call.RequestPreview | None = None,
    command: str = "",
    status: int = 200,
) -> HttpResponse:
    context = {
        "form": form,
        "form_key": request.POST.get("form_key") or fresh_key(),
        "preview": preview,
        "command": command,
        "preview_curl": as_curl(preview.method, preview.url, preview.headers, preview.body) if preview else "",
        "known_endpoints": _known_endpoints(),
        **_history(request),
    }
    return render(request, "lab/lab.html", context, status=status)


def _known_endpoints() -> list[Endpoint]:
    known = Endpoint.objects.select_related("service").only("name", "method", "path", "service__name")
    return list(known.order_by("service__name", "name")[:ENDPOINTS_OFFERED])


def _history(request: HttpRequest) -> dict[str, Any]:
    calls = Attempt.objects.from_lab().select_related("service", "endpoint")
    only = calls.only(
        "nonce", "started_at", "duration", "outcome", "fault", "status_code", "actor", "method", "url",
        "service__name", "endpoint__name",
    )  # fmt: skip
    shown: CursorPage = page(only, request.GET.get("cursor", ""), HISTORY)
    return {"history": shown.rows, "page": shown}


@viewer
@require_GET
def result(request: HttpRequest, public_id: str) -> HttpResponse:
    attempt = Attempt.objects.from_lab().select_related("service", "endpoint").by_public_id(public_id)
    if attempt is None:
        raise Http404("There is no lab call with this ID. It may have been pruned.")
    body = bytes(attempt.request_body or b"")
    context = {
        "attempt": attempt,
        "response_body": bytes(attempt.response_body),
        "request_body": body,
        "view": chosen_view(request.GET.get("view")),
        "certificate": Certificate.objects.for_url(attempt.service.base_url),
        "curl": as_curl(attempt.method, attempt.url, attempt.request_headers, body),
        **_history(request),
    }
    return render(request, "lab/result.html", context)


@viewer
@require_GET
def endpoints(request: HttpRequest) -> HttpResponse:
    """Suggestions for the endpoint field after a change of the service."""
    found = endpoints_of(request.GET.get("service", "")[:63])
    return render(request, "lab/_endpoints.html", {"endpoints": found})
