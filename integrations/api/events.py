"""What can be followed with `GET /events`, and how it is told; `stream.py` answers the call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router
from pydantic_core import to_json

from integrations.api.auth import viewer
from integrations.api.problems import Problem, validation_problem
from integrations.history.event_stream import StreamedEvent
from integrations.models import MESSAGES_CHANGED, identifiers

router = Router(tags=["Events"], auth=viewer)

TOPICS = ("services", "messages", "breakers", "operations", "failures", "workers")
OF_TYPE = {topic.rstrip("s"): topic for topic in TOPICS} | {"messages": "messages"}  # by a type's first word
SINGLE = {"message": "msg", "operation": "op"}
FOLLOWED = f"Any of {', '.join(TOPICS)}, message:ID and operation:ID"
IDENTIFIER = re.compile(r"[a-z0-9_]{1,60}")
SINGLES = 100  # of one stream
MEDIA_TYPE = "text/event-stream"
RETRY = 2  # seconds until a client whose stream has ended comes back


@router.get(
    "/events", openapi_extra={"responses": {200: {"description": "A stream", "content": {MEDIA_TYPE: {"schema": {}}}}}}
)
def follow_events(
    request: HttpRequest,
    topics: Annotated[str, Query(description=f"{FOLLOWED}, with commas; left out, all but the single ones.")] = "",
) -> HttpResponse:
    """Server-Sent Events: what happens from now on, or since the `Last-Event-ID` that is sent along.

    `hello` comes first, with the state of the messages that are followed singly. `messages.changed` tells, once a
    second and for each service, how many messages came to each status and how many calls were made; of a message that
    is followed singly it tells the state, when it has changed. `reset` says that what was missed is no longer known;
    `bye` that the server ends the stream, and why.
    """
    parse_topics([topics])
    raise Problem(503, "This server cannot stream: it does not run dashboard.asgi.")


@dataclass(frozen=True, slots=True)
class Topics:
    """What one stream follows."""

    names: frozenset[str]
    messages: dict[int, int]  # nonces of single messages, by id


def parse_topics(given: Sequence[str]) -> Topics:
    """The topics of a query. Raises Problem(422), or Http404 for what can be no message."""
    names = {name.strip() for text in given for name in text.split(",") if name.strip()} or set(TOPICS)
    if len(names) > SINGLES:
        raise _refused(f"at most {SINGLES} can be followed in one stream")
    messages: dict[int, int] = {}
    for name in sorted(names):
        kind, colon, identifier = name.partition(":")
        is_one = kind in SINGLE and bool(IDENTIFIER.fullmatch(identifier)) if colon else name in TOPICS
        if not is_one:
            raise _refused(f"{name[:60]!r} is no topic. {FOLLOWED}.")
        if colon and kind == "message":
            if (parsed := identifiers.parse(SINGLE[kind], identifier)) is None:
                raise message_not_found(identifier)
            messages[parsed[0]] = parsed[1]
    return Topics(frozenset(name for name in names if not name.startswith("message:")), messages)


def message_not_found(identifier: str) -> Http404:
    return Http404(f"There is no message {identifier[:60]}. It never was, or is no longer kept.")


def _refused(words: str) -> Problem:
    return validation_problem([(("query", "topics"), words)])


# ---- how it is told -------------------------------------------------------------------------------------------------
def topics_of(entry: StreamedEvent) -> frozenset[str]:
    """Under which topics an event is told."""
    kind = entry.type.partition(".")[0]
    found = {OF_TYPE[kind]} if kind in OF_TYPE else set()
    return frozenset(found | ({f"{kind}:{entry.subject}"} if kind in SINGLE and entry.subject else set()))


def event_frame(entry: StreamedEvent) -> bytes:
    data = {**entry.facts, "type": entry.type, "at": entry.at}
    data |= {"service": entry.service} if entry.service else {}
    data |= {"id": entry.subject} if entry.subject else {}
    return frame(entry.type, data, entry.position)


def message_frame(state: dict[str, Any]) -> bytes:
    """Without an id: where a client resumes, it is told how the message stands."""
    return frame(MESSAGES_CHANGED, {"type": MESSAGES_CHANGED, "at": timezone.now(), **state})


def server_frame(type_: str, position: int | None = None, **facts: Any) -> bytes:
    return frame(type_, {"type": type_, "at": timezone.now(), **facts}, position)


def frame(type_: str, data: dict[str, Any], position: int | None = None) -> bytes:
    """One event as it goes over the wire; JSON has no line breaks outside of its escapes."""
    number = b"" if position is None else b"id: %d\n" % position
    return b"event: %b\n%bdata: %b\n\n" % (type_.encode(), number, to_json(data, inf_nan_mode="null"))
