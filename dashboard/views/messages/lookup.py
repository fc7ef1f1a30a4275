"""Find the message of a page."""

from __future__ import annotations

from dashboard.responses import ExplainedNotFound
from integrations.history import retention
from integrations.models import Message


def message_or_404(public_id: str) -> Message:
    message = Message.objects.select_related(
        "service", "service__runtime", "endpoint", "content", "replay_of"
    ).by_public_id(public_id)
    if message is None:
        raise ExplainedNotFound(f"There is no message {public_id[:50]}. {retention.explain_missing()}")
    return message
