"""How long an answer may be given again: RFC 9111 as far as a small cache of GET answers needs it.

Careful rather than clever: what is not plainly allowed is not kept, and what is stale is never given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from integrations.outbound.outcome import Outcome
from integrations.policies.retry import http_date

Headers = Iterable[tuple[str, str]]

_DIRECTIVE = re.compile(r'([a-z-]+)(?:\s*=\s*(?:"([^"]*)"|([^\s,;"]*)))?', re.IGNORECASE | re.ASCII)
_SECRET_TO_ONE = frozenset({"no-store", "no-cache", "private"})


def lifetime(outcome: Outcome, ttl: float, now: datetime) -> float:
    """Seconds for which an answer to a GET may be given again: at most ``ttl``, 0 for not at all."""
    headers = outcome.headers
    if outcome.status_code != 200 or outcome.truncated or _values(headers, "set-cookie"):
        return 0
    directives = _directives(headers)
    if _SECRET_TO_ONE & directives.keys() or "*" in ",".join(_values(headers, "vary")):
        return 0
    return max(0.0, min(ttl, _said(headers, directives, ttl, now) - _seconds(",".join(_values(headers, "age")) or "0")))


def accepts(headers: Headers, age: float) -> bool:
    """Whether a request with these headers takes an answer that is ``age`` seconds old."""
    headers = tuple(headers)
    directives = _directives(headers)
    if {"no-store", "no-cache"} & directives.keys() or "no-cache" in ",".join(_values(headers, "pragma")).lower():
        return False
    return "max-age" not in directives or age <= _shortest(directives["max-age"])


def may_be_kept(headers: Headers) -> bool:
    """Whether a request with these headers lets its answer be kept."""
    return "no-store" not in _directives(headers)


def _said(headers: Headers, directives: dict[str, list[str]], ttl: float, now: datetime) -> float:
    for name in ("s-maxage", "max-age"):
        if name in directives:
            return _shortest(directives[name])
    if not (expires := _values(headers, "expires")):
        return ttl
    ends, dated = http_date(expires[0]), http_date(",".join(_values(headers, "date"))) or now
    return (ends - dated).total_seconds() if ends and len(expires) == 1 else 0


def _directives(headers: Headers) -> dict[str, list[str]]:
    """Of all Cache-Control headers together: each directive with all its values."""
    found: dict[str, list[str]] = {}
    for name, quoted, plain in _DIRECTIVE.findall(",".join(_values(headers, "cache-control"))):
        found.setdefault(name.lower(), []).append(quoted or plain)
    return found


def _shortest(values: list[str]) -> float:
    return min(map(_seconds, values))


def _seconds(text: str) -> float:
    """Delta-seconds; 0 for junk, which is what RFC 9111 (4.2.1) advises for a lifetime."""
    text = text.strip()
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _values(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name]
