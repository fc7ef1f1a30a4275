"""Every kind of bad upstream, through the whole engine: each message ends as the table says, and the pump goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from integrations.models import Attempt, Message, Service
from integrations.models.message import Status
from tests.support.upstreams import ANIMALS, Zoo

pytestmark = pytest.mark.django_db(transaction=True)

DEADLINE = 1.0  # seconds


def test_bad_upstreams_harm_no_other_service(
    register: Callable[..., Service], send: Callable[..., list[Message]], deliver: Callable[..., Any]
) -> None:
    with Zoo() as zoo:
        retry = {"max_attempts": 1}
        timeout = {"connect": DEADLINE, "total": DEADLINE}
        for name in ANIMALS:
            upstream = zoo.serve(name)
            service = register(name.replace("_", "-"), base_url=upstream.url, retry=retry, timeout=timeout)
            send(service)
        neighbour = register("neighbour", base_url=zoo.serve("healthy").url)
        send(neighbour, count=50)

        begun = time.monotonic()
        deliver()

    assert time.monotonic() - begun < 15
    assert not Message.objects.unfinished().exists()
    assert Message.objects.for_service(neighbour).filter(status=Status.DELIVERED).count() == 50
    assert Attempt.objects.count() == len(ANIMALS) + 50
    for attempt in Attempt.objects.exclude(service=neighbour).select_related("service"):
        assert attempt.duration <= DEADLINE + 1, attempt.service.name
        assert attempt.response_size <= 1024 * 1024 + 256 * 1024, attempt.service.name
        assert len(bytes(attempt.response_body)) <= 65536
        assert bool(attempt.fault) == (attempt.outcome == "failed")
        assert attempt.detail or attempt.outcome == "succeeded", attempt.service.name


@pytest.mark.parametrize(
    ("animal", "fault", "end"),
    [
        ("garbage", "protocol", "attempts"),
        ("closes_within_body", "protocol", "attempts"),
        ("closes_before_answer", "reset", "attempts"),
        ("resets_before_answer", "reset", "attempts"),
        ("mute", "timeout", "attempts"),
        ("dripping", "timeout", "attempts"),
        ("failing", "status", "attempts"),
        ("redirect", "status", "status"),
    ],
)
def test_the_end_of_a_message_to(
    register: Callable[..., Service],
    send: Callable[..., list[Message]],
    deliver: Callable[..., Any],
    animal: str,
    fault: str,
    end: str,
) -> None:
    with Zoo() as zoo:
        service = register(
            "zoo", base_url=zoo.serve(animal).url, retry={"max_attempts": 1}, timeout={"connect": 0.5, "total": 0.5}
        )
        (message,) = send(service)
        deliver()
    message.refresh_from_db()
    assert (message.status, message.last_fault, message.dead_reason) == (Status.DEAD, fault, end)


def test_an_endless_response_is_delivered_and_cut(
    register: Callable[..., Service], send: Callable[..., list[Message]], deliver: Callable[..., Any]
) -> None:
    with Zoo() as zoo:
        (message,) = send(register("zoo", base_url=zoo.serve("endless").url))
        deliver()
    message.refresh_from_db()
    attempt = message.attempt_rows.get()
    assert message.status == Status.DELIVERED
    assert attempt.truncated
    assert len(bytes(attempt.response_body)) == 65536
