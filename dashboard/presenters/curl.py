"""A call as a curl command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from dashboard.presenters.bodies import text_of

CURL_BODY_LIMIT = 8 * 1024  # a longer body does not fit a command line well


def as_curl(method: str, url: str, headers: Iterable[Iterable[str]], body: bytes) -> str:
    """The curl command that repeats a call. Masked secrets stay masked; the operator fills them in."""
    parts = [f"curl -X {shlex.quote(method)} {shlex.quote(url)}"]
    parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if body:
        text = text_of(body) if len(body) <= CURL_BODY_LIMIT else None
        parts.append(f"--data-binary {shlex.quote(text)}" if text is not None else "--data-binary @body")
    return " \\\n  ".join(parts)
