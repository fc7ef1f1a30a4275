"""Services and messages to deliver, and a pump to deliver them with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:  # pytest may load this file before there are settings
    from integrations.models import Message, Service


@pytest.fixture
def register(transactional_db: None, reachable_loopback: None) -> Callable[..., Service]:
    """Registers a service with a policy for the impatient: `register("billing", retry={...}, …)`."""

    def one(name: str = "billing", base_url: str = "http://billing.test", **fields: Any) -> Service:
        from integrations.models import Service

        retry = {"max_attempts": 2, "initial": 0, "jitter": 0, **fields.pop("retry", {})}
        return Service.objects.create(name=name, base_url=base_url, retry=retry, **fields)

    return one


@pytest.fixture
def billing(db: None) -> Service:
    """A service without settings. The tests of the API and of the console have one of their own by this name."""
    from integrations.models import Service

    return Service.objects.create(name="billing", base_url="https://billing.example.com")


@pytest.fixture
def send() -> Callable[..., list[Message]]:
    """Queues messages: `send(service, 3, ordering_key="a")`, or `send(service, each=[{"body": b"1"}, …])`."""

    def some(service: Service, count: int = 1, each: Sequence[dict[str, Any]] = (), **fields: Any) -> list[Message]:
        from integrations.models import Draft, Message

        fields = {"method": "POST", "path": "/hook", "body": b"{}", "content_type": "application/json", **fields}
        return Message.objects.accept([Draft(service=service, **(fields | own)) for own in each or [{}] * count])

    return some


@pytest.fixture
def deliver() -> Callable[..., None]:
    """Runs a pump: until nothing is due, or until a condition holds. `answer` stands in for the other side."""

    def run(
        answer: Callable[[httpx.Request], httpx.Response] | None = None,
        *,
        until: Callable[[], bool] | None = None,
        within: float = 10,
        alone: bool = False,
    ) -> None:
        end = time.monotonic() + within
        while True:
            asyncio.run(_pump(answer, alone))
            if until is None or until():
                return
            assert time.monotonic() < end, f"it did not come about within {within} s"
            time.sleep(0.02)

    return run


async def _pump(answer: Callable[[httpx.Request], httpx.Response] | None, alone: bool) -> None:
    from integrations.outbound.client import Client
    from integrations.workers.pump import Pump

    client = Client(transport=httpx.MockTransport(answer)) if answer else None
    pump = Pump("tests", client=client, alone=alone)
    await pump.run(10, until_idle=True)
    await pump.close()
