"""A pump lane: a loop that keeps many calls in flight, with the database in a thread beside it.

The pump is a plain object. django-q2 runs it in slices (tasks.py), `manage.py deliver` and tests run it directly.
Calls in flight live on from slice to slice; the lease in the worker row covers all that the pump has claimed.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from integrations.delivery.claim import Claim, claim, claim_suspect, give_back, give_back_unknown
from integrations.delivery.send import CallResult, send
from integrations.delivery.settle import settle, settle_bare
from integrations.logs import line
from integrations.models import Event, Worker, database_now
from integrations.models.worker import LEASE, RENEW_EVERY
from integrations.outbound.client import Client
from integrations.outbound.outcome import Fault, Outcome
from integrations.wakeup import WakeupListener
from integrations.workers import health_checks, housekeeping

log = logging.getLogger("switchboard.pump")
T = TypeVar("T")

CAPACITY = 512  # calls in flight in one pump; each is a small task and a connection
SLOT_LATENESS = 0.015  # seconds that a call may start after its send slot; later, the slot is given back
MOST_OF_ONE = 7 / 8  # of the capacity for one service: one that hangs, or has a backlog, leaves room for the others
CLAIM_AT_ONCE = 256  # so that one half is on its way while the other is settled
GATHER = 0.002  # seconds that results gather before they are written together
GATHER_CALMLY = 0.025  # while they are few and nothing waits for them
FEW = 32
IN_VAIN = 2  # rings without anything left after which a lane is the second to look: one alone befalls the first, too
SECOND_LOOK = 0.02  # seconds after a ring, for the lane that finds another one quicker
SWEEP_EVERY = 1.0  # seconds; a breaker's stored state turns within this
TIDY_EVERY = 30.0
LOOK_EVERY = 0.25  # seconds between looks for due messages without a wake-up
LOOK_AGAIN = 0.05  # seconds until the next look while messages wait for a place, a slot or a breaker
GRACE = 12.0  # seconds that calls in flight have to finish when the pump stops
DATABASE_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)


class Pump:
    """One worker: claims, sends and settles until it is stopped. ``alone`` claims suspects, one at a time."""

    def __init__(self, cluster: str, *, client: Client | None = None, capacity: int = CAPACITY, alone: bool = False):
        self.cluster = cluster
        self.capacity = 1 if alone else capacity
        self.most_of_one = max(1, int(self.capacity * MOST_OF_ONE))
        self.alone = alone
        self.client = client or Client(own_ports=frozenset({settings.OWN_PORT} - {0}))
        self.worker_id = 0
        self.stopping = False
        self.in_flight: dict[int, tuple[Claim, asyncio.Task[None]]] = {}
        self._done: list[CallResult] = []
        self._unsent: list[Claim] = []  # their slot had passed
        self._something = asyncio.Event()
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        # A claim need not wait for a settlement; on SQLite, which takes one writer at a time, it would all the same.
        own = connection.vendor != "sqlite"
        self._settling = ThreadPoolExecutor(1, thread_name_prefix="settling") if own else self._database
        self._keeping = ThreadPoolExecutor(1, thread_name_prefix="upkeep") if own else self._database
        self._writing: asyncio.Task[None] | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._wakeups = WakeupListener(self._rang)
        self._was_rung = self._is_freed = self._found_nothing = False
        self._in_vain = 0  # rings in a row after which nothing was left
        self._waking: asyncio.TimerHandle | None = None
        self._offset = timedelta(0)  # the database's clock less ours
        self._counts = {"delivered": 0, "failed": 0}
        self._next_renewal = self._next_sweep = self._next_tidying = self._next_look = 0.0
        self._failures = 0

    # ---- running ---------------------------------------------------------------------------------------------------
    async def run(self, seconds: float | None = None, *, until_idle: bool = False) -> None:
        """Runs for ``seconds``, until ``stop`` is called, or until nothing is due and nothing in flight."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self.stopping and (end is None or time.monotonic() < end):
            try:
                busy = await self._turn()
            except (DatabaseError, InterfaceError) as error:
                await self._endure(error)
                continue
            except Exception as error:  # a bug; calls in flight must not stand still for it
                log.exception(line("turn failed"))
                await self._endure(error)
                continue
            self._failures = 0
            if until_idle and self._found_nothing and not self._is_under_way():
                break
            await self._wait(0.0 if busy else self._patience(end))

    def _is_under_way(self) -> bool:
        return bool(self.in_flight or self._is_freed or self._upkeep or self._checks)

    def stop(self) -> None:
        """Lets the loop end at its next turn; safe to call from a signal handler of the loop."""
        self.stopping = True
        self._something.set()

    async def close(self) -> None:
        """Waits for the calls in flight, then gives up what is left: its claims go back at once. While the database
        is away results are kept as long as calls are; after that it is the lease that gives the claims back."""
        self.stopping = True
        deadline = time.monotonic() + GRACE
        while self.in_flight and time.monotonic() < deadline:
            if await self._written():
                await self._wait(0.1)
        for _, task in self.in_flight.values():
            task.cancel()
        for task in self._checks:
            task.cancel()
        under_way = [task for _, task in self.in_flight.values()] + ([self._upkeep] if self._upkeep else [])
        await asyncio.gather(*under_way, *self._checks, return_exceptions=True)
        if await self._written() and self.worker_id:
            await self._in_database(housekeeping.stop, self.worker_id)
        await self._disconnect()
        self._wakeups.close()
        await self.client.aclose()
        self._database.shutdown()
        self._settling.shutdown()
        self._keeping.shutdown()

    async def _written(self) -> bool:
        """Writes what has come in; False, after a pause, where the database would not take it."""
        try:
            await self._written_out()
            await self._flush()
        except (DatabaseError, InterfaceError) as error:
            await self._endure(error)
            return False
        return True

    # ---- one turn --------------------------------------------------------------------------------------------------
    async def _turn(self) -> bool:
        """Renews, settles, sweeps, claims; True when there may be more to claim at once."""
        await self._hold_lease()
        if self._writing is not None and self._writing.done():
            await self._written_out()
        self._see_to_writing()
        await self._see_to_upkeep()
        return await self._claim()

    async def _hold_lease(self) -> None:
        now = time.monotonic()
        if self.worker_id and now < self._next_renewal:
            return
        counts, self._counts = self._counts, {"delivered": 0, "failed": 0}
        renewed = self.worker_id and await self._in_database(self._renew, counts, list(self.in_flight))
        if not renewed:
            # Claims that somebody has taken back by now will be late, and fill in their lost rows.
            self.worker_id = await self._in_database(self._register)
        self._wakeups.open()
        self._next_renewal = now + RENEW_EVERY.total_seconds()

    def _register(self) -> int:
        now = database_now()
        self._offset = now - _utc_now()
        worker = Worker.objects.create(
            cluster=self.cluster,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=now,
            heartbeat_at=now,
            lease_until=now + LEASE,
        )
        Event.objects.create(type="worker.started", at=now, facts={"host": worker.host, "pid": worker.pid})
        log.info(line("worker", id=worker.pk, cluster=self.cluster, pid=worker.pid, alone=self.alone))
        return worker.pk

    def _renew(self, counts: dict[str, int], in_flight: list[int]) -> bool:
        now = database_now()
        self._offset = now - _utc_now()
        renewed = Worker.objects.renew(self.worker_id, now=now, in_flight=len(in_flight), **counts)
        if renewed:
            # A claim may have been committed without our hearing of it: nobody else would ever take it back.
            give_back_unknown(self.worker_id, in_flight, now)
        return renewed

    async def _see_to_upkeep(self) -> None:
        """Has done what is due of it, beside the claims. What kept it back is raised here."""
        if self._upkeep is not None:
            if not self._upkeep.done():
                return
            ended, self._upkeep = self._upkeep, None
            await ended
            self._is_freed = True  # it may have made something due
        if time.monotonic() >= self._next_sweep:
            self._upkeep = asyncio.create_task(self._keep_up())
            self._upkeep.add_done_callback(lambda _: self._something.set())

    async def _keep_up(self) -> None:
        now = time.monotonic()
        self._next_sweep = now + SWEEP_EVERY
        await self._in_thread(self._keeping, housekeeping.sweep)
        if now >= self._next_tidying:
            self._next_tidying = now + TIDY_EVERY
            await self._in_thread(self._keeping, housekeeping.tidy, self.client.take_certificates())
        for check in await self._in_thread(
            self._keeping, health_checks.claim, health_checks.CAPACITY - len(self._checks)
        ):
            task = asyncio.create_task(self._check(check))
            self._checks.add(task)
            task.add_done_callback(self._checked)

    async def _check(self, check: health_checks.Check) -> None:
        try:
            call, outcome = await health_checks.send(self.client, check, self.now())
            await self._in_thread(self._keeping, health_checks.record, check, call, outcome)
        except Exception:  # the next one comes at its time
            log.exception(line("unchecked", service=check.service.name))

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checks.discard(task)
        self._something.set()

    def _see_to_writing(self) -> None:
        """Has what came in written beside the claims, batch after batch. What keeps one back is raised at the next
        turn, which begins the writing anew."""
        if self._writing is None and (self._done or self._unsent):
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._done or self._unsent:
                await self._flush()
        finally:
            self._something.set()

    async def _written_out(self) -> None:
        """Waits for what is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _flush(self) -> None:
        """Writes the results that have come in; they stay here until they are written."""
        await self._give_back()
        if self._is_calm(self._done):
            await asyncio.sleep(GATHER_CALMLY)
        elif len(self._done) < len(self.in_flight):
            await asyncio.sleep(GATHER)
        if not self._done:
            return
        batch = self._done[:]
        is_calm = self._is_calm(batch)  # others may have come in meanwhile
        try:
            await self._settle(settle, batch)
        except (OperationalError, InterfaceError):
            raise  # the database is away or busy: later, all of it
        except Exception:
            # Something in one of them cannot be written, and must not keep the others from being written.
            log.exception(line("unwritable", results=len(batch)))
            await self._flush_one_by_one(batch)
        del self._done[: len(batch)]
        if not is_calm:
            self._is_freed = True  # a claim under way may not have seen it
            self._something.set()
        for result in batch:
            self._counts["delivered" if result.outcome.succeeded else "failed"] += 1
            self._leave(result.claim)

    def _is_calm(self, results: Sequence[CallResult]) -> bool:
        """Whether they are few and nothing waits for them: neither a place of their service nor their key."""
        if len(results) >= FEW:
            return False
        awaited = {claimed.message.service_id for claimed, _ in self.in_flight.values() if claimed.blocks_others}
        return all(result.outcome.succeeded and result.claim.message.service_id not in awaited for result in results)

    async def _give_back(self) -> None:
        if unsent := self._unsent[:]:
            await self._settle(give_back, unsent)
            del self._unsent[: len(unsent)]
            self._is_freed = True  # they are due again
            for claimed in unsent:
                self._leave(claimed)

    def _leave(self, claimed: Claim) -> None:
        """The message may be in flight again by now: what was just given back is claimed beside this."""
        pk = claimed.message.pk
        if pk in self.in_flight and self.in_flight[pk][0] is claimed:
            del self.in_flight[pk]

    async def _flush_one_by_one(self, batch: list[CallResult]) -> None:
        for result in batch:
            try:
                await self._settle(settle, [result])
            except (OperationalError, InterfaceError):
                raise
            except Exception:
                log.exception(line("unwritable", message=result.claim.message.public_id))
                await self._settle(settle_bare, result)

    async def _claim(self) -> bool:
        free = self.capacity - len(self.in_flight)
        now = time.monotonic()
        if free <= 0 or not (self._was_rung or self._is_freed or now >= self._next_look):
            return False
        was_rung, self._was_rung, self._is_freed = self._was_rung, False, False
        wanted = min(free, CLAIM_AT_ONCE, self.most_of_one)
        if self.alone:
            claims = await self._in_database(claim_suspect, self.worker_id)
        else:
            claims = await self._in_database(claim, self.worker_id, wanted, self._left())
        self._found_nothing = not claims
        if was_rung:
            self._in_vain = 0 if claims else self._in_vain + 1
        for claimed in claims:
            task = asyncio.create_task(self._deliver(claimed))
            self.in_flight[claimed.message.pk] = (claimed, task)
        # A full answer may have more behind it; a part of one means that what is left has to wait for something.
        awaited = any(claimed.blocks_others for claimed in claims)
        self._next_look = now if len(claims) == wanted else now + (LOOK_AGAIN if awaited else LOOK_EVERY)
        return bool(claims)

    def _left(self) -> dict[int, int]:
        """How many more calls each service that this pump is busy with may get of its capacity."""
        busy = Counter(claimed.message.service_id for claimed, _ in self.in_flight.values())
        return {service_id: max(0, self.most_of_one - count) for service_id, count in busy.items()}

    # ---- one call --------------------------------------------------------------------------------------------------
    async def _deliver(self, claimed: Claim) -> None:
        started = self.now()
        try:
            if await self._reach_slot(claimed):
                self._done.append(await send(self.client, claimed, self.now()))
            else:
                self._unsent.append(claimed)
        except Exception as error:  # a bug; without a result the claim would never end
            log.exception(line("undelivered", message=claimed.message.public_id))
            outcome = Outcome(fault=Fault.PROTOCOL, detail=f"the call ended with {type(error).__name__}")
            self._done.append(CallResult(claimed, None, outcome, started))
        if not self.stopping:  # then `close` writes
            self._see_to_writing()
        self._something.set()

    async def _reach_slot(self, claimed: Claim) -> bool:
        """Waits for the claim's send slot; False when it has passed: a late slot is given back, never sent in a
        clump with the next."""
        if not claimed.target.limits.rate:
            return True
        ahead = (claimed.send_at - self.now()).total_seconds()
        if ahead > 0:
            await asyncio.sleep(ahead)
        late = (self.now() - claimed.send_at).total_seconds()
        return late <= max(SLOT_LATENESS, claimed.target.limits.interval.total_seconds())

    def now(self) -> datetime:
        """The database's time, by our clock and the offset measured at the last renewal."""
        return _utc_now() + self._offset

    def _rang(self) -> None:
        """Lanes that run for the same few messages get into each other's way: whoever came too late comes later."""
        if self._in_vain < IN_VAIN:
            self._wake()
        elif self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(SECOND_LOOK, self._wake)

    def _wake(self) -> None:
        self._waking = None
        self._was_rung = True
        self._something.set()

    # ---- waiting ---------------------------------------------------------------------------------------------------
    async def _wait(self, seconds: float) -> None:
        if seconds > 0 and not self._something.is_set():
            try:
                await asyncio.wait_for(self._something.wait(), seconds)
            except TimeoutError:
                pass
        self._something.clear()
        await asyncio.sleep(0)

    def _patience(self, end: float | None) -> float:
        now = time.monotonic()
        moments = [self._next_renewal]
        if self._upkeep is None:  # else its end wakes us
            moments.append(self._next_sweep)
        if len(self.in_flight) < self.capacity:
            moments.append(self._next_look)
        if end is not None:
            moments.append(end)
        return max(0.001, min(moments) - now)

    async def _endure(self, error: Exception) -> None:
        """The database is away or busy: results are kept, and the lease decides whether they still count."""
        pause = DATABASE_BACKOFF[min(self._failures, len(DATABASE_BACKOFF) - 1)]
        self._failures += 1
        log.warning(line("database", error=str(error).partition("\n")[0], again_in=pause, unwritten=len(self._done)))
        self._next_renewal = 0.0  # looks after claims whose commit was not heard of
        await self._disconnect()
        await asyncio.sleep(pause)

    async def _in_database(self, step: Callable[..., T], *args: object) -> T:
        return await self._in_thread(self._database, step, *args)

    async def _settle(self, step: Callable[..., T], *args: object) -> T:
        return await self._in_thread(self._settling, step, *args)

    async def _in_thread(self, thread: ThreadPoolExecutor, step: Callable[..., T], *args: object) -> T:
        """In a thread of the pump's own, so on one connection and without waiting on the loop."""
        return await asyncio.get_running_loop().run_in_executor(thread, step, *args)

    async def _disconnect(self) -> None:
        for thread in (self._database, self._settling, self._keeping):
            await self._in_thread(thread, _disconnect)


def new_loop() -> asyncio.AbstractEventLoop:
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def spare_the_collector() -> None:
    """Once in a process that lasts, before its loop starts: what Django has loaded is never garbage. Looking through
    it again and again took a tenth of a lane's time, and 70 ms of a page now and then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _disconnect() -> None:
    connection.close()  # looked up here: each thread has its own


def _utc_now() -> datetime:
    return datetime.now(UTC)
