"""Accepting messages: what was asked for becomes a draft that can always be sent, or is refused in words."""

from __future__ import annotations

from django.utils import timezone

from integrations.models import Draft, Endpoint, Message, Service
from integrations.registry import Invalid
from integrations.schemas import MessageIn, ReplayIn, TooLarge, body_bytes


def draft(data: MessageIn, services: dict[str, Service] | None = None) -> Draft:
    """The message as it will stay for its whole life. Raises Invalid, or TooLarge for the body."""
    service = (services or {}).get(data.service) or Service.objects.filter(name=data.service).first()
    if service is None:
        raise Invalid((("service",), f"there is no service named {data.service}"))
    endpoint = _endpoint(service, data.endpoint)
    if data.expires_at and data.expires_at <= timezone.now():
        raise Invalid((("expires_at",), "this time has passed"))
    body, content_type = _content(data, endpoint)
    return Draft(
        service=service,
        endpoint=endpoint,
        method=endpoint.method if endpoint else (data.method or "POST"),
        path=endpoint.path if endpoint else (data.path or "/"),
        query={**(endpoint.query if endpoint else {}), **data.query},
        headers={**(endpoint.headers if endpoint else {}), **data.headers},
        body=body,
        content_type=content_type,
        ordering_key=data.ordering_key,
        deliver_at=data.deliver_at,
        expires_at=data.expires_at,
        tags=data.tags,
    )


def accept(data: MessageIn) -> Message:
    """Queues one message; it is on disk when this returns."""
    return Message.objects.accept([draft(data)])[0]


def replay(message: Message, data: ReplayIn) -> tuple[Message, bool]:
    """A replay as asked for, and whether it is new. Raises Invalid, TooLarge or Conflict."""
    endpoint = _endpoint(message.service, data.endpoint)
    content = body_bytes(data.body, None, None, given="body" in data.model_fields_set)
    return message.replay(
        current=data.mode == "current",
        body=content[0] if content else None,
        content_type=content[1] if content else None,
        headers=data.headers,
        endpoint=endpoint,
    )


def _endpoint(service: Service, name: str | None) -> Endpoint | None:
    if not name:
        return None
    endpoint = service.endpoints.filter(name=name).first()
    if endpoint is None:
        raise Invalid((("endpoint",), f"{service.name} has no endpoint named {name}"))
    return endpoint


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
