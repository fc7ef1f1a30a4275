"""The first steps on one page: register a service, send it a message, see it delivered."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as toasts
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from dashboard import live
from dashboard.access import actor, admin, operator, person, viewer
from dashboard.form_submission import fresh_key, submit_once
from dashboard.forms.request import SendForm
from dashboard.forms.service import ServiceForm
from dashboard.responses import posted, see_other
from dashboard.views.messages.send import sent
from dashboard.views.services.edit import registered
from integrations.delivery import waiting
from integrations.models import Message, Role, Service
from integrations.registration import sandbox

FIRST_BODY = '{"hello": "world"}'


@viewer
def start(request: HttpRequest) -> HttpResponse:
    return _page(request)


@operator
@require_http_methods(["POST"])
def register(request: HttpRequest) -> HttpResponse:
    form = ServiceForm(request.POST, may_allow_private=person(request).may(Role.ADMIN))
    if service := registered(request, form):
        return see_other(f"{reverse('start')}?service={service.name}")
    return _page(request, service_form=form, status=422)


@admin
@require_http_methods(["POST"])
def add_sandbox(request: HttpRequest) -> HttpResponse:
    """Register the sandbox's receiver: it needs a loopback address, which only an admin may allow."""
    if service := sandbox.add_receiver(actor(request)):
        return see_other(f"{reverse('start')}?service={service.name}")
    toasts.error(request, "The sandbox found no free port on 127.0.0.1.")
    return see_other("start")


@operator
@require_http_methods(["POST"])
def send(request: HttpRequest) -> HttpResponse:
    return submit_once(request, lambda: _send(request))


def _send(request: HttpRequest) -> HttpResponse:
    form = SendForm(request.POST)
    if message := sent(request, form):
        return see_other(f"{reverse('start')}?message={message.public_id}")
    return _page(request, send_form=form, status=422)


def _page(
    request: HttpRequest,
    *,
    service_form: ServiceForm | None = None,
    send_form: SendForm | None = None,
    status: int = 200,
) -> HttpResponse:
    message = _message(request)
    service = message.service if message else _service(request)
    first = {"service": service.name, "method": "POST", "path": "/", "body": FIRST_BODY} if service else {}
    context = {
        "service": None if service_form else service,
        "form": service_form or ServiceForm(posted(request), may_allow_private=person(request).may(Role.ADMIN)),
        "send_form": send_form or SendForm(initial=first),
        "form_key": fresh_key(),
        **_delivery(message),
    }
    context["address"] = context["form"].address
    context["send_form"].fields["body"].widget.attrs["rows"] = 4
    context["send_form"].fields["body"].help_text = ""
    return render(request, "start/start.html", context, status=status)


@viewer
def delivery_panel(request: HttpRequest) -> HttpResponse:
    if (message := _message(request)) is None:
        raise Http404
    return live.panel(request, "start/_delivery.html", _delivery(message))


def _message(request: HttpRequest) -> Message | None:
    return Message.objects.select_related("service__runtime", "content").by_public_id(request.GET.get("message", ""))


def _service(request: HttpRequest) -> Service | None:
    """The service that was just registered, or the newest."""
    name = request.GET.get("service") or request.POST.get("service", "")
    named = Service.objects.filter(name=name).first() if name else None
    return named or Service.objects.order_by("-pk").first()


def _delivery(message: Message | None) -> dict[str, Any]:
    if message is None:
        return {"message": None}
    return {
        "message": message,
        "attempt": message.attempt_rows.order_by("-pk").first(),
        "waiting": waiting.waiting_for(message, timezone.now()),
        "panel_url": f"{reverse('_start')}?message={message.public_id}",
    }
