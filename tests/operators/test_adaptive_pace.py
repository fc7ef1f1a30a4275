"""An operation that finds its pace, with workers and a receiver that refuses calls that come too fast."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from tests.support.pumps import Pumps
from tests.support.receiver import Answer, Call, Receiver
from tests.support.waiting import until

if TYPE_CHECKING:
    from integrations.models import Message, Service

LIMIT = 50  # calls a second
KEPT = 60.0  # seconds within a fifth of the limit
FOUND_WITHIN = 180.0  # seconds, with the minute in which it is kept


@pytest.mark.long
def test_the_pace_of_a_receiver_is_found_and_kept_for_a_minute_and_its_breaker_stays_closed(
    pumps: Pumps, register: Callable[..., Service], send: Callable[..., list[Message]], sink: Receiver
) -> None:
    from integrations.models import Event, Message
    from integrations.models.operation import Kind
    from integrations.operators import bulk_operations

    calls: deque[float] = deque()
    lock = threading.Lock()

    def refuse_above_the_limit(call: Call) -> Answer:
        with lock:
            now = time.monotonic()
            while calls and calls[0] < now - 1:
                calls.popleft()
            calls.append(now)
            return Answer(status=503 if len(calls) > LIMIT else 204)

    sink.decide(refuse_above_the_limit)
    service = register("billing", sink.url, retry={"initial": 60, "max_attempts": 3})
    for _ in range(10):
        send(service, 1_000)
    Message.objects.update(status="dead", due_at=None, finished_at=timezone.now())
    pumps.start(2)
    operation = bulk_operations.plan(Kind.REPLAY, "status:dead", by="person ada", reason="they are back", rate="auto")
    rates: deque[tuple[float, float]] = deque()  # of the last minute
    told = []

    def is_kept() -> bool:
        operation.refresh_from_db()
        now = time.monotonic()
        rates.append((now, operation.rate))
        if not told or told[-1] != round(operation.rate, 1):
            told.append(round(operation.rate, 1))
        while not LIMIT * 0.8 <= rates[0][1] <= LIMIT * 1.2 and len(rates) > 1:
            rates.popleft()
        while rates and not LIMIT * 0.8 <= rates[-1][1] <= LIMIT * 1.2:
            rates.clear()
        return bool(rates) and now - rates[0][0] >= KEPT

    until(is_kept, FOUND_WITHIN, lambda: f"{told}, {operation.state}, {operation.pace}:\n{pumps.log[-2000:]}")
    assert not Event.objects.filter(type="breaker.opened").exists(), (told, operation.pace)
    before = operation.done
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 5, 10)
    operation.refresh_from_db()
    assert LIMIT * 0.6 <= (operation.done - before) / (time.monotonic() - began) <= LIMIT * 1.2
