"""Services next to one that hangs or has a backlog. The long form is `python -m bench scenarios fairness`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from django.db import transaction

from integrations.models import Message, Priority, Service
from tests.support.pumps import ENDS_WITHIN, OFF, Pumps
from tests.support.receiver import Answer, Call, Receiver
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

OTHERS = 30
EACH = 10
BACKLOG = 5_000
IN_BETWEEN = 800  # calls of the backlog between the acceptance of another message and its receipt: those in flight,
# those claimed since, and those sent until the test looks


def test_a_hanging_service_keeps_to_its_places_and_the_others_are_served(
    register: Callable[..., Service], send: Callable[..., list[Message]], pumps: Pumps, sink: Receiver
) -> None:
    sink.decide(lambda call: Answer(hang=True) if call.path.startswith("/hanging") else None)
    hanging = register("hanging", f"{sink.url}/hanging", breaker=OFF, limits={"concurrency": 10})
    others = [register(f"other-{number}", f"{sink.url}/{number}", breaker=OFF) for number in range(OTHERS)]
    send(hanging, 500)
    pumps.start(2)
    sink.wait_until(lambda: sink.in_flight == 10, ENDS_WITHIN, "calls that hang")
    for other in others:
        send(other, EACH)
    sink.wait_until(lambda: len(sink.calls) == 10 + OTHERS * EACH, ENDS_WITHIN, "the others' calls")
    received = Counter(call.path.split("/")[1] for call in sink.calls)
    assert received == {"hanging": 10} | {str(number): EACH for number in range(OTHERS)}


def test_a_backlog_does_not_hold_up_another_service_and_first_tries_go_first(
    register: Callable[..., Service], send: Callable[..., list[Message]], pumps: Pumps, sink: Receiver
) -> None:
    busy = register("busy", f"{sink.url}/busy", breaker=OFF, limits={"concurrency": 1000})
    narrow = register("narrow", f"{sink.url}/narrow", breaker=OFF, limits={"concurrency": 1})
    for first in range(0, BACKLOG, 1_000):
        send(busy, min(1_000, BACKLOG - first))
    pumps.start(1)  # two would leave each other what they cannot lock
    sink.wait_for(BACKLOG // 20, ENDS_WITHIN)
    before = len(sink.calls)
    with transaction.atomic():
        for priority in (Priority.BULK, Priority.RETRY, Priority.FIRST):
            send(narrow, 5, body=priority.name.encode(), priority=priority)

    def came(call: Call) -> bool:
        return call.path.startswith("/narrow")

    sink.wait_until(lambda: sum(map(came, sink.calls[before:])) == 15, ENDS_WITHIN, "the other service's calls")
    until(lambda: len(sink.calls) == BACKLOG + 15, ENDS_WITHIN, lambda: f"{len(sink.calls)} calls")
    places = [place for place, call in enumerate(sink.calls) if came(call)]
    assert places[0] - before <= IN_BETWEEN, "the first message to another service waited for the backlog"
    bodies = [sink.calls[place].body.decode() for place in places]
    assert bodies == ["FIRST"] * 5 + ["RETRY"] * 5 + ["BULK"] * 5
