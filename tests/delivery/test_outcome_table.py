"""The meaning of each outcome, row by row, through the whole engine and real servers.

Each row: what the other side does, then the message's next state, what the breaker counts, and whether the whole
service has to wait. `tests/policies/test_verdict.py` has the decision alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import httpx
import pytest
from django.utils import timezone

from integrations.delivery.claim import claim, claim_suspect
from integrations.delivery.send import CallResult
from integrations.delivery.send import send as make_call
from integrations.delivery.settle import settle
from integrations.delivery.waiting import waiting_for
from integrations.models import Message, Runtime, Service, Worker, database_now
from integrations.models.message import Status
from integrations.operators import traffic
from integrations.outbound.client import Client
from integrations.outbound.outcome import Fault, Outcome
from integrations.workers import housekeeping
from tests.support.receiver import Receiver
from tests.support.records import a_worker, in_seconds
from tests.support.upstreams import Zoo

pytestmark = pytest.mark.django_db(transaction=True)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]

DAY = 86_400
SUCCESS, FAILURE, NEUTRAL = ".", "f", ""  # as the breaker's window shows it


class Row(NamedTuple):
    """``throttle`` is how long the whole service waits, in seconds; ``wait`` how long this message does at least."""

    status: Status
    dead_reason: str = ""
    fault: str = ""
    breaker: str = NEUTRAL
    throttle: float | None = None
    wait: float = 60
    retry: dict[str, Any] = {}  # settings of the service, over those below


def again(fault: str, breaker: str = FAILURE, **more: Any) -> Row:
    return Row(Status.PENDING, fault=fault, breaker=breaker, **more)


def dead(reason: str, fault: str = "status", **more: Any) -> Row:
    return Row(Status.DEAD, reason, fault, **more)


DELIVERED = Row(Status.DELIVERED, breaker=SUCCESS)

STATUSES: list[tuple[int, dict[str, str], Row]] = [
    (200, {}, DELIVERED),
    (201, {}, DELIVERED),
    (204, {}, DELIVERED),
    (299, {}, DELIVERED),
    # 5xx, 408, 425
    (500, {}, again("status")),
    (502, {}, again("status")),
    (503, {}, again("status")),
    (599, {}, again("status")),
    (408, {}, again("status")),
    (425, {}, again("status")),
    # 429, 503 with Retry-After
    (429, {}, again("status", NEUTRAL)),
    (429, {"Retry-After": "300"}, again("status", NEUTRAL, throttle=300, wait=300)),
    (503, {"Retry-After": "300"}, again("status", FAILURE, throttle=300, wait=300)),
    (500, {"Retry-After": "300"}, again("status")),  # read on 429 and 503 only
    # 410
    (410, {}, dead("gone")),
    (410, {}, Row(Status.PENDING, fault="status", wait=0, retry={"on_gone": "pause"})),
    # 3xx, other 4xx
    (301, {"Location": "/elsewhere"}, dead("status")),
    (304, {}, dead("status")),
    (400, {}, dead("status")),
    (401, {}, dead("status")),
    (404, {}, dead("status")),
    (422, {}, dead("status")),
    (499, {}, dead("status")),
    # a service may name others
    (404, {}, again("status", retry={"retry_on": [404]})),
    (418, {}, again("status", retry={"retry_on": ["4xx"]})),
    (410, {}, again("status", retry={"retry_on": [410]})),
    (500, {}, dead("status", breaker=FAILURE, retry={"retry_on": [408]})),
    (408, {}, dead("status", retry={"retry_on": ["5xx"]})),
    (429, {"Retry-After": "300"}, dead("status", throttle=300, retry={"retry_on": ["5xx"]})),
]

ON_THE_WIRE: list[tuple[str, Row]] = [
    ("endless", DELIVERED),  # a 2xx is delivered whatever its body: reading stops at the cap
    ("gzip_bomb", DELIVERED),
    ("closes_before_answer", again("reset")),
    ("resets_before_answer", again("reset")),
    ("closes_within_head", again("protocol")),
    ("closes_within_body", again("protocol")),  # an incomplete answer
    ("garbage", again("protocol")),
    ("mute", again("timeout")),
    ("dripping", again("timeout")),
    ("answers_anything over tls", again("tls")),
]


@pytest.mark.parametrize(("status", "headers", "row"), STATUSES)
def test_an_answer(
    register: Register, send: Send, deliver: Deliver, sink: Receiver, status: int, headers: dict[str, str], row: Row
) -> None:
    sink.answer(status, headers=headers)
    service = a_service(register, sink.url, row)
    (message,) = send(service)
    deliver()
    holds(message, row)
    assert len(sink.calls) == 1
    message.refresh_from_db()
    assert message.last_status_code == status
    service.refresh_from_db()
    assert service.is_paused == ("on_gone" in row.retry)


@pytest.mark.parametrize(("animal", "row"), ON_THE_WIRE)
def test_trouble_on_the_wire(register: Register, send: Send, deliver: Deliver, zoo: Zoo, animal: str, row: Row) -> None:
    name, _, secured = animal.partition(" over ")
    upstream = zoo.serve(name)
    address = upstream.url.replace("http:", "https:") if secured else upstream.url
    (message,) = send(a_service(register, address, row))
    deliver()
    holds(message, row)


def test_a_name_without_an_address(register: Register, send: Send, deliver: Deliver) -> None:
    row = again("dns")
    (message,) = send(a_service(register, "http://nothing.invalid", row))
    deliver()
    holds(message, row)


def test_a_port_where_nobody_listens(register: Register, send: Send, deliver: Deliver) -> None:
    row = again("connect")
    with closing(socket.socket()) as bound:  # bound and not listening: no other process can take the port
        bound.bind(("127.0.0.1", 0))
        (message,) = send(a_service(register, f"http://127.0.0.1:{bound.getsockname()[1]}", row))
        deliver()
    holds(message, row)


def test_an_address_that_is_refused(register: Register, send: Send, deliver: Deliver, settings: Any) -> None:
    settings.ALLOW_PRIVATE = ""
    row = dead("blocked", "blocked")
    (message,) = send(a_service(register, "http://127.0.0.1:9", row))
    deliver()
    holds(message, row)


def test_a_request_that_cannot_be_built(register: Register, send: Send, deliver: Deliver, sink: Receiver) -> None:
    row = dead("config", "config")
    (message,) = send(a_service(register, sink.url, row), headers={"X-Emoji": "☃"})
    deliver()
    holds(message, row)
    assert not sink.calls


def test_a_lost_worker(register: Register, send: Send, deliver: Deliver, sink: Receiver) -> None:
    """Claimed again at once, no attempt used; three losses in a row while alone, and it is dead."""
    row = Row(Status.PENDING, fault="worker_lost", wait=0)
    (message,) = send(a_service(register, sink.url, row))
    lose(message)
    holds(message, row, attempts=0)
    for _ in range(3):
        lose(message)
    holds(message, dead("worker_lost", "worker_lost"), attempts=0)


def test_an_answer_too_large_where_it_is_wanted(register: Register, send: Send, sink: Receiver) -> None:
    """The queue never sees one, see `endless`; should it get one, it harms neither service nor breaker."""
    row = dead("config", "too_large")
    (message,) = send(a_service(register, sink.url, row))
    (claimed,) = claim(a_worker().pk, 1)
    settle([CallResult(claimed, None, Outcome(Fault.TOO_LARGE, 200), timezone.now())])
    holds(message, row)


@pytest.mark.parametrize("odd", [100, 199, 600, 999])
def test_a_status_outside_the_table_is_the_callers_fault(
    register: Register, send: Send, deliver: Deliver, odd: int
) -> None:
    row = dead("status")
    (message,) = send(a_service(register, "http://billing.test", row))
    deliver(lambda _: httpx.Response(odd))
    holds(message, row)


# ---- Retry-After ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        ("119.2", 120),  # rounded up
        ("in two minutes", None),
        ("-120", None),
        ("0", None),
        (str(365 * DAY), DAY),  # a year: a day at most
        ("9" * 300, DAY),
        ("HTTP date, 120", 120),
        (f"HTTP date, {365 * DAY}", DAY),
        ("HTTP date, -120", None),
    ],
)
def test_retry_after_is_honoured(
    register: Register, send: Send, deliver: Deliver, sink: Receiver, header: str, seconds: float | None
) -> None:
    if header.startswith("HTTP date"):
        moment = timezone.now() + timedelta(seconds=int(header.partition(", ")[2]))
        header = format_datetime(moment, usegmt=True)
    row = again("status", NEUTRAL, throttle=seconds, wait=seconds or 60)
    sink.answer(429, headers={"Retry-After": header})
    (message,) = send(a_service(register, sink.url, row))
    deliver()
    holds(message, row)


# ---- attempts, deadlines, expiry, retry-now -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("retry", "reason"),
    [
        ({"max_attempts": 1}, "attempts"),
        ({"schedule": []}, "attempts"),  # one attempt
        ({"schedule": [60], "max_attempts": 1}, "attempts"),
        ({"schedule": [60]}, ""),
        ({"deadline": 59}, "deadline"),
        ({"deadline": 65}, ""),
    ],
)
def test_a_failed_call_ends_a_message_where_the_policy_says(
    register: Register, send: Send, deliver: Deliver, sink: Receiver, retry: dict[str, Any], reason: str
) -> None:
    row = dead(reason, breaker=FAILURE, retry=retry) if reason else again("status", retry=retry)
    sink.answer(500)
    (message,) = send(a_service(register, sink.url, row))
    deliver()
    holds(message, row)


@pytest.mark.parametrize(("lasts", "reason"), [(59, "expired"), (65, "")])
def test_no_retry_is_planned_beyond_the_expiry(
    register: Register, send: Send, deliver: Deliver, sink: Receiver, lasts: float, reason: str
) -> None:
    row = dead(reason, breaker=FAILURE) if reason else again("status")
    sink.answer(500)
    (message,) = send(a_service(register, sink.url, row), expires_at=timezone.now() + timedelta(seconds=lasts))
    deliver()
    holds(message, row)


def test_attempt_one_thousand_is_planned_and_the_next_is_not(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    row = again("status", wait=30 * DAY, retry={"max_attempts": 1000, "factor": 1000, "max": 30 * DAY})
    sink.answer(500)
    (message,) = send(a_service(register, sink.url, row))
    Message.objects.update(attempts=998, calls=998)
    deliver()
    holds(message, row, attempts=999)
    traffic.retry_now(message, actor="person ada")
    deliver()
    holds(message, dead("attempts", breaker=FAILURE * 2), attempts=1000)


def test_retry_now_clears_the_time_and_nothing_else(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    sink.script(500)
    service = a_service(register, sink.url, again("status"))
    (message,) = send(service)
    deliver()
    runtime = Runtime.objects.filter(pk=service.pk)
    for kind, obstacle, gone in (
        ("breaker", {"state": "open", "retry_at": in_seconds(60)}, {"state": "closed", "retry_at": None}),
        ("rate", {"throttled_until": in_seconds(60)}, {"throttled_until": None}),
    ):
        runtime.update(**obstacle)
        message.refresh_from_db()
        traffic.retry_now(message, actor="person ada")
        deliver()
        assert len(sink.calls) == 1, f"retry-now went past the {kind}"
        waiting = waiting_for(Message.objects.select_related("service__runtime").get(), database_now())
        assert waiting
        assert waiting.kind == kind
        runtime.update(**gone)
    deliver()
    assert len(sink.calls) == 2
    assert Message.objects.get().status == Status.DELIVERED


# ---- parts ----------------------------------------------------------------------------------------------------------
def a_service(register: Register, address: str, row: Row) -> Service:
    # Short only where it runs out: on a busy machine a good connection may take longer.
    timeout = {
        "connect": 0.3 if row.fault in {"connect", "tls", "timeout"} else 5,
        "total": 0.3 if row.fault == "timeout" else 5,
    }
    retry = {"max_attempts": 5, "initial": 60, "jitter": 0, **row.retry}
    return register("other-side", base_url=address, retry=retry, timeout=timeout)


def holds(message: Message, row: Row, attempts: int = 1) -> None:
    message.refresh_from_db()
    assert (message.status, message.dead_reason, message.last_fault) == (row.status, row.dead_reason, row.fault)
    assert message.attempts == attempts
    newest = message.attempt_rows.order_by("-number")[0]
    assert newest.number == message.calls
    runtime = Runtime.objects.get()
    assert (runtime.window, runtime.consecutive) == (row.breaker, row.breaker.count(FAILURE))
    now = database_now()
    if row.throttle is None:
        assert runtime.throttled_until is None
    else:
        assert runtime.throttled_until
        assert row.throttle - 5 < (runtime.throttled_until - now).total_seconds() <= row.throttle
    if row.status == Status.PENDING:
        assert message.due_at
        assert row.wait - 5 < (message.due_at - now).total_seconds() <= row.wait
        if row.wait:
            assert newest.retry_at == message.due_at
    else:
        assert message.due_at is None
        assert message.finished_at is not None


def lose(message: Message) -> None:
    """A worker claims it, calls, and is gone before the answer is written."""
    worker = a_worker()
    (claimed,) = claim(worker.pk, 1) or claim_suspect(worker.pk)
    ok = httpx.MockTransport(lambda _: httpx.Response(200))
    asyncio.run(make_call(Client(transport=ok), claimed, timezone.now()))
    Worker.objects.filter(pk=worker.pk).update(lease_until=in_seconds(-1))
    assert housekeeping.rescue() == 1
