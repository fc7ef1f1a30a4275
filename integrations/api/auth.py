"""The checks before a request is parsed: caller, role, request rate, size of the body."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import cast

from django.conf import settings
from django.contrib.auth import get_user
from django.http import HttpRequest, UnreadablePostError
from ninja.security.base import AuthBase

from integrations.api.problems import CHALLENGE, Problem
from integrations.models import Account, Role, Token

BODY_LIMIT = 2 * 1024 * 1024  # bytes of a request's body
BATCH_LIMIT = 16 * 1024 * 1024
RATE = 200.0  # requests a second per token, unless SWITCHBOARD_TOKEN_RATE sets another rate


@dataclass(frozen=True, slots=True)
class Caller:
    """The token or person behind a request: ``actor`` for the audit, ``owner`` as the key of rates and idempotency."""

    actor: str
    role: Role
    owner: str
    expires_at: datetime | None = None  # of the token
    session: str = ""  # session key of a page's request
    token_id: int | None = None


def caller(request: HttpRequest) -> Caller:
    """Return the caller that `Bearer` let in."""
    return cast(Caller, request.auth)  # type: ignore[attr-defined]


class Bearer(AuthBase):
    """Admit a token, or for GET a signed-in person of the same origin, with at least the ``needed`` role.

    ninja names the security scheme of the OpenAPI document after this class.
    """

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_description = "An API token. An admin creates one in the console, or with `manage.py token`."

    def __init__(self, needed: Role, body_limit: int = BODY_LIMIT) -> None:
        super().__init__()
        self.needed = needed
        self.body_limit = body_limit

    def __call__(self, request: HttpRequest) -> Caller:
        identified = identify(request)
        self.admit(identified)
        read_body(request, self.body_limit)
        return identified

    def admit(self, identified: Caller) -> None:
        """Check rate and role, without the database. Raises Problem(429) or Problem(403)."""
        if wait := buckets.take(identified.owner):
            seconds = math.ceil(wait)
            raise Problem(
                429,
                f"This token sends too many requests. Try again after {seconds} s.",
                headers={"Retry-After": str(seconds)},
            )
        if not identified.role.covers(self.needed):
            raise Problem(403, f"This needs the {self.needed} role; yours is {identified.role}.")


def identify(request: HttpRequest) -> Caller:
    """Look up the caller in the database. Raises Problem(401)."""
    identified = _by_token(request) or _by_session(request)
    if identified is None:
        raise Problem(401, "Send Authorization: Bearer TOKEN.", headers=CHALLENGE)
    return identified


def _by_token(request: HttpRequest) -> Caller | None:
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, secret = header.partition(" ")
    token = Token.objects.holding(secret.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        challenge = {"WWW-Authenticate": f'{CHALLENGE["WWW-Authenticate"]}, error="invalid_token"'}
        raise Problem(401, "This token is unknown, revoked or expired.", headers=challenge)
    token.touch()
    return Caller(f"token {token.name}", Role(token.role), f"token {token.pk}", token.expires_at, token_id=token.pk)


def _by_session(request: HttpRequest) -> Caller | None:
    """Let pages of the same origin read with their session. Writing needs a token, which no other site can send."""
    if request.method != "GET" or request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return None
    person = request.user
    if not isinstance(person, Account) or not person.is_active:
        return None
    return Caller(
        actor=f"person {person.username}",
        role=Role(person.role),
        owner=f"person {person.pk}",
        session=request.session.session_key or "",
    )


def is_signed_in(page: Caller) -> bool:
    """Check whether the session of a page is still valid and still belongs to the same person."""
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(page.session)
    person = get_user(request)
    return isinstance(person, Account) and person.is_active and f"person {person.pk}" == page.owner


def read_body(request: HttpRequest, limit: int) -> None:
    """Read at most ``limit`` bytes into ``request.body``. Raises Problem(413), before reading if the length says so."""
    announced_length(request, limit)
    try:
        body = request.read(limit + 1)
    except (UnreadablePostError, OSError):
        raise Problem(400, "The connection was closed before the end of the body.") from None
    if len(body) > limit:
        raise too_large(limit)
    request._body = body


def announced_length(request: HttpRequest, limit: int) -> int:
    """Return Content-Length, 0 without the header. Raises Problem(413) or Problem(400)."""
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise Problem(400, "Content-Length must be a number.") from None
    if length > limit:
        raise too_large(limit)
    return length


def too_large(limit: int) -> Problem:
    return Problem(413, f"The body is too large; the limit is {limit:,} bytes.")


class Buckets:
    """A token bucket per caller and process: a burst of one second's requests, then an even rate."""

    LIMIT = 10_000  # callers; then all buckets start full again

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}  # owner: (requests left, as of)

    def take(self, owner: str) -> float:
        """Take one request. Return the seconds to wait, 0 if it is allowed."""
        rate = float(getattr(settings, "TOKEN_RATE", RATE))
        if rate <= 0:
            return 0
        now = time.monotonic()
        with self._lock:
            left, since = self._levels.get(owner, (rate, now))
            left = min(rate, left + (now - since) * rate)
            allowed = left >= 1
            if len(self._levels) > self.LIMIT:
                self._levels.clear()
            self._levels[owner] = (left - 1 if allowed else left, now)
        return 0 if allowed else (1 - left) / rate


buckets = Buckets()

viewer = Bearer(Role.VIEWER)
operator = Bearer(Role.OPERATOR)
operator_batch = Bearer(Role.OPERATOR, BATCH_LIMIT)
admin = Bearer(Role.ADMIN)
