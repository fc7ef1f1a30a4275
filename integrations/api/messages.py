"""Messages: queue, list, read, replay, cancel, retry."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from django.db.models import Count
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Query, Router

from integrations.api.auth import caller, operator, operator_batch, viewer
from integrations.api.idempotency import PARAMETER, all_once, once
from integrations.api.json_io import RawJson, api_path, json_response
from integrations.api.pagination import LIMIT, Cursor, Limit, cursor_to, list_json, page, position_of
from integrations.api.problems import problem_of, validation_problem
from integrations.api.responses import (
    AttemptPage,
    BatchIn,
    BatchOut,
    MessageOut,
    MessagePage,
)
from integrations.delivery import accept
from integrations.delivery.waiting import Load, Waiting, waiting_for
from integrations.errors import Conflict, Invalid, TooLarge
from integrations.history import retention
from integrations.idempotency import Answers
from integrations.models import (
    UNFINISHED,
    Attempt,
    Draft,
    Endpoint,
    Message,
    MessageContent,
    Operation,
    Service,
    Status,
    Worker,
)
from integrations.models.identifiers import public_id
from integrations.operators import traffic
from integrations.outbound.outcome import Fault
from integrations.outbound.redaction import redacted_headers, redacted_query
from integrations.policies.retry import DeadReason
from integrations.schemas import exact_json
from integrations.schemas.fields import Timestamp
from integrations.schemas.message import MessageIn, ReplayIn, json_bytes
from integrations.search import grammar, pages

router = Router(tags=["Messages"])


# ---- queue --------------------------------------------------------------------------------------------------------
@router.post("/messages", auth=operator, response={202: MessageOut}, openapi_extra=PARAMETER)
def queue_message(request: HttpRequest, data: MessageIn) -> HttpResponse:
    """Queue one message. After the 202 it is stored; it will be delivered, or end as dead or cancelled."""
    (response,) = queue([(request, data)])
    if isinstance(response, Exception):
        raise response
    return response


def queue(requests: Sequence[tuple[HttpRequest, MessageIn]]) -> Answers:
    """Queue a message for each request, all in one transaction. An error concerns only its own request."""

    def prepare(wanted: Sequence[int]) -> Callable[[], Answers]:
        data = [requests[position][1] for position in wanted]
        services, endpoints = {item.service for item in data}, {item.endpoint for item in data if item.endpoint}
        known = accept.Lookup.for_names(services, endpoints)
        sent = [requests[position][0] for position in wanted]
        drafts = [_drafted(item, known, request) for item, request in zip(data, sent, strict=True)]
        return lambda: _queued(drafts)

    return all_once([request for request, _ in requests], prepare)


def _drafted(data: MessageIn, known: accept.Lookup, request: HttpRequest) -> Draft | Exception:
    try:
        draft = accept.make_draft(data, known, request=request.headers)
        return replace(draft, created_by=caller(request).actor)
    except (Conflict, Invalid, TooLarge) as refusal:
        return refusal


def _queued(drafts: Sequence[Draft | Exception]) -> Answers:
    messages = iter(Message.objects.accept([draft for draft in drafts if isinstance(draft, Draft)]))
    waits: dict[tuple[int, datetime | None], Waiting | None] = {}
    answers: Answers = []
    for draft in drafts:
        if isinstance(draft, Draft):
            message = next(messages)
            reason = (message.service_id, message.deliver_at)  # new messages with both equal wait for the same
            if reason not in waits:
                waits[reason] = waiting_for(message, message.created_at, Load())
            document = _accepted_json(message, draft, waits[reason])
            answers.append(json_response(document, 202, location=api_path("messages", message.public_id)))
        else:
            answers.append(draft)
    return answers


@router.post("/messages/batch", auth=operator_batch, response={200: BatchOut}, openapi_extra=PARAMETER)
def queue_batch(request: HttpRequest, data: BatchIn) -> HttpResponse:
    """Queue up to 1,000 messages in one transaction. An invalid one does not reject the others."""

    def prepare(_: Sequence[int]) -> Callable[[], Answers]:
        drafts, rejected = _drafts_of(data, request)

        def work() -> Answers:
            messages = Message.objects.accept([draft for _, draft in drafts])
            accepted = [
                {"index": index, "id": message.public_id} for (index, _), message in zip(drafts, messages, strict=True)
            ]
            return [json_response({"accepted": accepted, "rejected": rejected})]

        return work

    (response,) = all_once([request], prepare)
    if isinstance(response, Exception):
        raise response
    return response


def _drafts_of(data: BatchIn, request: HttpRequest) -> tuple[list[tuple[int, Draft]], list[dict[str, Any]]]:
    """Return the valid drafts by index, and the problems of the others."""
    by = caller(request).actor
    drafts: list[tuple[int, Draft]] = []
    rejected: list[dict[str, Any]] = []
    known = accept.Lookup.for_names(_named(data, "service"), _named(data, "endpoint"))
    for index, entry in enumerate(data.messages):
        try:
            draft = accept.make_draft(MessageIn.model_validate(entry), known, request=request.headers)
            drafts.append((index, replace(draft, created_by=by)))
        except Exception as error:
            if (problem := problem_of(error, ("body", "messages", index))) is None:
                raise
            rejected.append({"index": index, "error": problem.as_json()})
    return drafts, rejected


def _named(data: BatchIn, field: str) -> set[str]:
    """Return the names in this field of all entries. Entries that are not objects are rejected later."""
    entries = (entry.get(field) for entry in data.messages if isinstance(entry, dict))
    return {name for name in entries if isinstance(name, str) and "\0" not in name}


def _accepted_json(message: Message, draft: Draft, waiting: Waiting | None) -> dict[str, Any]:
    """Return a new message as GET would, without reading the database again."""
    content = MessageContent(
        message=message,
        query=draft.query,
        headers=draft.headers,
        content_type=draft.content_type,
        body=draft.body,
        created_by=draft.created_by,
    )
    return {**_listed_json(message, waiting, replays=[], replay_of=None), **_content_json(content)}


# ---- read ---------------------------------------------------------------------------------------------------------
SEARCH = (
    "Search as in the console: words of ids, paths, ordering keys, tags and declared fields, and qualifiers such as "
    "`service:billing`, `-status:delivered`, `code:500..599`, `older:1h` or `tag:customer=acme`."
)


@router.get("/messages", auth=viewer, response=MessagePage)
def list_messages(
    request: HttpRequest,
    service: Annotated[str | None, Query(description="Name of the service.")] = None,
    endpoint: Annotated[str | None, Query(description="Name of the endpoint.")] = None,
    status: Annotated[Status | None, Query(description="Status of the message.")] = None,
    dead_reason: Annotated[DeadReason | None, Query(description="Reason of a dead message.")] = None,
    fault: Annotated[Fault | None, Query(description="Fault of the last call.")] = None,
    status_code: Annotated[int | None, Query(ge=100, le=599, description="Status code of the last call.")] = None,
    replayed: Annotated[
        bool | None,
        Query(description="Whether another message of its lineage is unfinished or delivered, or is a newer replay."),
    ] = None,
    created_after: Annotated[Timestamp | None, Query(description="Accepted after this time.")] = None,
    created_before: Annotated[Timestamp | None, Query(description="Accepted before this time.")] = None,
    q: Annotated[str | None, Query(max_length=2000, description=SEARCH)] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """List messages without headers and bodies, newest first.

    A search that no index supports proceeds in steps: a page may have fewer messages than `limit`, or none, and
    `next_cursor` continues the search.
    """
    search = grammar.parse(q or "")
    given = {
        "service": service,
        "endpoint": endpoint,
        "status": status,
        "dead_reason": dead_reason,
        "fault": fault,
        "status_code": status_code,
    }
    for name, value in given.items():
        if value is not None:
            search.add(name, str(value))
    if replayed is not None:
        search.add("is", "replayed", is_negated=not replayed)
    search.between(created_after, created_before)
    if search.problems:
        raise validation_problem([(("query", "q"), problem) for problem in search.problems])
    found = pages.SearchResults(search).older(position_of("messages", cursor), limit)
    return json_response(
        list_json(messages_json(found.rows), cursor_to("messages", found.next_id) if found.next_id else None)
    )


@router.get("/messages/{message_id}", auth=viewer, response=MessageOut)
def get_message(request: HttpRequest, message_id: str) -> HttpResponse:
    """Return one message with its headers and body."""
    return json_response(_message_json(find_message(message_id)))


@router.get("/messages/{message_id}/attempts", auth=viewer, response=AttemptPage)
def list_attempts(request: HttpRequest, message_id: str, limit: Limit = LIMIT, cursor: Cursor = None) -> HttpResponse:
    """List the attempts of a message, oldest first."""
    message = find_message(message_id)
    rows, next_cursor = page(
        Attempt.objects.filter(message=message), f"attempts.{message.pk}", limit, cursor, oldest_first=True
    )
    body = bytes(message.content.body)
    return json_response(list_json([attempt.as_json(body) for attempt in rows], next_cursor))


# ---- replay, cancel, retry ----------------------------------------------------------------------------------------
@router.post(
    "/messages/{message_id}/replay",
    auth=operator,
    response={202: MessageOut, 200: MessageOut},
    openapi_extra=PARAMETER,
)
def replay_message(request: HttpRequest, message_id: str, data: ReplayIn | None = None) -> HttpResponse:
    """Queue a finished message again as a new one (202). Returns an unfinished replay in its lineage (200), if any."""
    message = find_message(message_id)

    def work() -> HttpResponse:
        replay, is_new = traffic.replay(message, data or ReplayIn(), actor=caller(request).actor)
        location = api_path("messages", replay.public_id)
        return json_response(_message_json(replay), 202 if is_new else 200, location=location)

    return once(request, work)


@router.post("/messages/{message_id}/cancel", auth=operator, response=MessageOut)
def cancel_message(request: HttpRequest, message_id: str) -> HttpResponse:
    """Cancel a pending message. Fails while it is being delivered, or after it has finished."""
    message = find_message(message_id)
    traffic.cancel(message, actor=caller(request).actor)
    return json_response(_message_json(message))


@router.post("/messages/{message_id}/retry-now", auth=operator, response=MessageOut)
def retry_message_now(request: HttpRequest, message_id: str) -> HttpResponse:
    """Make a pending message due now and release it if it is held. Pause, breaker, limits and order still apply."""
    message = find_message(message_id)
    traffic.retry_now(message, actor=caller(request).actor)
    return json_response(_message_json(message))


def find_message(text: str) -> Message:
    message = Message.objects.by_public_id(text)
    if message is None:
        raise Http404(f"No message has the id {text[:50]}. {retention.explain_missing()}")
    return message


# ---- as JSON ------------------------------------------------------------------------------------------------------
def messages_json(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages as listed. The number of queries does not depend on the number of messages."""
    now = timezone.now()
    services = Service.objects.select_related("runtime").defer("secrets").in_bulk({row.service_id for row in messages})
    endpoints = Endpoint.objects.in_bulk({row.endpoint_id for row in messages if row.endpoint_id})
    originals = dict(
        Message.objects.filter(pk__in={row.replay_of_id for row in messages if row.replay_of_id}).values_list(
            "pk", "nonce"
        )
    )
    replays = _replays([row.pk for row in messages])
    operations = Operation.objects.public_ids({row.operation_id for row in messages if row.operation_id})
    loads = _loads({row.service_id for row in messages if row.status in UNFINISHED}, services, now)
    documents = []
    for row in messages:
        row.service = services[row.service_id]
        row.endpoint = endpoints.get(row.endpoint_id) if row.endpoint_id else None
        replay_of = row.replay_of_id
        documents.append(
            _listed_json(
                row,
                waiting_for(row, now, loads.get(row.service_id)),
                replays=replays.get(row.pk, []),
                replay_of=public_id("msg", replay_of, originals[replay_of]) if replay_of in originals else None,
                operation=operations.get(row.operation_id) if row.operation_id else None,
            )
        )
    return documents


def _message_json(message: Message) -> dict[str, Any]:
    return {**messages_json([message])[0], **_content_json(message.content)}


def _replays(ids: Sequence[int]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    rows = Message.objects.filter(replay_of__in=ids).order_by("pk").values_list("replay_of", "pk", "nonce")
    for original, number, nonce in rows:
        if original is not None:
            found.setdefault(original, []).append(public_id("msg", number, nonce))
    return found


def _loads(ids: set[int], services: dict[int, Service], now: datetime) -> dict[int, Load]:
    """Count the calls in flight and the probes of each service, in one query for all."""
    if not ids:
        return {}
    has_workers = Worker.objects.alive(now).exists()
    in_flight: dict[int, int] = {}
    probes: dict[tuple[int, int | None], int] = {}
    rows = (
        Message.objects.delivering()
        .filter(service__in=ids)
        .order_by()
        .values_list("service_id", "probe_generation")
        .annotate(Count("pk"))
    )
    for service_id, generation, count in rows:
        in_flight[service_id] = in_flight.get(service_id, 0) + count
        probes[service_id, generation] = count
    return {
        service_id: Load(
            in_flight=in_flight.get(service_id, 0),
            probes=probes.get((service_id, services[service_id].runtime.generation), 0),
            has_workers=has_workers,
        )
        for service_id in ids
    }


def _listed_json(
    message: Message, waiting: Any, *, replays: list[str], replay_of: str | None, operation: str | None = None
) -> dict[str, Any]:
    return {
        "id": message.public_id,
        "service": message.service.name,
        "endpoint": message.endpoint.name if message.endpoint else None,
        "method": message.method,
        "path": message.path,
        "status": message.status,
        "attempts": message.attempts,
        "created_at": message.created_at,
        "next_attempt_at": message.next_attempt_at,
        "finished_at": message.finished_at,
        "deliver_at": message.deliver_at,
        "expires_at": message.expires_at,
        "ordering_key": message.ordering_key,
        "tags": message.tags,
        "dead_reason": message.dead_reason or None,
        "last": message.last,
        "replay_of": replay_of,
        "replays": replays,
        "operation": operation,
        "waiting_for": waiting and {"kind": waiting.kind, "until": waiting.until, "why": waiting.why},
    }


def _content_json(content: MessageContent) -> dict[str, Any]:
    """Return a message's content: ``body`` if its bytes are compact JSON as ``json_bytes`` writes it, else base64."""
    raw = bytes(content.body)
    body: dict[str, Any] = {"body_base64": b64encode(raw).decode()}
    try:
        if json_bytes(exact_json.parse(raw)) == raw:
            body = {"body": RawJson(raw)}
    except (ValueError, RecursionError):
        pass
    headers = dict(redacted_headers(content.headers.items(), ()))  # viewers may read it
    return {
        "query": redacted_query(content.query),
        "headers": headers,
        "content_type": content.content_type,
        "created_by": content.created_by,
        **body,
    }
