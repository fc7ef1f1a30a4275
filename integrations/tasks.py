"""What django-q2's workers call. They are passed numbers only, and answer with one."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from django.conf import settings
from django_q.tasks import async_task

from integrations.pump import Pump

SLICE = 15.0  # seconds of a lane before it hands over; well under the task timeout in settings
HAND_OVER = 1.5  # seconds before its end that a slice queues the next one, so that no lane pauses in between


class _Lane:
    """This worker process's pump and its loop, which live on between slices: connections and calls survive."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self.pump = Pump(settings.CLUSTER)
        lifeline = os.environ.get("SWITCHBOARD_LIFELINE")
        if lifeline:
            # The supervisor holds the other end; it closes when it stops or dies, however it dies.
            self.loop.add_reader(int(lifeline), self._let_go, int(lifeline))

    def _let_go(self, lifeline: int) -> None:
        self.loop.remove_reader(lifeline)
        self.pump.stop()

    async def run(self) -> None:
        self.loop.call_later(SLICE - HAND_OVER, self._hand_over)
        await self.pump.run(SLICE)
        if self.pump.stopping:
            await self.pump.close()

    def _hand_over(self) -> None:
        if not self.pump.stopping:
            # Beside the loop: queueing is a database or Redis write.
            self.loop.run_in_executor(None, queue_slice, settings.CLUSTER)


_lane: _Lane | None = None


def pump() -> int:
    """One slice of this process's lane; answers how many calls are in flight at its end."""
    global _lane
    _lane = _lane or _Lane()
    if _lane.pump.stopping:
        return 0
    _lane.loop.run_until_complete(_lane.run())
    return len(_lane.pump.in_flight)


def queue_slice(cluster: str) -> None:
    """Asks for one more slice, by whichever worker of this cluster is free."""
    async_task("integrations.tasks.pump", cluster=cluster)


def _new_loop() -> asyncio.AbstractEventLoop:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()
