"""Steps of the shop, one after another: ``python -m tests.clients.shop migrate sell 1 2 3 die-before-sending 4``.

Each number is sold by the step before it. At the end, the orders and the outbox are printed as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.clients.shop.settings"
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402

from switchboard_client.django import outbox, send  # noqa: E402
from switchboard_client.django.models import OutboxMessage  # noqa: E402
from tests.clients.shop.models import Order  # noqa: E402


def sell(number: int, service: str = "shop") -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        send(service, path="/orders", body={"order": number}, ordering_key="orders")


def sell_what_switchboard_refuses(number: int) -> None:
    sell(number, service="no-such-service")


def sell_what_no_batch_may_hold(number: int) -> None:
    with transaction.atomic():
        Order.objects.create(number=number)
        send("outage", path="/orders", body={"order": number, "rows": [[]] * 100_001})


def sell_to_outage(number: int) -> None:
    sell(number, service="outage")


def roll_back(number: int) -> None:
    try:
        with transaction.atomic():
            sell(number)
            raise RuntimeError("the card was declined")
    except RuntimeError:
        pass


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_sending(number: int) -> None:
    outbox.hand_over_oldest = die
    sell(number)


def die_before_writing_the_answer(number: int) -> None:
    sell(number)
    outbox._write = die
    outbox.hand_over_waiting(outbox.client(attempts=1, timeout=5))


STEPS: dict[str, Callable[[int], None]] = {
    "sell": sell,
    "sell-what-switchboard-refuses": sell_what_switchboard_refuses,
    "sell-what-no-batch-may-hold": sell_what_no_batch_may_hold,
    "sell-to-outage": sell_to_outage,
    "roll-back": roll_back,
    "die-before-sending": die_before_sending,
    "die-before-writing-the-answer": die_before_writing_the_answer,
}


def main() -> None:
    step: Callable[[int], None] = sell
    for word in sys.argv[1:]:
        if word == "migrate":
            call_command("migrate", run_syncdb=True, verbosity=0)
        elif word in STEPS:
            step = STEPS[word]
        else:
            step(int(word))
    rows = OutboxMessage.objects.order_by("pk")
    outbox_rows = [[json.loads(row.request)["body"]["order"], row.state, row.message_id, row.error] for row in rows]
    print(json.dumps({"orders": list(Order.objects.values_list("number", flat=True)), "outbox": outbox_rows}))


main()
