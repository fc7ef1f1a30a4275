"""W3C Trace Context: a valid parent, and the headers that a message and a call get from it."""

from __future__ import annotations

import pytest

from integrations.policies import trace

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (PARENT, (TRACE, SPAN, "01")),
        (f"cc-{TRACE}-{SPAN}-01-what-a-later-version-adds", (TRACE, SPAN, "01")),
        (f"{PARENT}-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (PARENT.upper(), None),
        (f"{PARENT}\n{PARENT}", None),
        ("", None),
    ],
)
def test_a_parent_is_read_as_the_specification_says(given: str, read: tuple[str, str, str] | None) -> None:
    assert trace.span_of(given) == read


@pytest.mark.parametrize(
    ("request_headers", "own", "stored"),
    [
        (
            {"traceparent": PARENT, "tracestate": "a=1"},
            {"X": "1"},
            {"X": "1", "traceparent": PARENT, "tracestate": "a=1"},
        ),
        ({"traceparent": PARENT, "tracestate": "a" * 513}, {}, {"traceparent": PARENT}),
        ({"traceparent": PARENT, "tracestate": "a=\x01"}, {}, {"traceparent": PARENT}),
        ({"traceparent": PARENT}, {"TraceParent": "its own"}, {"TraceParent": "its own"}),
        ({"traceparent": "no trace", "tracestate": "a=1"}, {"X": "1"}, {"X": "1"}),
        ({}, {"X": "1"}, {"X": "1"}),
    ],
)
def test_the_trace_of_a_request_joins_the_headers(
    request_headers: dict[str, str], own: dict[str, str], stored: dict[str, str]
) -> None:
    assert trace.taken_in(request_headers, own) == stored


def test_a_child_has_the_trace_and_its_own_span() -> None:
    assert trace.child(PARENT, "1" * 16) == f"00-{TRACE}-{'1' * 16}-01"
    assert trace.child("no trace", "1" * 16) == "no trace"
