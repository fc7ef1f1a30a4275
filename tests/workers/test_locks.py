"""Locks left by a machine that disappears. The long form, with a real cut, is tests/faults/test_two_machines.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import httpx
import pytest
from django.db import DatabaseError, connection, models, transaction

from integrations.delivery.claim import claim
from integrations.models import Message, Runtime, Service, Status, Tally, database_now
from integrations.outbound.client import Client
from integrations.workers.pump import Pump
from tests.support.database import held_by_another, locked
from tests.support.pumps import ENDS_WITHIN, OFF, Pumps, nothing_is_unfinished
from tests.support.receiver import Receiver
from tests.support.waiting import until

T = TypeVar("T")

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.servers_only]


def test_a_transaction_that_stands_still_does_not_hold_a_service_for_long(
    register: Callable[..., Service], send: Callable[..., list[Message]], pumps: Pumps, sink: Receiver
) -> None:
    """A machine that was cut off in the middle of a claim held its service's row, and no worker could send again."""
    service = register("billing", sink.url, breaker=OFF)
    holds, may_go = threading.Event(), threading.Event()

    def stand_still() -> None:
        with suppress(DatabaseError), transaction.atomic():
            Runtime.objects.select_for_update().get(pk=service.pk)
            holds.set()
            may_go.wait(2 * ENDS_WITHIN)
        connection.close()

    standing = threading.Thread(target=stand_still)
    standing.start()
    assert holds.wait(5)
    pumps.start(1)
    send(service)
    try:
        until(nothing_is_unfinished, ENDS_WITHIN / 2, lambda: "the service stands still")
    finally:
        may_go.set()
        standing.join()
    assert len(sink.calls) == 1


# ---- rows that a foreign transaction has locked ---------------------------------------------------------------------
def _deliver_until(condition: Callable[[], bool], within: float = 12) -> None:
    """Run a lane until the condition holds."""

    async def run() -> None:
        pump = Pump("tests", client=Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))))
        loop = asyncio.get_running_loop()
        end = loop.time() + within
        while not await loop.run_in_executor(None, _closing, condition) and loop.time() < end:
            await pump.run(0.2)
        held = await loop.run_in_executor(None, _closing, condition)
        pump.stopping = True
        await pump.close()
        assert held, "a lock holds up the other messages"

    asyncio.run(run())


def _closing(step: Callable[[], T]) -> T:
    try:
        return step()
    finally:
        connection.close()  # that of this thread


def _delivered(service: Service) -> int:
    return Message.objects.filter(service=service, status=Status.DELIVERED).count()


def test_locked_messages_hold_up_no_other_message(
    register: Callable[..., Service], send: Callable[..., list[Message]]
) -> None:
    """A foreign lock on three messages left 47 deliveries in 30 s, where 1,800 were possible."""
    service, other = register("billing", breaker=OFF, limits={"concurrency": 2}), register("crm", breaker=OFF)
    messages = send(service, 20)
    send(other, 20)
    with locked(Message.objects.filter(pk__in=[message.pk for message in messages[:3]])):
        _deliver_until(lambda: (_delivered(service), _delivered(other)) == (17, 20))
    _deliver_until(lambda: _delivered(service) == 20)


@pytest.mark.parametrize("model", [Runtime, Tally])
def test_a_locked_row_of_a_service_holds_up_no_other_service(
    register: Callable[..., Service], send: Callable[..., list[Message]], model: type[models.Model]
) -> None:
    """A lock on one service's row stopped the others after 30 s: their results waited in the same batch."""
    service, other = register("billing", breaker=OFF), register("crm", "http://crm.test", breaker=OFF)
    send(service, 3)
    locks: list[object] = []

    async def run() -> None:
        arrived, answers = asyncio.Event(), asyncio.Event()

        async def answer(request: httpx.Request) -> httpx.Response:
            if "billing" in request.url.host:
                arrived.set()
                await answers.wait()
            return httpx.Response(200)

        pump = Pump("tests", client=Client(transport=httpx.MockTransport(answer)))
        loop = asyncio.get_running_loop()
        running = asyncio.create_task(pump.run())
        await asyncio.wait_for(arrived.wait(), 10)
        lock = locked(model._default_manager.filter(service_id=service.pk))
        await loop.run_in_executor(None, lock.__enter__)
        locks.append(lock)
        answers.set()  # the results of the first service meet the lock
        await asyncio.sleep(0.05)
        await loop.run_in_executor(None, _closing, lambda: send(other, 20))
        try:
            async with asyncio.timeout(12):
                while await loop.run_in_executor(None, _closing, lambda: _delivered(other)) < 20:
                    await asyncio.sleep(0.1)
        finally:
            await loop.run_in_executor(None, lock.__exit__, None, None, None)
        async with asyncio.timeout(12):
            while await loop.run_in_executor(None, _closing, lambda: _delivered(service)) < 3:
                await asyncio.sleep(0.1)
        pump.stop()
        await running
        await pump.close()

    if model is Tally:
        Tally.objects.create(service=service, start=database_now().replace(second=0, microsecond=0))
    asyncio.run(run())
    assert claim(1, 10) == []
    assert set(Message.objects.values_list("calls", flat=True)) == {1}


def test_messages_are_accepted_while_an_operators_change_holds_the_service(
    register: Callable[..., Service], send: Callable[..., list[Message]]
) -> None:
    """A locked row of a service turned every POST into 503."""
    from integrations.api.services import find_service

    service = register("billing")
    with held_by_another(lambda: find_service("billing", locked=True)):
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'")
            send(service)
        finally:
            connection.close()
    assert Message.objects.count() == 1
