"""Download the bodies of messages and attempts."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.responses import ExplainedNotFound
from dashboard.views.messages.lookup import message_or_404
from integrations.history import retention
from integrations.models import Attempt


@viewer
@require_GET
def body(request: HttpRequest, public_id: str) -> HttpResponse:
    message = message_or_404(public_id)
    return _download(bytes(message.content.body), f"{message.public_id}-body")


@viewer
@require_GET
def attempt_body(request: HttpRequest, public_id: str) -> HttpResponse:
    attempt = Attempt.objects.by_public_id(public_id)
    if attempt is None:
        raise ExplainedNotFound(f"There is no call {public_id[:50]}. {retention.explain_missing()}")
    if request.GET.get("part") == "request":
        return _download(bytes(attempt.request_body or b""), f"{attempt.public_id}-request")
    return _download(bytes(attempt.response_body), f"{attempt.public_id}-response")


def _download(content: bytes, name: str) -> HttpResponse:
    """An attachment that no browser renders, whatever content a sender or a service put into it."""
    try:
        content.decode()
        kind, ending = "text/plain; charset=utf-8", "txt"
    except UnicodeDecodeError:
        kind, ending = "application/octet-stream", "bin"
    return HttpResponse(
        content,
        content_type=kind,
        headers={
            "Content-Disposition": f'attachment; filename="{name}.{ending}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        },
    )
