"""The lab: one call on an operator's request, with the client, checks and request building that delivery uses.

It neither feeds nor obeys the breaker, the rate or a pause: an operator who tests a service that is down wants to see
it fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from threading import Event
from time import monotonic
from typing import Any

from django.db import transaction
from django.utils import timezone

from integrations.delivery import listeners, unqueued_call
from integrations.delivery.request import build_call, credential_headers
from integrations.delivery.send import make_call, new_client
from integrations.delivery.target import target_of
from integrations.models import Attempt, AuditEntry, Certificate, Endpoint, Service, Trigger
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome, Timings
from integrations.outbound.redaction import redacted_headers, redacted_url

LOOK_EVERY = 0.25  # seconds between two looks whether a call was cancelled
CANCELLED = "cancelled: the operator closed the connection before the response was complete"
STORED = 1024 * 1024  # bytes of a response; an operator reads this one, so it is more than delivery stores


@dataclass(frozen=True, slots=True)
class LabRequest:
    """A request to a service, which adds its address, headers and authentication."""

    service: Service  # with all its columns: the call is built on the event loop, where none can be read
    method: str = "GET"
    path: str = "/"
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = ""
    endpoint: Endpoint | None = None
    timeout: float | None = None  # seconds; None takes the service's own

    def call(self, identifier: str, now: datetime) -> Call:
        """Build the call. Raises ValueError if the request cannot be built."""
        call = build_call(self.service, self, identifier=identifier, now=now)
        total = self.timeout or call.total_timeout
        return replace(call, keep=STORED, total_timeout=total, connect_timeout=min(call.connect_timeout, total))


@dataclass(frozen=True, slots=True)
class RequestPreview:
    """The exact request, with its secrets masked."""

    method: str
    url: str
    headers: list[list[str]]
    body: bytes


def preview(request: LabRequest) -> RequestPreview:
    """Show the request that ``run`` would send. Raises ValueError if it cannot be built.

    The operator's own text stays as typed, masked by names only: a preview that masked every text equal to a secret
    would tell which guess is right, some 250,000 guesses a second without a call or an audit entry.
    """
    service, call = request.service, request.call("att_…", timezone.now())
    ours = credential_headers(service)
    headers = [
        redacted_headers([(name, value)], service.secret_values if name.lower() in ours else ())[0]
        for name, value in call.headers
    ]
    return RequestPreview(call.method, redacted_url(call.url), headers, call.body)


def masked(call: Call, service: Service) -> RequestPreview:
    """Show a stored call without the service's secrets; its body is shown as it is stored."""
    secrets = service.secret_values
    return RequestPreview(
        call.method, redacted_url(call.url, secrets), redacted_headers(call.headers, secrets), call.body
    )


def run(request: LabRequest, *, actor: str, client: Client | None = None) -> Attempt:
    """Make the call, wait for its end and record it as an attempt without a message.

    Call it outside any transaction: the call may take as long as its timeout. ``actor`` is the operator who asked.
    """
    listeners.refresh_if_old()
    attempt = _begin(request, actor)
    used = client or new_client()
    call, outcome = _sent(used, request, attempt, closes=client is None)
    unqueued_call.end(attempt, unqueued_call.end_columns(target_of(request.service), call, outcome))
    Certificate.objects.record(used.take_certificates(), timezone.now())
    return attempt


def _begin(request: LabRequest, actor: str) -> Attempt:
    service, endpoint = request.service, request.endpoint
    with transaction.atomic():
        attempt = unqueued_call.begin(
            target_of(service),
            request,
            trigger=Trigger.LAB,
            started_at=timezone.now(),
            actor=actor,
            endpoint=endpoint,
        )
        AuditEntry.objects.record(
            actor,
            "lab.called",
            str(endpoint) if endpoint else service.name,
            after={"attempt": attempt.public_id, "method": request.method, "path": attempt.url},
        )
    return attempt


def _sent(client: Client, request: LabRequest, attempt: Attempt, *, closes: bool) -> tuple[Call | None, Outcome]:
    """Make the call in a thread of its own, and look here whether its operator has cancelled it."""
    cancelled = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="lab") as thread:
        sending = thread.submit(asyncio.run, _send(client, request, attempt, cancelled, closes=closes))
        while True:
            try:
                return sending.result(timeout=LOOK_EVERY)
            except TimeoutError:
                if not cancelled.is_set() and unqueued_call.is_cancelled(attempt):
                    cancelled.set()


async def _send(
    client: Client, request: LabRequest, attempt: Attempt, cancelled: Event, *, closes: bool
) -> tuple[Call | None, Outcome]:
    build, began = partial(request.call, attempt.public_id, attempt.started_at), monotonic()
    call = asyncio.ensure_future(make_call(client, request.service, build))
    try:
        while not cancelled.is_set():
            done, _ = await asyncio.wait({call}, timeout=LOOK_EVERY)
            if done:
                return call.result()
        call.cancel()  # closes its connection
        with suppress(asyncio.CancelledError):
            await call
        took = Timings(total=monotonic() - began)
        return _built(build), Outcome(fault=Fault.RESET, detail=CANCELLED, timings=took)
    finally:
        if closes:
            await client.aclose()


def _built(build: Callable[[], Call]) -> Call | None:
    try:
        return build()
    except ValueError:
        return None
