"""OAuth 2 client credentials (RFC 6749 §4.4): fetch bearer tokens with the client and checks that every call uses.

Calls that need a token at the same time wait for one fetch.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from base64 import b64encode
from dataclasses import dataclass, replace
from http import HTTPStatus
from urllib.parse import quote, urlencode

from integrations.models import Service
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome, Timings

REFRESH_BEFORE = 30.0  # seconds before a token expires that a new one is fetched
LIFETIME = 300.0  # seconds that a token without expires_in is used
RESPONSE_CAP = 64 * 1024  # bytes read from the token URL
LONGEST_USE = 86_400.0  # seconds that any token is used
REAUTHORISE = "re-authorise"  # the first word of the detail when the token URL refused the client
REFUSALS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED)  # RFC 6749 §5.2: the client, not the moment, is wrong


@dataclass(frozen=True, slots=True)
class _Token:
    settings: tuple[str, ...]  # it was fetched with these; a changed secret needs a new token
    value: str
    usable_until: float  # time.monotonic()


# In memory only: a token is cheap to fetch again, and a stored one could leak.
_tokens: dict[int, _Token] = {}
# Fetches that are running, by event loop, service and settings.
_fetches: dict[tuple[object, int, tuple[str, ...]], asyncio.Task[_Token | Outcome]] = {}


async def authorized(client: Client, service: Service, call: Call) -> Call | Outcome:
    """Add the bearer token if the service uses OAuth 2. Returns the failed outcome if no token could be fetched."""
    if service.auth.get("type") != "oauth2":
        return call
    token = _usable_token(service) or await _shared_fetch(client, service, call)
    if isinstance(token, Outcome):
        return token
    headers = [(name, value) for name, value in call.headers if name.lower() != "authorization"]
    return replace(call, headers=(*headers, ("Authorization", f"Bearer {token.value}")))


def forget(service: Service, call: Call) -> None:
    """Drop the token of a call that got a 401: the next call fetches a new one.

    A token that was fetched after that call stays.
    """
    token = _tokens.get(service.pk)
    if token and ("Authorization", f"Bearer {token.value}") in call.headers:
        del _tokens[service.pk]


async def _shared_fetch(client: Client, service: Service, call: Call) -> _Token | Outcome:
    """Wait for the running fetch of this token, or start it; no longer than the call's own timeout."""
    key = (asyncio.get_running_loop(), service.pk, _settings(service))
    if (fetch := _fetches.get(key)) is None:
        fetch = _fetches[key] = asyncio.create_task(_fetch(client, service, call))
        fetch.add_done_callback(lambda _: _fetches.pop(key, None))
    try:
        async with asyncio.timeout(call.total_timeout):
            return await asyncio.shield(fetch)  # a caller that gives up must not end the fetch of the others
    except TimeoutError:
        detail = f"no token from the token URL within {call.total_timeout:g} s"
        return Outcome(fault=Fault.TIMEOUT, detail=detail, timings=Timings(total=call.total_timeout))


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
    timeouts = service.timeouts  # those of the call may be shorter, and other calls wait too
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
            connect_timeout=timeouts.connect_within,
            total_timeout=timeouts.total,
            keep=RESPONSE_CAP,
            allowed=call.allowed,
            service=call.service,
        )
    )
    if outcome.status_code in REFUSALS:
        return _refused(outcome)
    if not outcome.succeeded:
        return replace(outcome, body=b"", headers=(), detail=f"no token from the token URL: {outcome.detail}")
    token = _read_token(service, outcome)
    if isinstance(token, _Token):
        _tokens[service.pk] = token
    return token


def _refused(outcome: Outcome) -> Outcome:
    """The token URL does not accept this client: only an operator can help, so nothing is retried."""
    found = re.search(rb'"error"\s*:\s*"([a-z_]{1,40})"', outcome.body)
    reason = f"{outcome.status_code} {found[1].decode()}" if found else str(outcome.status_code)
    return Outcome(
        fault=Fault.CONFIG,
        detail=f"{REAUTHORISE}: the token URL refused the client ({reason}); check client ID, client secret and scope",
        timings=outcome.timings,
    )


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
