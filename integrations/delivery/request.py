"""Build the request of a call: the service's address, headers and authentication around the content."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode
from datetime import datetime
from typing import Any, Protocol

from integrations.delivery.target import Target, target_of
from integrations.models import Service
from integrations.outbound.client import Call
from integrations.outbound.urls import path_refusal, url_below
from integrations.policies import trace


class RequestParts(Protocol):
    """The parts of a request that do not come from the service: a claimed message, a draft or a lab request."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...  # below the service's address
    @property
    def query(self) -> dict[str, Any]: ...
    @property
    def headers(self) -> dict[str, str]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def content_type(self) -> str: ...


def build_call(
    service: Service, parts: RequestParts, *, identifier: str, now: datetime, target: Target | None = None
) -> Call:
    """Build the call exactly as it goes out, but for an OAuth token: see oauth.py.

    ``identifier`` becomes ``webhook-id``. Raises ValueError if the request cannot be built.
    """
    target = target or target_of(service)
    if not service.base_url:
        raise ValueError("the service has no address")
    if refusal := path_refusal(parts.path):  # the path may have been stored before this rule
        raise ValueError(refusal)
    body = bytes(parts.body)
    merged: dict[str, tuple[str, str]] = {}
    for name, value in [*service.headers.items(), *parts.headers.items()]:
        merged[name.lower()] = (name, value)
    if parts.content_type and "content-type" not in merged:
        merged["content-type"] = ("Content-Type", parts.content_type)
    for name, value in [
        *_credentials(service, body),
        ("webhook-id", identifier),
        ("webhook-timestamp", str(int(now.timestamp()))),
        *target.signer.headers(identifier, now, body),
    ]:
        merged[name.lower()] = (name, value)
    if trace.PARENT in merged:  # each call is a span of its own
        name, value = merged[trace.PARENT]
        merged[trace.PARENT] = (name, trace.child(value, secrets.token_hex(8)))
    return Call(
        method=parts.method,
        url=url_below(service.base_url, parts.path, parts.query),
        headers=tuple(merged.values()),
        body=body,
        connect_timeout=target.timeouts.connect_within,
        total_timeout=target.timeouts.total,
        keep=service.response_cap,
        allowed=target.allowed_at(now),
        service=service.name,
    )


def _credentials(service: Service, body: bytes) -> list[tuple[str, str]]:
    """The headers that authenticate us to the service. Raises ValueError for a secret of another address."""
    auth = service.auth
    match auth.get("type"):
        case "basic":
            pair = f"{auth['username']}:{service.secret_for_call('auth.password')}"
            return [("Authorization", f"Basic {b64encode(pair.encode()).decode()}")]
        case "bearer":
            return [("Authorization", f"Bearer {service.secret_for_call('auth.token')}")]
        case "header":
            return [(auth["name"], service.secret_for_call("auth.value"))]
        case "hmac":
            key = service.secret_for_call("auth.secret").encode()
            return [(auth["header"], hmac.new(key, body, hashlib.sha256).hexdigest())]
        case "oauth2":
            service.secret_for_call("auth.client_secret")  # the token takes a call of its own: see oauth.py
    return []


def credential_headers(service: Service) -> frozenset[str]:
    """The names, in lower case, of the headers that a call gets from the service's ``auth``."""
    auth = service.auth
    names = {"none": "", "header": auth.get("name", ""), "hmac": auth.get("header", "")}
    return frozenset({names.get(auth.get("type", "none"), "authorization").lower()} - {""})
