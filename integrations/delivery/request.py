"""Build the request of a call: the service's address, headers and authentication around the content."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from integrations.delivery.target import Target, target_of
from integrations.models import (
    Service,
)
from integrations.outbound.client import Call


def build_call(
    service: Service,
    *,
    method: str,
    path: str,
    query: dict[str, Any],
    headers: dict[str, str],
    body: bytes,
    content_type: str,
    identifier: str,
    now: datetime,
    target: Target | None = None,
) -> Call:
    """The call as it goes out: the service's address, headers and authentication around what is to be sent.

    ``identifier`` becomes ``webhook-id``. Raises ValueError where the request cannot be built.
    """
    target = target or target_of(service)
    if not service.base_url:
        raise ValueError("the service has no address")
    merged: dict[str, tuple[str, str]] = {}
    for name, value in [*service.headers.items(), *headers.items()]:
        merged[name.lower()] = (name, value)
    if content_type and "content-type" not in merged:
        merged["content-type"] = ("Content-Type", content_type)
    for name, value in [
        *_proof(service, body),
        ("webhook-id", identifier),
        ("webhook-timestamp", str(int(now.timestamp()))),
        *target.signer.headers(identifier, now, body),
    ]:
        merged[name.lower()] = (name, value)
    return Call(
        method=method,
        url=_address(service.base_url, path, query),
        headers=tuple(merged.values()),
        body=body,
        connect_timeout=target.timeouts.connect_within,
        total_timeout=target.timeouts.total,
        keep=service.response_cap,
        allowed=target.allowed,
    )


def _address(base: str, path: str, query: dict[str, Any]) -> str:
    """The path below the service's address; parameters of the address come first."""
    base, _, own_query = base.partition("?")
    parameters = "&".join(part for part in (own_query, urlencode(query, doseq=True) if query else "") if part)
    return base.rstrip("/") + path + (f"?{parameters}" if parameters else "")


def _proof(service: Service, body: bytes) -> list[tuple[str, str]]:
    """The headers that prove who is calling."""
    auth = service.auth
    match auth.get("type"):
        case "basic":
            pair = f"{auth['username']}:{service.secret('auth.password') or ''}"
            return [("Authorization", f"Basic {b64encode(pair.encode()).decode()}")]
        case "bearer":
            return [("Authorization", f"Bearer {service.secret('auth.token') or ''}")]
        case "header":
            return [(auth["name"], service.secret("auth.value") or "")]
        case "hmac":
            key = (service.secret("auth.secret") or "").encode()
            return [(auth["header"], hmac.new(key, body, hashlib.sha256).hexdigest())]
    return []  # OAuth 2 needs a call of its own: see oauth.py
