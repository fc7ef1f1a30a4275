"""Which headers a call may carry (RFC 9110 section 5.6.2 and 7.6.1, RFC 9112 section 6)."""

from __future__ import annotations

import re
from functools import lru_cache

HEADER_NAME_LIMIT, HEADER_VALUE_LIMIT = 256, 8 * 1024  # characters; what common servers take
# Connection, framing and routing belong to the transport (RFC 9110 section 7.6.1, RFC 9112 section 6).
FORBIDDEN_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def header_refusal(name: str, value: str, *, own: bool = False) -> str | None:
    """Why a header can't be sent, in words, or ``None``. ``own`` lets our delivery code set ``webhook-*``."""
    if words := _name_refusal(name):
        return words
    if not own and name.lower().startswith("webhook-"):
        return f"{name} is set by Switchboard itself"
    if len(value) > HEADER_VALUE_LIMIT:
        return f"the value of {name} is longer than {HEADER_VALUE_LIMIT} characters"
    if value.isascii() and value.isprintable():
        return None
    if CONTROL.search(value):
        return f"the value of {name} has control characters or line breaks"
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return f"the value of {name} has characters that a header cannot carry"
    return None


@lru_cache(maxsize=1024)
def _name_refusal(name: str) -> str | None:
    if len(name) > HEADER_NAME_LIMIT:
        return f"a header's name has at most {HEADER_NAME_LIMIT} characters"
    if not TOKEN.fullmatch(name):
        return "a header's name has only letters, digits and hyphens" if name else "a header has a name"
    if name.lower() in FORBIDDEN_HEADERS or name.lower().startswith("proxy-"):
        return f"{name} belongs to the connection and cannot be set"
    return None
