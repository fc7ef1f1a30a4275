"""OAuth 2 client credentials (RFC 6749 §4.4): fetch bearer tokens with the client and checks that every call uses."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from integrations.models import Service
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome

REFRESH_BEFORE = 30.0  # seconds before a token expires that a new one is fetched
LIFETIME = 300.0  # seconds that a token without expires_in is used
RESPONSE_CAP = 64 * 1024  # bytes read from the token URL
LONGEST_USE = 86_400.0  # seconds that any token is used


@dataclass(frozen=True, slots=True)
class _Token:
    settings: tuple[str, ...]  # it was fetched with these; a changed secret needs a new token
    value: str
    usable_until: float  # time.monotonic()


# In memory only: a token is cheap to fetch again, and a stored one could leak.
_tokens: dict[int, _Token] = {}


async def authorized(client: Client, service: Service, call: Call) -> Call | Outcome:
    """Add the bearer token if the service uses OAuth 2. Returns the failed outcome if no token could be fetched."""
    if service.auth.get("type") != "oauth2":
        return call
    token = _usable_token(service)
    if token is None:
        fetched = await _fetch(client, service, call)
        if isinstance(fetched, Outcome):
            return fetched
        token = _tokens[service.pk] = fetched
    headers = [(name, value) for name, value in call.headers if name.lower() != "authorization"]
    return replace(call, headers=(*headers, ("Authorization", f"Bearer {token.value}")))


def forget(service: Service) -> None:
    """Drop the token, after a 401: the next call fetches a new one."""
    _tokens.pop(service.pk, None)


def _usable_token(service: Service) -> _Token | None:
    token = _tokens.get(service.pk)
    is_usable = token and token.settings == _settings(service) and token.usable_until > time.monotonic()
    return token if is_usable else None


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
            keep=RESPONSE_CAP,
            allowed=call.allowed,
        )
    )
    if not outcome.succeeded:
        return replace(outcome, body=b"", headers=(), detail=f"no token from the token URL: {outcome.detail}")
    return _read_token(service, outcome)


def _read_token(service: Service, outcome: Outcome) -> _Token | Outcome:
    try:
        response = json.loads(outcome.body)
        value, lifetime = response["access_token"], float(response.get("expires_in") or LIFETIME)
        if not isinstance(value, str) or not value.isascii() or not value.isprintable() or not lifetime > 0:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return Outcome(
            fault=Fault.PROTOCOL,
            detail="no token from the token URL: its answer holds no access_token",
            timings=outcome.timings,
        )
    usable_for = min(max(lifetime - REFRESH_BEFORE, lifetime / 2), LONGEST_USE)
    return _Token(_settings(service), value, time.monotonic() + usable_for)
