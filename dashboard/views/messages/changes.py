"""The changes of an edited replay, as a page."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from dashboard.access import viewer
from dashboard.presenters.replay_changes import edited_parts
from dashboard.views.messages.lookup import message_or_404


@viewer
@require_GET
def changes(request: HttpRequest, public_id: str) -> HttpResponse:
    replay = message_or_404(public_id)
    context = {
        "message": replay,
        "is_first": replay.lineage_id in (None, replay.pk),
        "parts": edited_parts(replay.replay_of, replay) if replay.replay_of else [],
    }
    return render(request, "messages/changes.html", context)
