"""Clocks that jump: rates go on, and no history is deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from integrations.delivery.claim import claim
from integrations.models import Message, Runtime, Service, database_now
from integrations.outbound.client import Client
from integrations.workers.pump import Pump
from tests.support.records import a_worker

pytestmark = pytest.mark.django_db(transaction=True)

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]


def test_a_rate_goes_on_after_the_clock_moved_back_a_day(register: Register, send: Send) -> None:
    """The slot of the row was pulled in, but given to no message and never saved."""
    service = register(limits={"rate": 10})
    send(service, 3)
    Runtime.objects.filter(pk=service.pk).update(next_slot=database_now() + DAY)
    claimed = claim(a_worker().pk, 10)
    assert len(claimed) == 1
    assert abs(claimed[0].send_at - database_now()) < 2 * SECOND
    next_slot = Runtime.objects.get(pk=service.pk).next_slot
    assert next_slot is not None
    assert next_slot - database_now() < 2 * SECOND


def test_a_lane_holds_no_place_for_a_slot_that_a_jump_back_left_far_ahead(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane slept for the whole jump, an hour, with its places held."""
    monkeypatch.setattr("integrations.workers.pump.LOOK_AGAIN", 0.05)
    send(register(limits={"rate": 10}))
    (claimed,) = claim(a_worker().pk, 10)

    async def reach() -> bool:
        pump = Pump("tests", client=Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))))
        async with asyncio.timeout(5):
            return await pump._reach_slot(replace(claimed, send_at=in_an_hour))

    in_an_hour = database_now() + timedelta(hours=1)
    assert not asyncio.run(reach())


def test_a_lane_follows_a_jump_of_the_databases_clock_at_its_next_claim() -> None:
    """The `webhook-timestamp` of a call followed the lane's own clock, and a jump of the database's for 5 s not."""
    pump = Pump("tests", client=Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))))
    pump._correct_clock(database_now() - timedelta(milliseconds=200))  # a claim that took long
    assert abs(pump.now() - database_now()) < SECOND / 10
    pump._correct_clock(database_now() + DAY)
    assert abs(pump.now() - database_now() - DAY) < SECOND
