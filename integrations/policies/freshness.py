"""Decide how long a response may be reused: RFC 9111, as far as a small cache of GET responses needs it.

When in doubt, nothing is stored. A stale response is never returned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from integrations.outbound.outcome import Outcome
from integrations.policies.retry import http_date

Headers = Iterable[tuple[str, str]]

DIRECTIVE = re.compile(r'([a-z-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,;"]*)))?', re.IGNORECASE | re.ASCII)
NOT_SHARED = frozenset({"no-store", "no-cache", "private"})


def lifetime(outcome: Outcome, ttl: float, now: datetime) -> float:
    """Return the seconds for which a response to a GET may be reused: at most ``ttl``, 0 for not at all."""
    headers = outcome.headers
    if outcome.status_code != 200 or outcome.truncated or _values(headers, "set-cookie"):
        return 0
    directives = _directives(headers)
    if NOT_SHARED & directives.keys() or "*" in ",".join(_values(headers, "vary")):
        return 0
    return max(
        0.0,
        min(ttl, _stated_lifetime(headers, directives, ttl, now) - _seconds(",".join(_values(headers, "age")) or "0")),
    )


def accepts(headers: Headers, age: float) -> bool:
    """Whether a request with these headers accepts a response that is ``age`` seconds old."""
    headers = tuple(headers)
    directives = _directives(headers)
    if {"no-store", "no-cache"} & directives.keys() or "no-cache" in ",".join(_values(headers, "pragma")).lower():
        return False
    return "max-age" not in directives or age <= _shortest(directives["max-age"])


def may_be_stored(headers: Headers) -> bool:
    """Whether a request with these headers allows its response to be stored."""
    return "no-store" not in _directives(headers)


def _stated_lifetime(headers: Headers, directives: dict[str, list[str]], ttl: float, now: datetime) -> float:
    for name in ("s-maxage", "max-age"):
        if name in directives:
            return _shortest(directives[name])
    if not (expires := _values(headers, "expires")):
        return ttl
    ends, dated = http_date(expires[0]), http_date(",".join(_values(headers, "date"))) or now
    return (ends - dated).total_seconds() if ends and len(expires) == 1 else 0


def _directives(headers: Headers) -> dict[str, list[str]]:
    """Return each directive of all Cache-Control headers, with all its values."""
    found: dict[str, list[str]] = {}
    for name, quoted, plain in DIRECTIVE.findall(",".join(_values(headers, "cache-control"))):
        found.setdefault(name.lower(), []).append(quoted or plain)
    return found


def _shortest(values: list[str]) -> float:
    return min(map(_seconds, values))


def _seconds(text: str) -> float:
    """Parse delta-seconds; 0 for junk, as RFC 9111 section 4.2.1 advises for a lifetime."""
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _values(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name]
