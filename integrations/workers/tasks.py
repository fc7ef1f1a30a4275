"""The tasks that django-q2's workers run. Their arguments and results are numbers only."""

from __future__ import annotations

import asyncio
import logging
import os

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django_q.tasks import async_task
from redis import RedisError

from integrations.logs import line
from integrations.workers.pump import Pump, freeze_startup_objects, new_loop

log = logging.getLogger("switchboard.lane")

SLICE = 15.0  # seconds that a lane runs before it hands over
HAND_OVER = 1.5  # seconds before its end that a slice queues the next one, so that no lane pauses in between
QUEUE_AGAIN = 2.0  # seconds until a slice that could not be queued is queued again
NO_TIMEOUT = -1  # a slice runs longer while the queue is unreachable; the watchdog ends one that hangs


class _Lane:
    """The pump and loop of this worker process. They live on between slices, so connections and calls survive."""

    def __init__(self) -> None:
        freeze_startup_objects()
        self.loop = new_loop()
        self.pump = Pump(settings.CLUSTER)
        lifeline = os.environ.get("SWITCHBOARD_LIFELINE")
        if lifeline:
            # The supervisor holds the other end, which closes when it stops or dies, even by SIGKILL.
            self.loop.add_reader(int(lifeline), self._drain, int(lifeline))

    def _drain(self, lifeline: int) -> None:
        self.loop.remove_reader(lifeline)
        self.pump.stop()

    async def run(self) -> None:
        handing_over = self.loop.create_task(self._hand_over())
        try:
            await self.pump.run(SLICE)
            while not (handing_over.done() or self.pump.stopping):
                await self.pump.run(1.0)  # the queue (Redis, for example) is unreachable, but the lane can go on
        finally:
            handing_over.cancel()
        if self.pump.stopping:
            await self.pump.close()

    async def _hand_over(self) -> None:
        pause, queued = SLICE - HAND_OVER, False
        while not queued:
            await asyncio.sleep(pause)
            # In a thread: queueing writes to the database or Redis and would block the loop.
            queued = await self.loop.run_in_executor(None, queue_slice, settings.CLUSTER)
            pause = QUEUE_AGAIN


_lane: _Lane | None = None


def pump() -> int:
    """Run one slice of this process's lane. Returns the number of calls in flight at its end."""
    global _lane
    _lane = _lane or _Lane()
    if _lane.pump.stopping:
        return 0
    _lane.loop.run_until_complete(_lane.run())
    return len(_lane.pump.in_flight)


def queue_slice(cluster: str) -> bool:
    """Queue one more slice for any free worker of this cluster. Returns False if the queue is unreachable."""
    try:
        async_task("integrations.workers.tasks.pump", cluster=cluster, timeout=NO_TIMEOUT)
    except (DatabaseError, InterfaceError, RedisError, OSError) as error:
        connection.close()
        log.warning(line("no queue", cluster=cluster, error=str(error).partition("\n")[0]))
        return False
    return True
