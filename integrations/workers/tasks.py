"""What django-q2's workers call. They are passed numbers only, and answer with one."""

from __future__ import annotations

import asyncio
import logging
import os

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django_q.tasks import async_task
from redis import RedisError

from integrations.logs import line
from integrations.workers.pump import Pump, new_loop, spare_the_collector

log = logging.getLogger("switchboard.lane")

SLICE = 15.0  # seconds of a lane before it hands over
HAND_OVER = 1.5  # seconds before its end that a slice queues the next one, so that no lane pauses in between
ASK_AGAIN = 2.0  # seconds until a slice that could not be queued is queued again
NO_TIMEOUT = -1  # a slice outlives its time while the queue is away; the watchdog looks after one that hangs


class _Lane:
    """This worker process's pump and its loop, which live on between slices: connections and calls survive."""

    def __init__(self) -> None:
        spare_the_collector()
        self.loop = new_loop()
        self.pump = Pump(settings.CLUSTER)
        lifeline = os.environ.get("SWITCHBOARD_LIFELINE")
        if lifeline:
            # The supervisor holds the other end; it closes when it stops or dies, however it dies.
            self.loop.add_reader(int(lifeline), self._let_go, int(lifeline))

    def _let_go(self, lifeline: int) -> None:
        self.loop.remove_reader(lifeline)
        self.pump.stop()

    async def run(self) -> None:
        handing_over = self.loop.create_task(self._hand_over())
        try:
            await self.pump.run(SLICE)
            while not (handing_over.done() or self.pump.stopping):
                await self.pump.run(1.0)  # the queue is away, Redis perhaps, and the lane is not
        finally:
            handing_over.cancel()
        if self.pump.stopping:
            await self.pump.close()

    async def _hand_over(self) -> None:
        pause, queued = SLICE - HAND_OVER, False
        while not queued:
            await asyncio.sleep(pause)
            # Beside the loop: queueing is a database or Redis write.
            queued = await self.loop.run_in_executor(None, queue_slice, settings.CLUSTER)
            pause = ASK_AGAIN


_lane: _Lane | None = None


def pump() -> int:
    """One slice of this process's lane; answers how many calls are in flight at its end."""
    global _lane
    _lane = _lane or _Lane()
    if _lane.pump.stopping:
        return 0
    _lane.loop.run_until_complete(_lane.run())
    return len(_lane.pump.in_flight)


def queue_slice(cluster: str) -> bool:
    """Asks for one more slice, by whichever worker of this cluster is free; False where the queue did not answer."""
    try:
        async_task("integrations.workers.tasks.pump", cluster=cluster, timeout=NO_TIMEOUT)
    except (DatabaseError, InterfaceError, RedisError, OSError) as error:
        connection.close()
        log.warning(line("no queue", cluster=cluster, error=str(error).partition("\n")[0]))
        return False
    return True
