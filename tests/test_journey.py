"""The whole story, once: register, send, delivered; the other side goes down and comes back; replay what died.

Read this first. `tests/browser/test_journey.py` tells the same story in a real browser against `manage.py up`.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from html import unescape

import pytest
from django.test import Client

from integrations.models import Attempt, Event, Message, Runtime, SetupLink
from integrations.models.message import Status
from integrations.workers.pump import Pump
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def workers() -> Iterator[None]:
    """A pump in a thread, as `manage.py up` would run one."""
    pump = Pump("journey")

    async def work() -> None:
        await pump.run()
        await pump.close()

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    yield
    pump.stop()
    thread.join()


def test_the_journey(workers: None, client: Client, sink: Receiver) -> None:
    # The first start prints a one-time link; it makes the first admin and is used up.
    link = f"/setup/{SetupLink.objects.open()}/"
    client.post(
        link, {"username": "ada", "password": "correct horse battery", "password_again": "correct horse battery"}
    )
    assert "ada" in page(client, "/")
    assert client.get(link).status_code == 404

    # Register a service through the form: a short story needs little patience.
    register = {
        "name": "billing",
        "base_url": sink.url,
        "network.allow_private": "127.0.0.0/8",
        "network.reason": "The receiver runs here.",
        "retry.max_attempts": "2",
        "retry.initial": "0.1",
        "retry.jitter": "0",
        "retry.budget": "1",
        "breaker.enabled": "on",
        "breaker.open_for": "1",
        "breaker.consecutive_failures": "5",
        "limits.concurrency": "4",
    }
    assert client.post("/services/new/", register).status_code == 303
    assert "billing" in page(client, "/services/")

    # Send a message and see it delivered, with its attempt.
    first = send(client, '{"order": 1}')
    until(lambda: state_of(first) == Status.DELIVERED, 15)
    assert sink.last.json() == {"order": 1}
    shown = page(client, f"/messages/{first}/")
    assert "delivered" in shown
    assert "200" in shown

    # The other side goes down: some die of their attempts, the breaker opens and says why, the rest wait.
    sink.stop()
    sent = [send(client, f'{{"order": {number}}}') for number in range(2, 14)]
    until(lambda: Event.objects.filter(type="breaker.opened").exists(), 15)
    until(lambda: Message.objects.filter(status=Status.DEAD).exists(), 15)
    assert "in a row" in page(client, "/breakers/") or "probe failed" in page(client, "/breakers/")
    waiting = [public_id for public_id in sent if state_of(public_id) == Status.PENDING]
    assert waiting
    until(lambda: "breaker of billing is" in page(client, f"/messages/{waiting[-1]}/"), 15)

    # It comes back: a probe closes the breaker, and the waiting messages are delivered.
    sink.start()
    until(lambda: Runtime.objects.get(service__name="billing").state == "closed", 15)
    until(lambda: not Message.objects.unfinished().exists(), 15)
    assert Attempt.objects.filter(trigger="probe", outcome="succeeded").exists()
    dead = list(Message.objects.dead())
    assert {message.dead_reason for message in dead} == {"attempts"}
    assert Message.objects.filter(status=Status.DELIVERED).count() == 13 - len(dead)

    # Replay a dead one from its page: a new message is delivered, the old one stays what it was.
    old = dead[0]
    answer = client.post(f"/messages/{old.public_id}/replay/", {"mode": "as_is"})
    replay = answer["Location"].rstrip("/").rpartition("/")[2]
    until(lambda: state_of(replay) == Status.DELIVERED, 15)
    assert sink.last.header("webhook-id") == old.public_id
    assert state_of(old.public_id) == Status.DEAD
    assert replay in page(client, f"/messages/{old.public_id}/")

    # Nothing was lost, and every call has its row.
    received = {call.header("webhook-id") for call in sink.calls}
    assert {message.wire_id for message in Message.objects.filter(status=Status.DELIVERED)} <= received
    assert Attempt.objects.filter(outcome="succeeded").count() == len(sink.calls)


def send(client: Client, body: str) -> str:
    """Sends a message through the form and answers its id."""
    form = page(client, "/messages/new/")
    key = re.search(r'name="form_key" value="([^"]+)"', form)
    assert key is not None
    answer = client.post(
        "/messages/new/",
        {
            "form_key": key[1],
            "service": "billing",
            "method": "POST",
            "path": "/orders",
            "body_kind": "json",
            "body": body,
        },
    )
    assert answer.status_code == 303, answer.content.decode()
    return answer["Location"].rstrip("/").rpartition("/")[2]


def page(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, address
    return unescape(answer.content.decode())


def state_of(public_id: str) -> str:
    message = Message.objects.by_public_id(public_id)
    assert message is not None
    return message.status
