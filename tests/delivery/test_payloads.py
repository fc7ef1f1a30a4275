"""Payloads from elsewhere arrive as they were sent: byte for byte, or equal as JSON."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from integrations.models import Message, Role, Service, Token
from integrations.models.message import Status
from tests.support.receiver import Receiver

PAYLOADS = os.environ.get("SWITCHBOARD_TEST_PAYLOADS", "")

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not PAYLOADS, reason="SWITCHBOARD_TEST_PAYLOADS names no file of payloads"),
]


def examples() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(PAYLOADS).read_text())
    return found


def accept(client: Client, messages: list[dict[str, Any]]) -> list[str]:
    _, secret = Token.objects.issue("payloads", Role.OPERATOR)
    answer = client.post(
        "/api/v1/messages/batch",
        json.dumps({"messages": messages}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.status_code == 200, answer.content
    assert answer.json()["rejected"] == []
    return [accepted["id"] for accepted in answer.json()["accepted"]]


def test_bytes_arrive_byte_for_byte(
    register: Callable[..., Service], deliver: Callable[..., None], client: Client, sink: Receiver
) -> None:
    register("github", base_url=sink.url, limits={"concurrency": 50})
    bodies = [json.dumps(example["payload"], indent=2, ensure_ascii=False).encode() for example in examples()]
    ids = accept(
        client,
        [
            {
                "service": "github",
                "path": f"/{example['event']}",
                "body_base64": b64encode(body).decode(),
                "content_type": "application/json; charset=utf-8",
            }
            for example, body in zip(examples(), bodies, strict=True)
        ],
    )

    deliver()

    received = {call.header("webhook-id"): call for call in sink.calls}
    assert len(received) == len(ids) == len(bodies)
    for identifier, body in zip(ids, bodies, strict=True):
        assert received[identifier].body == body
        assert received[identifier].header("Content-Type") == "application/json; charset=utf-8"


def test_json_arrives_equal_and_the_same_on_every_attempt(
    register: Callable[..., Service], deliver: Callable[..., None], client: Client, sink: Receiver
) -> None:
    register("github", base_url=sink.url, limits={"concurrency": 50}, breaker={"enabled": False}, retry={"budget": 1})
    payloads = [example["payload"] for example in examples()]
    seen: set[str | None] = set()

    def refusing_each_once(call: Any) -> int:
        is_new = call.header("webhook-id") not in seen
        seen.add(call.header("webhook-id"))
        return 503 if is_new else 200

    sink.decide(refusing_each_once)
    ids = accept(client, [{"service": "github", "path": "/", "body": payload} for payload in payloads])

    deliver(until=lambda: Message.objects.filter(status=Status.DELIVERED).count() == len(ids), within=60)

    bodies: dict[str | None, list[bytes]] = {}
    for call in sink.calls:
        bodies.setdefault(call.header("webhook-id"), []).append(call.body)
    for identifier, payload in zip(ids, payloads, strict=True):
        assert len(bodies[identifier]) == 2
        assert len(set(bodies[identifier])) == 1
        assert json.loads(bodies[identifier][0]) == payload
