"""The endpoint tester: one call by hand, through the same client, gate and request building as delivery.

It neither feeds nor obeys the breaker, the rate or a pause: who tests a service that is down wants to see it fail.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from integrations.delivery import oauth
from integrations.delivery.attempt import call_facts
from integrations.delivery.request import build_call
from integrations.models import Attempt, AuditEntry, Certificate, Endpoint, Result, Service, Trigger
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome
from integrations.outbound.redaction import redacted_bytes, redacted_headers, redacted_text, redacted_url

KEPT = 1024 * 1024  # bytes of an answer; a person looks at this one, so it is more than delivery keeps
UNFINISHED = "The call did not come to its end: the process that made it stopped."


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent; the service adds its address, headers and authentication."""

    service: Service
    method: str = "GET"
    path: str = "/"
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = ""
    endpoint: Endpoint | None = None
    timeout: float | None = None  # seconds; the service's own where it is None

    def call(self, identifier: str, now: datetime) -> Call:
        """Raises ValueError where the request cannot be built."""
        call = build_call(
            self.service,
            method=self.method,
            path=self.path,
            query=self.query,
            headers=self.headers,
            body=self.body,
            content_type=self.content_type,
            identifier=identifier,
            now=now,
        )
        total = self.timeout or call.total_timeout
        return replace(call, keep=KEPT, total_timeout=total, connect_timeout=min(call.connect_timeout, total))


@dataclass(frozen=True, slots=True)
class Preview:
    """The exact request, with its secrets masked."""

    method: str
    url: str
    headers: list[list[str]]
    body: bytes


def preview(request: Request) -> Preview:
    """What would be sent. Raises ValueError where the request cannot be built."""
    return shown(request.call("att_…", timezone.now()), request.service)


def shown(call: Call, service: Service) -> Preview:
    secrets = service.secret_values
    url = redacted_url(call.url, secrets)
    return Preview(call.method, url, redacted_headers(call.headers, secrets), redacted_bytes(call.body, secrets))


def run(request: Request, *, actor: str, client: Client | None = None) -> Attempt:
    """Makes the call, waits for its end and keeps it as an attempt that belongs to no message.

    Call it outside any transaction: the call may take as long as its timeout. ``actor`` is who asked.
    """
    attempt = _begin(request, actor)
    try:
        call = request.call(attempt.public_id, attempt.started_at)
    except ValueError as error:
        return _end(attempt, None, Outcome(fault=Fault.CONFIG, detail=f"the request cannot be built: {error}"))
    used = client or Client(own_ports=frozenset({settings.OWN_PORT} if settings.OWN_PORT else ()))
    ended = _end(attempt, *asyncio.run(_sent(used, request.service, call, closes=client is None)))
    Certificate.objects.note(used.take_certificates(), timezone.now())
    return ended


async def _sent(client: Client, service: Service, call: Call, *, closes: bool) -> tuple[Call, Outcome]:
    try:
        ready = await oauth.authorized(client, service, call)
        return (call, ready) if isinstance(ready, Outcome) else (ready, await client.send(ready))
    finally:
        if closes:
            await client.aclose()


def _begin(request: Request, actor: str) -> Attempt:
    """The attempt before its call: its id travels as ``webhook-id``, and a crash leaves a trace."""
    service, endpoint, secrets = request.service, request.endpoint, request.service.secret_values
    with transaction.atomic():
        attempt = Attempt.objects.create(
            service=service,
            endpoint=endpoint,
            trigger=Trigger.LAB,
            actor=actor[:150],
            started_at=timezone.now(),
            outcome=Result.LOST,
            fault=Fault.WORKER_LOST,
            detail=UNFINISHED,
            method=request.method,
            url=redacted_text(request.path, secrets),
            request_body=redacted_bytes(request.body, secrets),
            request_size=len(request.body),
        )
        AuditEntry.objects.record(
            actor,
            "lab.called",
            str(endpoint) if endpoint else service.name,
            after={"attempt": attempt.public_id, "method": request.method, "path": attempt.url},
        )
    return attempt


def _end(attempt: Attempt, call: Call | None, outcome: Outcome) -> Attempt:
    secrets = attempt.service.secret_values
    facts = call_facts(call, outcome, secrets)
    if call is None:  # nothing was built, so what was asked for stays
        facts = {name: value for name, value in facts.items() if name not in ("method", "url", "request_size")}
    for name, value in facts.items():
        setattr(attempt, name, value)
    attempt.outcome = Result.SUCCEEDED if outcome.succeeded else Result.FAILED
    attempt.response_body = redacted_bytes(outcome.body, secrets)
    attempt.save()
    return attempt
