"""OAuth 2 tokens: one fetch for all calls that wait for it, and a refused client is not retried."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from dashboard.presenters.timeline import next_step
from integrations.delivery import oauth
from integrations.delivery.send import make_call
from integrations.models import Attempt, Message, Service, Status
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Fault, Outcome
from tests.support.receiver import Answer, Receiver
from tests.support.receiver import Call as Received

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]
CALL = Call(method="GET", url="http://billing.test/", total_timeout=5)


def with_oauth(register: Register, url: str, **fields: object) -> Service:
    auth = {"type": "oauth2", "token_url": f"{url}/token", "client_id": "us"}
    service = register(base_url=url, auth=auth, **fields)
    service.keep_secret("auth.client_secret", "hush-1b7d")
    service.save()
    return service


def test_messages_that_wait_for_a_token_share_one_fetch(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    def answer(call: Received) -> Answer:
        if call.path == "/token":
            return Answer(200, body={"access_token": "t", "expires_in": 3600}, delay=0.3)
        return Answer(200)

    sink.decide(answer)
    send(with_oauth(register, sink.url, limits={"concurrency": 10}), count=10)
    deliver(until=lambda: not Message.objects.unfinished().exists())
    assert Message.objects.filter(status=Status.DELIVERED).count() == 10
    assert len([call for call in sink.calls if call.path == "/token"]) == 1


@pytest.mark.parametrize(("status", "body"), [(400, {"error": "invalid_client"}), (401, {}), (400, [1])])
def test_a_refused_client_ends_as_config_and_says_re_authorise(
    register: Register, send: Send, deliver: Deliver, sink: Receiver, status: int, body: object
) -> None:
    sink.answer(status, body=body)
    (message,) = send(with_oauth(register, sink.url, retry={"max_attempts": 5}))
    deliver()
    message.refresh_from_db()
    assert (message.status, message.dead_reason, message.attempts) == (Status.DEAD, "config", 1)
    assert message.last_detail.startswith("re-authorise")
    assert ("invalid_client" in message.last_detail) == (body == {"error": "invalid_client"})
    assert next_step(message).startswith("Re-authorise")
    assert Attempt.objects.get().fault == "config"
    assert [call.path for call in sink.calls] == ["/token"]


def test_a_call_that_gives_up_does_not_end_the_fetch_of_the_others(register: Register) -> None:
    service = with_oauth(register, "http://billing.test")
    fetched = 0

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal fetched
        fetched += 1
        await asyncio.sleep(0.3)
        return httpx.Response(200, json={"access_token": "t"})

    async def both() -> list[Call | Outcome]:
        client = Client(transport=httpx.MockTransport(answer))
        hasty = Call(method="GET", url="http://billing.test/", total_timeout=0.05)
        return await asyncio.gather(*(oauth.authorized(client, service, call) for call in (hasty, CALL)))

    gave_up, waited = asyncio.run(both())
    assert isinstance(gave_up, Outcome)
    assert gave_up.fault == Fault.TIMEOUT
    assert isinstance(waited, Call)
    assert fetched == 1


def test_a_call_that_fetched_a_token_has_the_time_that_is_left(register: Register) -> None:
    service = with_oauth(register, "http://billing.test")
    left = iter([5.0, 2.0])

    def bounded(call: Call) -> Call:
        return replace(call, total_timeout=next(left))

    client = Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"access_token": "t"})))
    call, _ = asyncio.run(make_call(client, service, lambda: CALL, bounded=bounded))
    assert call is not None
    assert call.total_timeout == 2.0


def test_a_late_401_does_not_drop_a_newer_token(register: Register) -> None:
    service = with_oauth(register, "http://billing.test")
    tokens = iter(["first", "second"])
    client = Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={"access_token": next(tokens)})))

    async def two_late_refusals() -> Call | Outcome:
        old = await oauth.authorized(client, service, CALL)
        assert isinstance(old, Call)
        oauth.forget(service, old)
        await oauth.authorized(client, service, CALL)
        oauth.forget(service, old)
        return await oauth.authorized(client, service, CALL)

    new = asyncio.run(two_late_refusals())
    assert isinstance(new, Call)
    assert ("Authorization", "Bearer second") in new.headers
