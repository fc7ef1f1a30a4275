"""A trace goes in with a message or a direct call and out with each of its calls, and is in the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from integrations.models import Message, Role, Service, Token
from integrations.policies import trace
from tests.support.calling import Api
from tests.support.receiver import Receiver

pytestmark = pytest.mark.django_db(transaction=True)
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "vendor=opaque"}


@pytest.fixture
def api(transactional_db: None) -> Api:
    return Api(*Token.objects.issue("a-program", Role.OPERATOR))


def test_each_attempt_is_a_span_of_its_own_in_the_callers_trace(
    api: Api,
    register: Callable[..., Service],
    deliver: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    register("billing")
    asked = {"service": "billing", "path": "/in"}
    made = [
        api.post("/messages", asked, **SENT).json()["id"],
        api.post("/messages/batch", {"messages": [asked]}, **SENT).json()["accepted"][0]["id"],
    ]
    without = api.post("/messages", asked).json()["id"]
    received: dict[str, list[httpx.Headers]] = {}

    def fail(request: httpx.Request) -> httpx.Response:
        received.setdefault(request.headers["webhook-id"], []).append(request.headers)
        return httpx.Response(500)

    with caplog.at_level(logging.INFO):
        deliver(fail)
    spans = [trace.span_in(headers.items()) for pk in made for headers in received[pk]]
    assert [(span.trace_id, span.flags) for span in spans if span] == [(TRACE, "01")] * 4
    assert len({span.span_id for span in spans if span} | {"00f067aa0ba902b7"}) == 5
    assert {headers["tracestate"] for pk in made for headers in received[pk]} == {"vendor=opaque"}
    assert not any("traceparent" in headers for headers in received[without])
    stored = Message.objects.by_public_id(made[0])
    assert stored is not None
    assert stored.content.headers == SENT
    log = "\n".join(line for entry in caplog.records for line in (entry.getMessage(), *getattr(entry, "further", ())))
    assert all(span and f"trace_id={TRACE} span_id={span.span_id}" in log for span in spans)
    assert "trace_id=- span_id=-" in log


def test_a_direct_call_goes_on_with_the_trace_and_is_still_cached(
    api: Api, sink: Receiver, register: Callable[..., Service]
) -> None:
    register("billing", sink.url, cache={"ttl": 60})
    sink.answer(200, headers={"Cache-Control": "max-age=60"}, body={"id": 1})
    asked: dict[str, Any] = {"service": "billing", "method": "GET", "path": "/in"}
    api.post("/process", asked, **SENT)
    span = trace.span_in(sink.last.headers)
    assert span is not None
    assert (span.trace_id, span.span_id != "00f067aa0ba902b7") == (TRACE, True)
    again = api.post("/process", asked, traceparent=SENT["traceparent"].replace("4bf9", "aaaa")).json()
    assert again["cached"] is True
