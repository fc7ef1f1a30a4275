"""The lab: preview a call to a service, make it, inspect it, repeat it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import messages as toasts
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from dashboard.access import actor, operator, viewer
from dashboard.form_submission import fresh_key, submit_once_unlocked
from dashboard.forms.curl import read_curl
from dashboard.forms.prefill import UnknownHost, from_attempt, from_curl, from_query
from dashboard.forms.request import LabForm, endpoints_of
from dashboard.presenters.bodies import chosen_view
from dashboard.presenters.comparisons import differing_parts
from dashboard.presenters.curl import as_curl
from dashboard.presenters.pagination import CursorPage, page
from dashboard.responses import see_other
from integrations.delivery import lab_call, unqueued_call
from integrations.models import Attempt, Certificate, Endpoint, Result

HISTORY = 20
LONGEST_CALL = timedelta(seconds=330)
OFFERED = 30  # calls to compare with
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
    except UnknownHost as unknown:
        return _lab_page(request, LabForm(initial={"method": "GET"}), command=command, unknown=unknown, status=422)
    except ValueError as error:
        toasts.error(request, f"{error}.")
        return _lab_page(request, LabForm(initial={"method": "GET"}), command=command, status=422)
    if call.left_out:
        toasts.info(request, f"Left out: {', '.join(call.left_out)}. The service adds its own authentication.")
    return _lab_page(request, form)


def _run(request: HttpRequest, lab_request: lab_call.LabRequest) -> HttpResponse:
    return see_other("lab-result", lab_call.run(lab_request, actor=actor(request)).public_id)


@operator
@require_POST
def cancel(request: HttpRequest) -> HttpResponse:
    """Close the connections of this person's lab calls that are in flight."""
    if unqueued_call.cancel_lab_calls(actor(request)):
        toasts.info(request, "Cancelled: the connection is closed within half a second.")
    else:
        toasts.info(request, "No lab call of yours is in flight.")
    return see_other("lab")


def _already_in_flight(request: HttpRequest) -> HttpResponse:
    toasts.warning(request, "This call is already in flight. Its result will appear in the history.")
    return see_other("lab")


def _lab_page(
    request: HttpRequest,
    form: LabForm,
    *,
    preview: lab_call.RequestPreview | None = None,
    command: str = "",
    unknown: UnknownHost | None = None,
    attempt: Attempt | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {
        "unknown": unknown,
        **(_result(request, attempt) if attempt else {}),
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
    recent = timezone.now() - LONGEST_CALL
    return {
        "history": shown.rows,
        "page": shown,
        # Without JavaScript a call is cancelled from another tab.
        "is_calling": any(
            call.outcome == Result.LOST and call.actor == actor(request) and call.started_at > recent
            for call in shown.rows
        ),
    }


@viewer
@require_GET
def result(request: HttpRequest, public_id: str) -> HttpResponse:
    attempt = Attempt.objects.from_lab().select_related("service", "endpoint").by_public_id(public_id)
    if attempt is None:
        raise Http404("There is no lab call with this ID. It may have been pruned.")
    return _lab_page(request, LabForm(initial=from_attempt(attempt)), attempt=attempt)


def _result(request: HttpRequest, attempt: Attempt) -> dict[str, Any]:
    body, wanted = bytes(attempt.request_body or b""), request.GET.get("with", "").strip()
    other = Attempt.objects.select_related("message__content").by_public_id(wanted) if wanted else None
    return {
        "attempt": attempt,
        "response_body": bytes(attempt.response_body),
        "request_body": body,
        "view": chosen_view(request.GET.get("view")),
        "certificate": Certificate.objects.for_url(attempt.service.base_url),
        "curl": as_curl(attempt.method, attempt.url, attempt.request_headers, body),
        "compared": wanted,
        "other": other,
        "differences": differing_parts(other, attempt) if other else [],
        "others": _others(attempt),
    }


def _others(attempt: Attempt) -> list[Attempt]:
    """The newest calls of the service, of any kind, to compare with."""
    calls = Attempt.objects.filter(service=attempt.service).exclude(pk=attempt.pk).newest_first()
    return list(calls.only("nonce", "method", "url", "status_code", "fault", "started_at", "trigger")[:OFFERED])


@viewer
@require_GET
def endpoints(request: HttpRequest) -> HttpResponse:
    """Suggestions for the endpoint field after a change of the service."""
    found = endpoints_of(request.GET.get("service", "")[:63])
    return render(request, "lab/_endpoints.html", {"endpoints": found})
