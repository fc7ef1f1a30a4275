"""Initial values of forms: from an endpoint, a message, an attempt or a curl command."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.http import QueryDict

from dashboard.forms.curl import CurlCommand
from dashboard.forms.fields import as_name
from dashboard.presenters.bodies import is_json, pretty_json
from dashboard.presenters.comparisons import sent_body
from dashboard.presenters.lines import as_lines
from integrations.models import Attempt, Draft, Endpoint, Message, Service
from integrations.outbound.redaction import MASK


class UnknownHost(ValueError):
    """No service has the base URL of a curl command. ``origin`` is the address to register, empty without a host."""

    def __init__(self, url: str) -> None:
        super().__init__(f"No service has the base URL of {url[:200]}")
        parts = urlsplit(url if "://" in url else f"http://{url}")
        self.origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
        self.name = as_name(parts.hostname or "") if parts.netloc else ""


def from_query(query: QueryDict) -> dict[str, Any]:
    """Initial values from the address: of an endpoint, a message, a call from the lab, or only of a service."""
    if message := Message.objects.select_related("service", "content").by_public_id(query.get("message", "")):
        return from_draft(message)
    if attempt := Attempt.objects.select_related("service", "endpoint", "message__content").by_public_id(
        query.get("attempt", "")
    ):
        return from_attempt(attempt)
    service, _, name = query.get("endpoint", "").rpartition("/")
    service = service or query.get("service", "")
    endpoint = Endpoint.objects.filter(service__name=service, name=name).select_related("service").first()
    if endpoint:
        return from_endpoint(endpoint)
    return {"service": service, "path": query.get("path", ""), "method": query.get("method", "POST")}


def from_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """Initial values for a call of an endpoint."""
    return {
        "service": endpoint.service.name,
        "endpoint": endpoint.name,
        "method": endpoint.method,
        "path": endpoint.path,
        "query": as_lines(endpoint.query, "="),
        "headers": as_lines(endpoint.headers, ": "),
        **body_fields(endpoint.body.encode(), endpoint.content_type),
    }


def from_draft(draft: Draft | Message) -> dict[str, Any]:
    """Initial values that repeat a message."""
    content = draft.content if isinstance(draft, Message) else draft
    return {
        "ordering_key": draft.ordering_key,
        "tags": as_lines(draft.tags, "="),
        "service": draft.service.name,
        "method": draft.method,
        "path": draft.path,
        "query": as_lines(content.query, "="),
        "headers": as_lines(content.headers, ": "),
        **body_fields(bytes(content.body), content.content_type),
    }


def from_attempt(attempt: Attempt) -> dict[str, Any]:
    """Initial values that repeat a call, without the headers that the service adds."""
    service = attempt.service
    base = service.base_url.partition("?")[0].rstrip("/")
    url = attempt.url.removeprefix(base) if base else attempt.url
    path, _, query = url.partition("?")
    own = {name.lower() for name in service.headers} | {"webhook-id", "webhook-timestamp", "webhook-signature"}
    headers = {name: value for name, value in attempt.request_headers if name.lower() not in own and MASK not in value}
    content_type = next((headers.pop(name) for name in list(headers) if name.lower() == "content-type"), "")
    return {
        "service": service.name,
        "endpoint": attempt.endpoint.name if attempt.endpoint else "",
        "method": attempt.method,
        "path": path or "/",
        "query": _query_lines(query),
        "headers": as_lines(headers, ": "),
        **body_fields(sent_body(attempt), content_type),
    }


def from_curl(command: CurlCommand) -> dict[str, Any]:
    """Initial values that repeat a curl command, for the service whose base URL it has. Raises UnknownHost."""
    bases = ((name, url.partition("?")[0].rstrip("/")) for name, url in Service.objects.values_list("name", "base_url"))
    fitting = [(base, name) for name, base in bases if base and re.match(rf"{re.escape(base)}(?=[/?]|$)", command.url)]
    if not fitting:
        raise UnknownHost(command.url)
    base, service = max(fitting, key=lambda pair: len(pair[0]))
    path, _, query = command.url.removeprefix(base).partition("?")
    headers = {name: value for name, value in command.headers.items() if name.lower() != "content-type"}
    return {
        "service": service,
        "method": command.method,
        "path": path.partition("#")[0] or "/",
        "query": _query_lines(query.partition("#")[0]),
        "headers": as_lines(headers, ": "),
        **body_fields(command.body.encode(errors="replace"), command.content_type),
    }


def _query_lines(query: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in parse_qsl(query, keep_blank_values=True))


def body_fields(body: bytes, content_type: str) -> dict[str, str]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"body_kind": "base64", "body": b64encode(body).decode(), "content_type": content_type}
    if text and is_json(text):
        return {"body_kind": "json", "body": pretty_json(text) or text, "content_type": content_type}
    kind = "text" if text else "json"
    return {"body_kind": kind, "body": text, "content_type": content_type}
