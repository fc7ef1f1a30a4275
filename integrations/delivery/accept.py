"""Accept messages: validate a request into a draft that can always be sent, and queue it.

``MessageIn`` has checked each field on its own. Here names are resolved, the endpoint's values are merged in, and the
time and size limits are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.utils import timezone

from integrations.errors import Conflict, Invalid, TooLarge
from integrations.models import Draft, Endpoint, Message, Service
from integrations.models.message import merge_endpoint
from integrations.outbound.urls import query_refusal
from integrations.policies import trace
from integrations.schemas.fields import BODY_LIMIT
from integrations.schemas.message import MessageIn, ReplayIn, body_bytes


def accept(data: MessageIn) -> Message:
    """Queue one message; it is on disk when this returns. Raises Invalid, TooLarge for the body, or Conflict."""
    return Message.objects.accept([make_draft(data)])[0]


def replay(message: Message, data: ReplayIn, body: bytes | None = None) -> tuple[Message, bool]:
    """Replay a message, and return whether the replay is new. ``body`` is an edited body and overrides ``data``'s.

    Raises Invalid, TooLarge or Conflict.
    """
    return message.replay(**replay_changes(message, data, body))


@dataclass(frozen=True, slots=True)
class Lookup:
    """The services and endpoints that a group of messages names. A name that is missing here does not exist."""

    services: dict[str, Service]
    endpoints: dict[tuple[int, str], Endpoint]  # by service id and name

    @classmethod
    def for_names(cls, services: Iterable[str], endpoints: Iterable[str]) -> Lookup:
        """Read all named rows in three queries, with the runtime rows that ``waiting_for`` needs."""
        by_name = {service.name: service for service in Service.objects.to_accept_for(services)}
        found = (
            Endpoint.objects.filter(service__in=by_name.values(), name__in=names) if (names := set(endpoints)) else ()
        )
        return cls(by_name, {(endpoint.service_id, endpoint.name): endpoint for endpoint in found})


def make_draft(data: MessageIn, lookup: Lookup | None = None, *, request: Mapping[str, str] | None = None) -> Draft:
    """Resolve a message's names, merge in its endpoint, and take in the trace of ``request``, the headers it came with.

    Raises Invalid, TooLarge for the body, or Conflict for a service that is being deleted. The draft is final: replays
    and retries send the same content.
    """
    lookup = lookup or Lookup.for_names([data.service], [data.endpoint] if data.endpoint else [])
    service = lookup.services.get(data.service)
    if service is None:
        raise Invalid((("service",), f"there is no service named {data.service}"))
    if service.is_being_deleted:
        raise Conflict(f"{service.name} is being deleted and accepts no message")
    endpoint = lookup.endpoints.get((service.pk, data.endpoint)) if data.endpoint else None
    if data.endpoint and endpoint is None:
        raise _no_endpoint(service, data.endpoint)
    if data.expires_at and data.expires_at <= timezone.now():
        raise Invalid((("expires_at",), "this time has passed"))
    body, content_type = _content(data, endpoint)
    path = endpoint.path if endpoint else (data.path or "/")
    parameters_and_headers = merge_endpoint(endpoint, data.query, trace.taken_in(request or {}, data.headers))
    if refusal := query_refusal(service.base_url, path, parameters_and_headers["query"]):
        raise Invalid((("query",), refusal))
    return Draft(
        service=service,
        endpoint=endpoint,
        method=endpoint.method if endpoint else (data.method or "POST"),
        path=path,
        **parameters_and_headers,
        body=body,
        content_type=content_type,
        ordering_key=data.ordering_key,
        deliver_at=data.deliver_at,
        expires_at=data.expires_at,
        tags=data.tags,
    )


def _content(data: MessageIn, endpoint: Endpoint | None) -> tuple[bytes, str]:
    try:
        content = data.content()
    except TooLarge:
        raise
    except ValueError as error:
        raise Invalid((("body_base64" if data.body_base64 is not None else "body",), str(error))) from None
    if content is not None:
        return content
    if endpoint and endpoint.body:
        return endpoint.body.encode(), data.content_type or endpoint.content_type
    return b"", data.content_type or ""


def replay_changes(message: Message, data: ReplayIn, body: bytes | None = None) -> dict[str, Any]:
    """Return the arguments of ``Message.replay`` and ``as_replay``. Raises Invalid or TooLarge."""
    endpoint = _endpoint(message.service, data.endpoint)
    if body is None:
        body = _edited_body(data)
    elif len(body) > BODY_LIMIT:
        raise TooLarge(f"the body has {len(body):,} bytes; the limit is {BODY_LIMIT:,}")
    return {
        "current": data.mode == "current",
        "body": body,
        "content_type": _edited_content_type(message) if body is not None else None,
        "headers": data.headers,
        "endpoint": endpoint,
    }


def _edited_body(data: ReplayIn) -> bytes | None:
    try:
        content = body_bytes(data.body, None, None, given="body" in data.model_fields_set)
    except TooLarge:
        raise
    except ValueError as error:
        raise Invalid((("body",), str(error))) from None
    return content[0] if content else None


def _edited_content_type(message: Message) -> str:
    """An edited body is JSON. A vendor's own JSON type stays as it was."""
    original = message.content.content_type
    media_type = original.partition(";")[0].strip().lower()
    is_json = media_type.endswith("+json") or media_type == "application/json"
    return original if is_json else "application/json"


def _endpoint(service: Service, name: str | None) -> Endpoint | None:
    if not name:
        return None
    endpoint = service.endpoints.filter(name=name).first()
    if endpoint is None:
        raise _no_endpoint(service, name)
    return endpoint


def _no_endpoint(service: Service, name: str) -> Invalid:
    return Invalid((("endpoint",), f"{service.name} has no endpoint named {name}"))
