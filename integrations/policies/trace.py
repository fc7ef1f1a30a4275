"""W3C Trace Context (https://www.w3.org/TR/trace-context/): take in the caller's trace and go on with it in each call.

The trace is kept among a message's own headers. A message that came without one is sent without one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

PARENT, STATE = "traceparent", "tracestate"
STATE_LIMIT = 512  # characters, which the specification asks to pass on
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[ -~]+")


class Span(NamedTuple):
    """The ids of one span, in hexadecimal digits."""

    trace_id: str
    span_id: str
    flags: str  # 01: the caller records this trace


def span_of(traceparent: str) -> Span | None:
    """Read a ``traceparent``; None for one that the specification calls invalid."""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, further = match.groups()
    if version == "ff" or (version == "00" and further) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Span(trace_id, span_id, flags)


def span_in(headers: Iterable[tuple[str, str]]) -> Span | None:
    """The span that these headers name."""
    return next((span_of(value) for name, value in headers if name.lower() == PARENT), None)


def logged(headers: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """The ids of a call's span, as the line of its attempt in the log names them."""
    span = span_in(headers)
    return {"trace_id": span and span.trace_id, "span_id": span and span.span_id}


def taken_in(request: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Add the trace of the request that queued a message to the message's own headers, unless these have one."""
    parent, state = request.get(PARENT, ""), request.get(STATE, "")
    if span_of(parent) is None or any(name.lower() in (PARENT, STATE) for name in own):
        return {**own}
    kept = {STATE: state} if len(state) <= STATE_LIMIT and _STATE.fullmatch(state) else {}
    return {**own, PARENT: parent.strip(), **kept}


def child(traceparent: str, span_id: str) -> str:
    """The ``traceparent`` of a new span below this one. An invalid one stays as it is: it is the sender's header."""
    span = span_of(traceparent)
    return traceparent if span is None else f"00-{span.trace_id}-{span_id}-{span.flags}"
