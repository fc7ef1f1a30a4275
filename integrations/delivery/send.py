"""Make a call: build its request, authenticate and send. Every failure is a value in the outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from http import HTTPStatus

from django.utils import timezone

from integrations.delivery import listeners, oauth
from integrations.delivery.claim import Claim
from integrations.delivery.request import build_call
from integrations.delivery.target import log
from integrations.logs import line
from integrations.models import Service
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome


@dataclass(frozen=True, slots=True)
class CallResult:
    """The result of one claim: the call, its outcome and when it started."""

    claim: Claim
    call: Call | None  # None if the request could not be built
    outcome: Outcome
    started_at: datetime


def new_client() -> Client:
    """Return a client that refuses calls to what this installation itself listens on."""
    return Client(own_listeners=listeners.known)


async def send(client: Client, claimed: Claim, now: datetime) -> CallResult:
    """Make the call of one claim."""
    target, message = claimed.target, claimed.message
    build = partial(build_call, target.service, message, identifier=message.wire_id, now=now, target=target)
    call, outcome = await make_call(client, target.service, build)
    return CallResult(claimed, call, outcome, now)


async def make_call(
    client: Client, service: Service, build: Callable[[], Call], *, bounded: Callable[[Call], Call] = lambda call: call
) -> tuple[Call | None, Outcome]:
    """Build, authenticate and send one call. Returns the call as it was sent, or None if it could not be built.

    ``bounded`` shortens the call's timeouts. It is applied again after a token was fetched, which takes time too.
    """
    try:
        call = bounded(build())
    except Exception as error:  # whatever a registration holds, the caller gets an outcome
        if not isinstance(error, ValueError):
            log.exception(line("unbuildable", service=service.name))
        reason = str(error) if isinstance(error, ValueError) else type(error).__name__
        return None, Outcome(fault=Fault.CONFIG, detail=f"the request cannot be built: {reason}")
    authorized = await oauth.authorized(client, service, call)
    if isinstance(authorized, Outcome):
        return call, authorized
    call = bounded(authorized)
    outcome = _explained(service, await client.send(call))
    if outcome.status_code == HTTPStatus.UNAUTHORIZED:
        oauth.forget(service, call)
    return call, outcome


def _explained(service: Service, outcome: Outcome) -> Outcome:
    """Say that the service's networks have ended, where that may be why a call was refused."""
    if outcome.fault is not Fault.BLOCKED or not service.networks_have_ended(timezone.now()):
        return outcome
    ended = f"its networks were allowed until {service.networks_until:%Y-%m-%d %H:%M} UTC"
    return replace(outcome, detail=f"{outcome.detail}; {ended}")
