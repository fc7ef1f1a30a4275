"""One message: its content, timeline, attempts and neighbours."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from dashboard import live
from dashboard.access import viewer
from dashboard.presenters.bodies import chosen_view
from dashboard.presenters.curl import as_curl
from dashboard.presenters.lines import as_lines
from dashboard.presenters.sentences import replay_warning
from dashboard.presenters.timeline import (
    ACTIONS,
    SERVICE_EVENTS,
    Window,
    cancel_impact,
    next_step,
    planned,
    retry_impact,
    timeline,
)
from dashboard.views.messages.lookup import message_or_404
from integrations.delivery import lab_call, waiting
from integrations.models import AuditEntry, Event, Message
from integrations.outbound.redaction import redacted_headers, redacted_query

ATTEMPTS_SHOWN = 20
ACTIONS_SHOWN = 50
EVENTS_SEARCHED = 1000  # of the service and of the types that are shown, newest first
EVENTS_SHOWN = 20
NEIGHBOURS_SEARCHED = 500  # messages of the service on each side
REPLAYS_SHOWN = 20
ATTEMPT_BODY_SHOWN = 16 * 1024  # of each attempt; the page shows many of them


@viewer
@require_GET
def detail(request: HttpRequest, public_id: str) -> HttpResponse:
    message = message_or_404(public_id)
    content = message.content
    context = {
        **_detail_context(request, message),
        "content": content,
        "content_headers": redacted_headers(content.headers.items(), message.service.secret_values),
        "query_text": as_lines(redacted_query(content.query), "="),
        "curl": _next_call_as_curl(message),
    }
    return render(request, "messages/detail.html", context)


@viewer
@require_GET
def detail_panel(request: HttpRequest, public_id: str) -> HttpResponse:
    """The live part of a message's page; 286 tells htmx to stop polling once nothing changes any more."""
    message = message_or_404(public_id)
    context = _detail_context(request, message)
    response = live.panel(request, "messages/_progress.html", context)
    if not context["is_live"] and response.status_code == 200:
        response.status_code = 286
    return response


def _detail_context(request: HttpRequest, message: Message) -> dict[str, Any]:
    now = timezone.now()
    view, window = chosen_view(request.GET.get("view")), _window(message, request.GET.get("before", ""))
    ahead, behind, head = _neighbours(message)
    actions = AuditEntry.objects.filter(target=message.public_id, action__in=ACTIONS).order_by("-pk")[:ACTIONS_SHOWN]
    newest = window.attempts[0] if window.attempts and not window.has_later else None
    replays = list(message.replays.newest_first()[:REPLAYS_SHOWN])
    shown = (message, message.replay_of, ahead, behind, head, *replays)
    Message.objects.add_standing([each for each in shown if each])
    state = {name: request.GET[name] for name in ("view", "before") if name in request.GET}
    return {
        "message": message,
        "is_live": not message.is_finished or (message.standing is not None and not message.standing.is_finished),
        "content_body": bytes(message.content.body),
        "download_url": reverse("message-body", args=[message.public_id]),
        "view": view,
        "waiting": waiting.waiting_for(message, now),
        "is_scheduled": message.next_attempt_at is not None and message.next_attempt_at > now,
        "planned": planned(message, newest, now),
        "next_step": next_step(message),
        "retry_impact": retry_impact(message, now),
        "cancel_impact": cancel_impact(message, behind is not None),
        "timeline": timeline(message, window, actions, _service_events(message, now)),
        "window": window,
        "newest": newest,
        "earlier": window.attempts[-1].number if window.has_earlier else None,
        "attempt_body_shown": ATTEMPT_BODY_SHOWN,
        "replay_warning": replay_warning(message),
        "replays": replays,
        "ahead": ahead,
        "behind": behind,
        "head": head,
        "panel_url": f"{reverse('_message', args=[message.public_id])}{'?' if state else ''}{urlencode(state)}",
    }


def _window(message: Message, before: str) -> Window:
    """The newest attempts, or those before the attempt with this number."""
    attempts = message.attempt_rows.order_by("-number", "-pk")
    has_later = before.isdecimal() and len(before) < 10
    if has_later:
        attempts = attempts.filter(number__lt=int(before))
    found = list(attempts[: ATTEMPTS_SHOWN + 1])
    return Window(found[:ATTEMPTS_SHOWN], has_earlier=len(found) > ATTEMPTS_SHOWN, has_later=has_later)


def _service_events(message: Message, now: datetime) -> QuerySet[Event]:
    """Events of the service during the message's life. Only its newest events of these types are searched, because
    their times have no index."""
    shown = Event.objects.filter(service=message.service_id, type__in=SERVICE_EVENTS)
    life = (message.created_at, message.finished_at or now)
    newest = shown.order_by("-pk").values("pk")[:EVENTS_SEARCHED]
    return Event.objects.filter(pk__in=newest, at__range=life).order_by("-pk")[:EVENTS_SHOWN]


def _neighbours(message: Message) -> tuple[Message | None, Message | None, Message | None]:
    """The messages right before and after this one in its ordering key, and the first unfinished one if it is ahead.
    An unfinished message has unfinished neighbours; those of a finished one are searched in a limited range."""
    if not message.ordering_key:
        return None, None, None
    same = Message.objects.filter(service=message.service_id, ordering_key=message.ordering_key)
    if message.is_finished:
        near = Message.objects.filter(service=message.service_id)
        before = near.filter(pk__lt=message.pk).order_by("-pk").values("pk")[:NEIGHBOURS_SEARCHED]
        after = near.filter(pk__gt=message.pk).order_by("pk").values("pk")[:NEIGHBOURS_SEARCHED]
        return (
            same.filter(pk__in=before).order_by("-pk").first(),
            same.filter(pk__in=after).order_by("pk").first(),
            None,
        )
    ahead = same.unfinished().filter(pk__lt=message.pk)
    found = Message.objects.filter(
        Q(pk=Subquery(ahead.order_by("pk").values("pk")[:1]))
        | Q(pk=Subquery(ahead.order_by("-pk").values("pk")[:1]))
        | Q(pk=Subquery(same.unfinished().filter(pk__gt=message.pk).order_by("pk").values("pk")[:1]))
    ).order_by("pk")
    earlier, later = [row for row in found if row.pk < message.pk], [row for row in found if row.pk > message.pk]
    return earlier[-1] if earlier else None, later[0] if later else None, earlier[0] if earlier else None


def _next_call_as_curl(message: Message) -> str:
    """The next call as a curl command with masked secrets; a comment with the reason if it cannot be built."""
    content = message.content
    request = lab_call.LabRequest(
        service=message.service,
        method=message.method,
        path=message.path,
        query=content.query,
        headers=content.headers,
        body=bytes(content.body),
        content_type=content.content_type,
    )
    try:
        shown = lab_call.masked(request.call(message.wire_id, timezone.now()), message.service)
    except ValueError as error:
        return f"# The request cannot be built: {error}"
    return as_curl(shown.method, shown.url, shown.headers, shown.body)
