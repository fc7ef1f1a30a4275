"""The topics of `GET /events` and the format of its events. `asgi/events.py` serves the streams."""

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
TOPIC_OF = {topic.rstrip("s"): topic for topic in TOPICS} | {"messages": "messages"}  # by the first word of a type
PREFIXES = {"message": "msg", "operation": "op"}  # of the ids that can be followed one by one
TOPICS_TEXT = f"Any of {', '.join(TOPICS)}, message:ID and operation:ID"
IDENTIFIER = re.compile(r"[a-z0-9_]{1,60}")
TOPIC_LIMIT = 100  # per stream
MEDIA_TYPE = "text/event-stream"
RETRY = 2  # seconds until a client reconnects after its stream has ended


@router.get(
    "/events", openapi_extra={"responses": {200: {"description": "A stream", "content": {MEDIA_TYPE: {"schema": {}}}}}}
)
def follow_events(
    request: HttpRequest,
    topics: Annotated[str, Query(description=f"{TOPICS_TEXT}, separated by commas. Default: all without ids.")] = "",
) -> HttpResponse:
    """Stream events as Server-Sent Events, from now on or since the `Last-Event-ID` header.

    `hello` is the first event; it contains the state of the messages given by id. `messages.changed` reports, once a
    second for each service, how many messages changed to each status and how many calls were made; for a message given
    by id it contains the new state. `reset` means that missed events are no longer stored. `bye` ends the stream and
    gives the reason.
    """
    parse_topics([topics])
    raise Problem(503, "This server does not support streaming; run dashboard.asgi.")


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one stream."""

    names: frozenset[str]
    messages: dict[int, int]  # nonces of the messages given by id, by primary key


def parse_topics(given: Sequence[str]) -> Topics:
    """Parse the topics of a query. Raises Problem(422), or Http404 for a malformed message id."""
    names = {name.strip() for text in given for name in text.split(",") if name.strip()} or set(TOPICS)
    if len(names) > TOPIC_LIMIT:
        raise _topics_problem(f"a stream can follow at most {TOPIC_LIMIT} topics")
    messages: dict[int, int] = {}
    for name in sorted(names):
        kind, colon, identifier = name.partition(":")
        is_topic = kind in PREFIXES and bool(IDENTIFIER.fullmatch(identifier)) if colon else name in TOPICS
        if not is_topic:
            raise _topics_problem(f"{name[:60]!r} is not a topic. {TOPICS_TEXT}.")
        if colon and kind == "message":
            if (parsed := identifiers.parse(PREFIXES[kind], identifier)) is None:
                raise message_not_found(identifier)
            messages[parsed[0]] = parsed[1]
    return Topics(frozenset(name for name in names if not name.startswith("message:")), messages)


def message_not_found(identifier: str) -> Http404:
    return Http404(f"No message has the id {identifier[:60]}. It never existed, or was deleted.")


def _topics_problem(text: str) -> Problem:
    return validation_problem([(("query", "topics"), text)])


# ---- format ---------------------------------------------------------------------------------------------------------
def topics_of(entry: StreamedEvent) -> frozenset[str]:
    """Return the topics of an event."""
    kind = entry.type.partition(".")[0]
    found = {TOPIC_OF[kind]} if kind in TOPIC_OF else set()
    return frozenset(found | ({f"{kind}:{entry.subject}"} if kind in PREFIXES and entry.subject else set()))


def event_frame(entry: StreamedEvent) -> bytes:
    data = {**entry.facts, "type": entry.type, "at": entry.at}
    data |= {"service": entry.service} if entry.service else {}
    data |= {"id": entry.subject} if entry.subject else {}
    return frame(entry.type, data, entry.position)


def message_frame(state: dict[str, Any]) -> bytes:
    """Return an event without an id: a client that resumes gets the message's state in `hello`."""
    return frame(MESSAGES_CHANGED, {"type": MESSAGES_CHANGED, "at": timezone.now(), **state})


def server_frame(type_: str, position: int | None = None, **facts: Any) -> bytes:
    return frame(type_, {"type": type_, "at": timezone.now(), **facts}, position)


def frame(type_: str, data: dict[str, Any], position: int | None = None) -> bytes:
    """Return one event in the stream's format. JSON contains no unescaped line breaks."""
    number = b"" if position is None else b"id: %d\n" % position
    return b"event: %b\n%bdata: %b\n\n" % (type_.encode(), number, to_json(data, inf_nan_mode="null"))
