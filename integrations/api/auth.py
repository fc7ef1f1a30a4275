"""What is decided before a call's body is looked at: who calls, whether the role is enough, how often, how much."""

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
RATE = 200.0  # requests a second and token; SWITCHBOARD_TOKEN_RATE where settings know it


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call: ``actor`` for the audit, ``owner`` for what is kept per token."""

    actor: str
    role: Role
    owner: str
    expires_at: datetime | None = None  # of the token
    session: str = ""  # its key, where a page calls


def caller(request: HttpRequest) -> Caller:
    """Return the caller that `Bearer` let in."""
    return cast(Caller, request.auth)  # type: ignore[attr-defined]


class Bearer(AuthBase):
    """Lets in a token, or for GET a signed-in person of the same origin, with at least the ``needed`` role."""

    openapi_type = "http"
    openapi_scheme = "bearer"
    openapi_description = "A token, made by an admin or by `manage.py token`."

    def __init__(self, needed: Role, body_limit: int = BODY_LIMIT) -> None:
        super().__init__()
        self.needed = needed
        self.body_limit = body_limit

    def __call__(self, request: HttpRequest) -> Caller:
        who = identify(request)
        self.admit(who)
        read_body(request, self.body_limit)
        return who

    def admit(self, who: Caller) -> None:
        """Raises Problem(429) or Problem(403). It touches no database."""
        if wait := buckets.take(who.owner):
            raise Problem(
                429, "This token sends too many requests a second.", headers={"Retry-After": str(math.ceil(wait))}
            )
        if not who.role.covers(self.needed):
            raise Problem(403, f"This needs the {self.needed} role; yours is {who.role}.")


def identify(request: HttpRequest) -> Caller:
    """Who calls, as the database has it. Raises Problem(401)."""
    who = _by_token(request) or _by_session(request)
    if who is None:
        raise Problem(401, "Send Authorization: Bearer TOKEN.", headers=CHALLENGE)
    return who


def _by_token(request: HttpRequest) -> Caller | None:
    given = request.headers.get("Authorization")
    if given is None:
        return None
    scheme, _, secret = given.partition(" ")
    token = Token.objects.holding(secret.strip()) if scheme.lower() == "bearer" else None
    if token is None:
        refused = {"WWW-Authenticate": f'{CHALLENGE["WWW-Authenticate"]}, error="invalid_token"'}
        raise Problem(401, "This token is not valid, or no longer.", headers=refused)
    token.touch()
    return Caller(f"token {token.name}", Role(token.role), f"token {token.pk}", token.expires_at)


def _by_session(request: HttpRequest) -> Caller | None:
    """Pages of our own origin may read with their session; writing needs a token, which no other site can send."""
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


def is_signed_in(who: Caller) -> bool:
    """Whether the session that a page has called with stands, and is still this person's."""
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(who.session)
    person = get_user(request)
    return isinstance(person, Account) and person.is_active and f"person {person.pk}" == who.owner


def read_body(request: HttpRequest, limit: int) -> None:
    """Reads at most ``limit`` bytes into ``request.body``; raises Problem(413), unread where the length says so."""
    length = announced(request, limit)
    source = request
    if not length and "chunked" in request.headers.get("Transfer-Encoding", "").lower():
        # WSGI has no length for a chunked body, and Django reads none then; the server's stream knows its end.
        source = getattr(request, "environ", {}).get("wsgi.input", request)
    try:
        body = source.read(limit + 1)
    except (UnreadablePostError, OSError):
        raise Problem(400, "The body ended early.") from None
    if len(body) > limit:
        raise too_large(limit)
    request._body = body


def announced(request: HttpRequest, limit: int) -> int:
    """The body's length by its header, 0 without one. Raises Problem(413) or Problem(400)."""
    try:
        length = int(request.META.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise Problem(400, "Content-Length is not a number.") from None
    if length > limit:
        raise too_large(limit)
    return length


def too_large(limit: int) -> Problem:
    return Problem(413, f"The body is larger than {limit:,} bytes.")


class Buckets:
    """A token bucket for each caller, in this process: a burst of one second's worth, then an even rate."""

    KEPT = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}  # owner: (requests left, as of)

    def take(self, owner: str) -> float:
        """Seconds to wait until the next request is allowed; 0 where this one is."""
        rate = float(getattr(settings, "TOKEN_RATE", RATE))
        if rate <= 0:
            return 0
        now = time.monotonic()
        with self._lock:
            left, since = self._levels.get(owner, (rate, now))
            left = min(rate, left + (now - since) * rate)
            allowed = left >= 1
            if len(self._levels) > self.KEPT:
                self._levels.clear()
            self._levels[owner] = (left - 1 if allowed else left, now)
        return 0 if allowed else (1 - left) / rate


buckets = Buckets()

viewer = Bearer(Role.VIEWER)
operator = Bearer(Role.OPERATOR)
operator_batch = Bearer(Role.OPERATOR, BATCH_LIMIT)
admin = Bearer(Role.ADMIN)
