"""Replay a message: unchanged, with current settings, or edited after a review of the diff."""

from __future__ import annotations

from typing import Any

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods

from dashboard.access import actor, operator
from dashboard.form_submission import fresh_key, submit_once
from dashboard.forms.replay import ReplayForm, editable_body
from dashboard.forms.request import endpoints_of
from dashboard.presenters.lines import as_lines
from dashboard.presenters.replay_changes import edited_parts
from dashboard.presenters.sentences import replay_warning
from dashboard.responses import see_other
from dashboard.views.messages.lookup import message_or_404
from integrations.delivery import accept
from integrations.errors import Conflict, Invalid, TooLarge
from integrations.models import Draft, Message
from integrations.operators import traffic
from integrations.schemas.message import ReplayIn


@operator
@require_http_methods(["GET", "POST"])
def replay(request: HttpRequest, public_id: str) -> HttpResponse:
    """POST replays unchanged or with current settings; GET, and POST with ``edited``, are the form for an edit."""
    message = message_or_404(public_id)
    if request.method == "GET":
        return _replay_form(request, message, ReplayForm(initial=_unchanged(message)))
    return submit_once(request, lambda: _replay(request, message))


def _replay(request: HttpRequest, message: Message) -> HttpResponse:
    if "edited" in request.POST:
        return _edited_replay(request, message)
    data = ReplayIn(mode="current" if request.POST.get("mode") == "current" else "as_is")
    try:
        return _replayed(request, *traffic.replay(message, data, actor=actor(request)))
    except (Conflict, Invalid) as refusal:
        return _not_replayed(request, message, refusal)


def _edited_replay(request: HttpRequest, message: Message) -> HttpResponse:
    """Show the diff first, and replay once it is confirmed."""
    form = ReplayForm(request.POST)
    data = form.replay_in(message)
    if data is None or "back" in request.POST:
        return _replay_form(request, message, form, status=200 if data else 422)
    try:
        if "confirmed" not in request.POST:
            return _review(
                request, message, form, message.as_replay(**accept.replay_changes(message, data, form.edited_body))
            )
        made, is_new = traffic.replay(message, data, actor=actor(request), body=form.edited_body)
        return _replayed(request, made, is_new)
    except Conflict as refusal:
        form.add_error(None, f"Not replayed: {refusal}.")  # no redirect, so that the operator can submit it again
    except Invalid as error:
        for location, text in error.errors:
            form.add_error(location[0] if location[0] in form.fields else None, text)
    except TooLarge as error:
        form.add_error("body", str(error))
    return _replay_form(request, message, form, status=422)


def _review(request: HttpRequest, message: Message, form: ReplayForm, draft: Draft) -> HttpResponse:
    """The diff of the replay, with the button that sends it."""
    context = {
        "message": message,
        "parts": edited_parts(message, draft),
        "kept_id": draft.webhook_id,
        "sent": [(name, form.data[name]) for name in ("endpoint", "headers", "body") if name in form.data],
        "form_key": request.POST.get("form_key") or fresh_key(),
    }
    return render(request, "messages/replay_review.html", context)


def _replayed(request: HttpRequest, made: Message, is_new: bool) -> HttpResponse:
    toasts.success(
        request, "Replayed as this new message." if is_new else "Already replayed: this replay is not finished yet."
    )
    return see_other("message", made.public_id)


def _not_replayed(request: HttpRequest, message: Message, refusal: Exception) -> HttpResponse:
    toasts.error(request, f"Not replayed: {refusal}.")
    return see_other("message", message.public_id)


def _unchanged(message: Message) -> dict[str, Any]:
    return {"headers": as_lines(message.content.headers, ": "), "body": editable_body(message) or ""}


def _replay_form(request: HttpRequest, message: Message, form: ReplayForm, status: int = 200) -> HttpResponse:
    body = editable_body(message)
    if body is None:
        form.fields.pop("body")
    Message.objects.add_standing([message])
    context = {
        "message": message,
        "replay_warning": replay_warning(message),
        "form": form,
        "form_key": request.POST.get("form_key") or fresh_key(),
        "endpoints": endpoints_of(message.service.name),
        "is_editable": body is not None,
    }
    return render(request, "messages/replay.html", context, status=status)
