"""The result of an operation in words: “150 replayed: 148 delivered, 2 failed again; 3 skipped”."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from integrations.models import Operation
from integrations.models.operation import Kind
from integrations.operators.replay_results import ReplayResult

DONE = {
    Kind.REPLAY: "replayed",
    Kind.CANCEL: "cancelled",
    Kind.RETRY_NOW: "made due",
    Kind.DELETE: "deleted",
    Kind.INDEX: "indexed",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A number of messages with the address of their list, and the mark before it."""

    number: int
    label: str
    url: str = ""
    is_bad: bool = False
    mark: str = ""


def result_parts(operation: Operation, replays: ReplayResult | None) -> list[Part]:
    """``replays`` is the result of a replay, or None where it is not counted."""
    page = reverse("operation", args=[operation.public_id])
    made = _made(operation) if operation.kind == Kind.REPLAY and operation.succeeded else ""
    parts = [Part(operation.succeeded, DONE[Kind(operation.kind)], made)]
    if replays:
        parts += _after(
            ": ",
            (replays.delivered, "delivered", _made(operation, "delivered"), False),
            (replays.dead, "failed again", _made(operation, "dead"), True),
            (replays.cancelled, "cancelled", _made(operation, "cancelled"), False),
            (replays.unfinished, "under way", "", False),
            (operation.succeeded - replays.total, "deleted by retention", "", False),
        )
    return parts + _after(
        "; ",
        (operation.skipped, "without the field or indexed before", "", False)
        if operation.is_index
        else (operation.skipped, "skipped", f"{page}?outcome=skipped", False),
        (operation.failed, "not done", f"{page}?outcome=failed", True),
    )


def _after(mark: str, *counts: tuple[int, str, str, bool]) -> list[Part]:
    """The counts that are not 0, the first one after ``mark``."""
    found = [count for count in counts if count[0] > 0]
    return [Part(*count, mark=", " if place else mark) for place, count in enumerate(found)]


def _made(operation: Operation, status: str = "") -> str:
    """The list of the messages that a replay made."""
    query = {"q": f"operation:{operation.public_id}", **({"status": status} if status else {})}
    return f"{reverse('messages')}?{urlencode(query)}"
