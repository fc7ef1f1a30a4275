"""Make the call of one claim. Every failure is a value in the outcome."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus

from integrations.delivery import oauth
from integrations.delivery.claim import Claim
from integrations.delivery.request import build_call
from integrations.delivery.target import log
from integrations.logs import line
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of a claim."""

    claim: Claim
    call: Call | None
    outcome: Outcome
    started_at: datetime


async def send(client: Client, claimed: Claim, now: datetime) -> CallResult:
    """Makes the call. Whatever goes wrong is in the outcome."""
    message = claimed.message
    try:
        call = build_call(
            claimed.target.service,
            method=message.method,
            path=message.path,
            query=message.query,
            headers=message.headers,
            body=bytes(message.body),
            content_type=message.content_type,
            identifier=message.wire_id,
            now=now,
            target=claimed.target,
        )
    except Exception as error:  # whatever a registration holds, the pump goes on
        if not isinstance(error, ValueError):
            log.exception(line("unbuildable", message=message.public_id))
        words = str(error) if isinstance(error, ValueError) else type(error).__name__
        outcome = Outcome(fault=Fault.CONFIG, detail=f"the request cannot be built: {words}")
        return CallResult(claimed, None, outcome, now)
    ready = await oauth.authorized(client, claimed.target.service, call)
    if isinstance(ready, Outcome):
        return CallResult(claimed, call, ready, now)
    outcome = await client.send(ready)
    if outcome.status_code == HTTPStatus.UNAUTHORIZED:
        oauth.forget(claimed.target.service)
    return CallResult(claimed, ready, outcome, now)
