"""Send a message by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.contrib import messages as toasts
from django.db import transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from dashboard.access import actor, operator
from dashboard.form_submission import fresh_key, submit_once
from dashboard.forms.prefill import from_query
from dashboard.forms.request import SendForm
from dashboard.responses import see_other
from integrations.models import AuditEntry, Message


@operator
@require_http_methods(["GET", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        return submit_once(request, lambda: _send(request))
    return _send_form(request, SendForm(initial=_initial(request.GET)))


def _initial(query: QueryDict) -> dict[str, Any]:
    """A message for an endpoint has its path from there, one that repeats a call has the path of that call."""
    values = from_query(query)
    left_out = ("method", "path", "query", "headers") if "endpoint" in query else ("endpoint",)
    return {name: value for name, value in values.items() if name not in left_out}


def _send(request: HttpRequest) -> HttpResponse:
    form = SendForm(request.POST)
    message = sent(request, form)
    if message is None:
        return _send_form(request, form, status=422)
    toasts.success(request, f"Queued for {form.chosen_service}.")
    return see_other("message", message.public_id)


def sent(request: HttpRequest, form: SendForm) -> Message | None:
    """The accepted message; None, with the errors at their fields, if it is refused."""
    data = form.message_in()
    draft = form.draft(data) if data else None
    if draft is None:
        return None
    with transaction.atomic():
        message = Message.objects.accept([replace(draft, created_by=actor(request))])[0]
        facts = {"service": draft.service.name, "method": draft.method, "path": draft.path}
        AuditEntry.objects.record(actor(request), "message.sent", message.public_id, after=facts)
    return message


def _send_form(request: HttpRequest, form: SendForm, status: int = 200) -> HttpResponse:
    key = request.POST.get("form_key") or fresh_key()
    return render(request, "messages/new.html", {"form": form, "form_key": key}, status=status)
