"""Lanes that stood still for longer than their lease: the answers that they hold are written before anything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import httpx
import pytest
from django.db import OperationalError

from integrations.delivery.claim import claim
from integrations.delivery.send import CallResult
from integrations.delivery.settle import settle
from integrations.models import Attempt, Message, Service, Status, Worker, database_now
from integrations.outbound.client import Client
from integrations.workers.pump import Pump
from tests.support.records import a_worker

pytestmark = pytest.mark.django_db(transaction=True)

SECOND = timedelta(seconds=1)


def _end_leases() -> None:
    Worker.objects.filter(stopped_at=None).update(lease_until=database_now() - SECOND)


def _ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


def _run(pump: Pump) -> None:
    async def run() -> None:
        await pump.run(10, until_idle=True)
        await pump.close()

    asyncio.run(run())


def test_known_answers_that_a_locked_database_held_back_past_the_lease_are_not_sent_again(
    register: Callable[..., Service], send: Callable[..., list[Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 of 15 went out twice: the lane swept, and took its own claims back, before it wrote their results."""
    refused: list[int] = []

    def locked_at_first(results: Sequence[CallResult]) -> None:
        if not refused:
            refused.append(len(results))
            _end_leases()
            raise OperationalError("the database is locked")
        settle(results)

    monkeypatch.setattr("integrations.workers.pump.settle", locked_at_first)
    monkeypatch.setattr("integrations.workers.pump.DATABASE_BACKOFF", (1.1,))  # the next sweep is due after it
    messages = send(register(limits={"concurrency": 20}), 15)

    _run(Pump("tests", client=Client(transport=httpx.MockTransport(_ok))))

    assert refused
    assert {Message.objects.get(pk=message.pk).status for message in messages} == {Status.DELIVERED}
    assert list(Attempt.objects.values_list("outcome", flat=True)) == ["succeeded"] * 15


@pytest.mark.parametrize("settling", ["goes on", "has failed"])
def test_results_are_written_before_a_lane_whose_lease_was_taken_starts_again(
    register: Callable[..., Service], send: Callable[..., list[Message]], settling: str
) -> None:
    send(register(), 3)
    steps: list[str] = []
    pump = Pump("tests", client=Client(transport=httpx.MockTransport(_ok)))

    async def run() -> None:
        while not pump.in_flight:
            await pump._turn()
        while len(pump._results) < 3:  # the calls have ended; the settling task sleeps while it gathers
            await asyncio.sleep(0.001)
        if settling == "has failed":
            assert pump._settling
            pump._settling.cancel()
            pump._settling = None
        await pump._in_database(lambda: Worker.objects.update(stopped_at=database_now(), lost=True))
        pump._next_renewal = 0.0
        await pump._turn()
        steps.append(f"{len(pump._results)} unwritten")
        await pump.close()

    pump._register, register_worker = lambda: _noted(steps, pump, register_worker), pump._register  # type: ignore[method-assign]
    asyncio.run(run())
    assert steps[:3] == ["registers with 0 unwritten", "registers with 0 unwritten", "0 unwritten"]


def _noted(steps: list[str], pump: Pump, register_worker: Callable[[], int]) -> int:
    steps.append(f"registers with {len(pump._results)} unwritten")
    return register_worker()


def test_a_lane_that_stood_still_gives_the_others_time_before_it_takes_their_claims(
    register: Callable[..., Service], send: Callable[..., list[Message]]
) -> None:
    """What stops one lane, as a lock on the database does, stops the others too, with answers that they will write."""
    send(register())
    other = a_worker()
    claim(other.pk, 10)
    _end_leases()
    pump = Pump("tests", client=Client(transport=httpx.MockTransport(_ok)))
    pump._steadiness.note(time.monotonic() - 30)
    _run(pump)
    other.refresh_from_db()
    assert not other.lost
    assert Message.objects.held_by(other.pk).count() == 1
