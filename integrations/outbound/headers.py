"""The headers that a call may carry (RFC 9110 sections 5.6.2 and 7.6.1, RFC 9112 section 6)."""

from __future__ import annotations

import re
from functools import lru_cache

HEADER_NAME_LIMIT, HEADER_VALUE_LIMIT = 256, 8 * 1024  # characters; common servers take as many
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def header_refusal(name: str, value: str, *, own: bool = False) -> str | None:
    """Return the reason why a header cannot be sent, or None. ``own``: Switchboard itself sets it, so ``webhook-*`` is
    allowed."""
    if len(name) > HEADER_NAME_LIMIT:  # before the cache, which must hold no long text
        return f"a header name must have at most {HEADER_NAME_LIMIT} characters"
    if reason := _name_refusal(name):
        return reason
    if not own and name.lower().startswith("webhook-"):
        return f"Switchboard sets {name} itself: choose another name"
    if not own and (name.lower() == "expect" or name.lower().replace("_", "-") in FORBIDDEN_HEADERS):
        # An upstream's proxy may wait after Expect, or read content_length as Content-Length: both help to smuggle a
        # request. Only refused as new: the calls of accepted messages may still carry one.
        return f"{name} may be taken for a header of the connection: it cannot be set"
    if len(value) > HEADER_VALUE_LIMIT:
        return f"the value of {name} must have at most {HEADER_VALUE_LIMIT} characters"
    if value.isascii() and value.isprintable():
        return None
    if CONTROL.search(value):
        return f"remove the control characters or line breaks from the value of {name}"
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return f"the value of {name} contains characters that a header cannot carry: use Latin-1"
    return None


@lru_cache(maxsize=1024)
def _name_refusal(name: str) -> str | None:
    if not TOKEN.fullmatch(name):
        return "a header name must consist of letters, digits and hyphens" if name else "a header needs a name"
    if name.lower() in FORBIDDEN_HEADERS or name.lower().startswith("proxy-"):
        return f"{name} belongs to the connection: it cannot be set"
    return None


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
