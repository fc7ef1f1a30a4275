"""Locks left by a machine that disappears. The long form, with a real cut, is tests/faults/test_two_machines.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import DatabaseError, connection, transaction

from integrations.models import Message, Runtime, Service
from tests.support.pumps import ENDS_WITHIN, OFF, Pumps, nothing_is_unfinished
from tests.support.receiver import Receiver
from tests.support.waiting import until

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
