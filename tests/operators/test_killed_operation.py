"""An operation whose worker is killed in the middle: another one goes on, and each item is done once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.db.models import F
from django.utils import timezone

from tests.support.pumps import OFF, Pumps
from tests.support.receiver import Receiver
from tests.support.waiting import until

if TYPE_CHECKING:
    from integrations.models import Message, Service

DEAD = 300
WITHIN = 60.0  # seconds


def test_each_item_is_done_once_when_its_worker_is_killed(
    pumps: Pumps, register: Callable[..., Service], send: Callable[..., list[Message]], sink: Receiver
) -> None:
    from integrations.models import Message, Operation
    from integrations.models.operation import Kind
    from integrations.operators import bulk_operations

    messages = send(register("billing", sink.url, breaker=OFF), DEAD)
    Message.objects.update(status="dead", due_at=None, finished_at=timezone.now())
    pumps.start(2)
    operation = bulk_operations.plan(Kind.REPLAY, "status:dead", by="person ada", reason="they are back", rate=5)

    def is_in_the_middle() -> bool:
        operation.refresh_from_db()
        return 0 < operation.done < DEAD

    until(is_in_the_middle, WITHIN, lambda: f"{operation.state}, {operation.done}:\n{pumps.log[-3000:]}")
    for process in pumps.processes:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=10)
    operation.refresh_from_db()
    assert operation.done < DEAD
    # The operation, its items and the messages it made agree, however it ended.
    made = Message.objects.filter(operation_id=operation.pk)
    assert operation.done == operation.items.filter(outcome="succeeded").count() == made.count()

    bulk_operations.change(operation, by="person ada", rate=1000)
    pumps.processes.clear()
    pumps.start(1)

    def is_finished() -> bool:
        return Operation.objects.filter(pk=operation.pk, state="finished").exists()

    until(is_finished, WITHIN, lambda: f"not finished:\n{pumps.log[-3000:]}")
    replayed = Counter(made.annotate(original=F("replay_of")).values_list("original", flat=True))
    assert replayed == {message.pk: 1 for message in messages}
    assert operation.items.filter(outcome="succeeded").count() == DEAD
