"""Ordering keys through failures and killed pumps. The long form is `python -m bench scenarios order`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random

import pytest

from integrations.models import Attempt, Message, Service
from tests.support.pumps import ENDS_WITHIN, OFF, Pumps, nothing_is_unfinished
from tests.support.receiver import Answer, Call, Receiver
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = 20
EACH = 10
FAILING = 0.2  # of the calls
RETRY = {"initial": 0.01, "factor": 1, "jitter": 0, "max_attempts": 50, "budget": 1}


def test_each_key_is_delivered_in_the_order_of_acceptance_whatever_fails(
    register: Callable[..., Service], send: Callable[..., list[Message]], pumps: Pumps, sink: Receiver
) -> None:
    delivered: dict[str, list[str]] = defaultdict(list)  # by key, in the order of the first 2xx of each message
    random, failed = Random(3), []

    def answer(call: Call) -> Answer:
        key, _, number = call.body.decode().partition("-")
        if random.random() < FAILING:
            failed.append(key)
            return Answer(503, delay=0.01)
        if number not in delivered[key]:
            delivered[key].append(number)
        return Answer(200, delay=0.01)

    sink.decide(answer)
    pumps.start(4, suspects=True)
    bodies = [f"k{key}-{number}" for number in range(EACH) for key in range(KEYS)]
    service = register("ledger", sink.url, ordering="key", retry=RETRY, breaker=OFF, limits={"concurrency": 100})
    send(service, each=[{"body": body.encode(), "ordering_key": body.partition("-")[0]} for body in bodies])
    for part in (4, 2):
        sink.wait_for(KEYS * EACH // part, ENDS_WITHIN)
        pumps.kill_a_busy_one()
    until(nothing_is_unfinished, ENDS_WITHIN, lambda: f"{sum(map(len, delivered.values()))} of {KEYS * EACH}")

    expected = {f"k{key}": [str(number) for number in range(EACH)] for key in range(KEYS)}
    assert delivered == expected
    assert set(Message.objects.values_list("status", flat=True)) == {"delivered"}
    assert failed, "nothing failed"
    assert Attempt.objects.filter(outcome="lost").exists(), "the killed pumps held nothing"
