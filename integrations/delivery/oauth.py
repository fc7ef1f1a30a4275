"""OAuth 2 client credentials (RFC 6749 §4.4): a bearer token, fetched through the same client and gate as any call."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from integrations.models import Service
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome

REFRESH_BEFORE = 30.0  # seconds before its end that a token is not used any more
LIFETIME = 300.0  # seconds for a token that does not say how long it lives
ANSWER_CAP = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Token:
    made_for: tuple[str, ...]  # the settings it was fetched with: a changed secret asks for a new one
    value: str
    usable_until: float  # time.monotonic()


# Kept in the process alone: a token is cheap to fetch again and dear to leave lying about.
_tokens: dict[int, _Token] = {}


async def authorized(client: Client, service: Service, call: Call) -> Call | Outcome:
    """The call with its bearer token where the service uses OAuth 2; an Outcome where no token could be had."""
    if service.auth.get("type") != "oauth2":
        return call
    token = _kept(service)
    if token is None:
        fetched = await _fetch(client, service, call)
        if isinstance(fetched, Outcome):
            return fetched
        token = _tokens[service.pk] = fetched
    headers = [(name, value) for name, value in call.headers if name.lower() != "authorization"]
    return replace(call, headers=(*headers, ("Authorization", f"Bearer {token.value}")))


def forget(service: Service) -> None:
    """After a 401 the token is worth nothing; the next call fetches another."""
    _tokens.pop(service.pk, None)


def _kept(service: Service) -> _Token | None:
    token = _tokens.get(service.pk)
    stands = token and token.made_for == _settings(service) and token.usable_until > time.monotonic()
    return token if stands else None


def _settings(service: Service) -> tuple[str, ...]:
    auth = service.auth
    return (auth["token_url"], auth["client_id"], auth.get("scope", ""), service.secret("auth.client_secret") or "")


async def _fetch(client: Client, service: Service, call: Call) -> _Token | Outcome:
    token_url, client_id, scope, client_secret = _settings(service)
    form = {"grant_type": "client_credentials", **({"scope": scope} if scope else {})}
    pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"  # RFC 6749 §2.3.1
    outcome = await client.send(
        Call(
            method="POST",
            url=token_url,
            headers=(
                ("Authorization", f"Basic {b64encode(pair.encode()).decode()}"),
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("Accept", "application/json"),
            ),
            body=urlencode(form).encode(),
            connect_timeout=call.connect_timeout,
            total_timeout=call.total_timeout,
            keep=ANSWER_CAP,
            allowed=call.allowed,
        )
    )
    if not outcome.succeeded:
        return replace(outcome, body=b"", headers=(), detail=f"no token from the token URL: {outcome.detail}")
    return _read(service, outcome)


def _read(service: Service, outcome: Outcome) -> _Token | Outcome:
    try:
        answer = json.loads(outcome.body)
        value, lifetime = answer["access_token"], float(answer.get("expires_in") or LIFETIME)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not lifetime > 0:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return Outcome(
            fault=Fault.PROTOCOL,
            detail="no token from the token URL: its answer holds no access_token",
            timings=outcome.timings,
        )
    usable = min(max(lifetime - REFRESH_BEFORE, lifetime / 2), 86_400.0)
    return _Token(_settings(service), value, time.monotonic() + usable)
