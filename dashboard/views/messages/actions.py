"""Cancel a message, or retry it now."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_POST

from dashboard.access import actor, operator
from dashboard.responses import see_other
from dashboard.views.messages.lookup import message_or_404
from integrations.errors import Conflict
from integrations.operators import traffic


@operator
@require_POST
def cancel(request: HttpRequest, public_id: str) -> HttpResponse:
    return _act(request, public_id, traffic.cancel, "Cancelled.", "Not cancelled")


@operator
@require_POST
def retry_now(request: HttpRequest, public_id: str) -> HttpResponse:
    return _act(
        request,
        public_id,
        traffic.retry_now,
        "Due now. It is sent as soon as the service may be called.",
        "Not retried",
    )


def _act(request: HttpRequest, public_id: str, verb: Callable[..., None], done: str, refused: str) -> HttpResponse:
    message = message_or_404(public_id)
    try:
        verb(message, actor=actor(request))
    except Conflict as conflict:
        toasts.error(request, f"{refused}: {conflict}.")
    else:
        toasts.success(request, done)
    return see_other("message", message.public_id)
