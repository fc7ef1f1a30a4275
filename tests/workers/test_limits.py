"""A service's limits as the service sees them, with four pumps of two clusters calling it.

The long form, with exact times and more rates, is `python -m bench scenarios limits`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import pytest

from integrations.models import Attempt, Message, Service
from tests.support.pumps import ENDS_WITHIN, OFF, Pumps, nothing_is_unfinished
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.alone]

CONCURRENCY = 7
RATE = 40  # a second
MESSAGES = 120


def test_rate_and_concurrency_hold_with_four_pumps(
    register: Callable[..., Service],
    send: Callable[..., list[Message]],
    pumps: Pumps,
    start_receiver: Callable[..., Receiver],
) -> None:
    narrow, slow = start_receiver(), start_receiver()
    narrow.answer(200, delay=0.05)
    pumps.start(4)
    send(register("narrow", narrow.url, breaker=OFF, limits={"concurrency": CONCURRENCY}), MESSAGES)
    send(register("slow", slow.url, breaker=OFF, limits={"rate": RATE, "concurrency": 50}), MESSAGES)
    until(nothing_is_unfinished, ENDS_WITHIN, lambda: f"of {MESSAGES} each: {len(narrow.calls)}, {len(slow.calls)}")

    assert (len(narrow.calls), len(slow.calls)) == (MESSAGES, MESSAGES), "each was called for once"
    assert Attempt.objects.values("worker_id").distinct().count() >= 2, "only one pump had a part in it"
    assert narrow.max_in_flight == CONCURRENCY

    at = sorted(call.at for call in slow.calls)
    # One more than the limit, and one for this receiver, which shares an interpreter with the test.
    assert most_in_a_window(at, 1.0) <= RATE + 2
    assert (MESSAGES - 1) / (at[-1] - at[0]) <= RATE * 1.02
    assert (MESSAGES - 1) / (at[-1] - at[0]) >= RATE * 0.7, "most of the allowed rate is used"


def most_in_a_window(at: list[float], seconds: float) -> int:
    """The most of these times, which are sorted, that lie in any half-open window of this length."""
    return max(bisect_left(at, start + seconds) - index for index, start in enumerate(at))
