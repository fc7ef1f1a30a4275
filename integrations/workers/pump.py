"""A pump lane: a loop that keeps many calls in flight, while threads of its own use the database.

A claim is sent as a task on the loop; its result waits in memory until a batch is settled. Claiming, settling and
housekeeping run concurrently on PostgreSQL, one at a time on SQLite.

The pump is a plain object. django-q2 runs it in slices (tasks.py); `manage.py deliver` and tests run it directly.
Calls in flight live on from slice to slice. The lease in the worker row covers everything that the pump has claimed.
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
from functools import partial
from typing import TypeVar

from django.db import DatabaseError, InterfaceError, OperationalError, connection

from integrations.delivery import listeners
from integrations.delivery.claim import Claim, claim, claim_suspect, give_back, give_back_unknown
from integrations.delivery.send import CallResult, new_client, send
from integrations.delivery.settle import settle, settle_bare, settle_free
from integrations.logs import line
from integrations.models import Event, Worker, database_now, meter, sql
from integrations.models.worker import LEASE, RENEW_EVERY
from integrations.operators import bulk_operations
from integrations.outbound.client import Client
from integrations.outbound.outcome import Fault, Outcome
from integrations.policies.clocks import Steadiness
from integrations.wakeup import WakeupListener
from integrations.workers import health_checks, housekeeping

log = logging.getLogger("switchboard.pump")
T = TypeVar("T")

CAPACITY = 512  # calls in flight in one pump; each is a small task and a connection
SERVICE_SHARE = 7 / 8  # of the capacity for one service, so that a hanging or backlogged one leaves room for others
CLAIM_BATCH = 256  # half of the capacity, so that one half is in flight while the other is settled
SLOT_LATENESS = 0.015  # seconds that a call may start after its send slot; later, the slot is given back
SLOT_EARLINESS = 0.1  # seconds that a call may start before it, after a small correction of the clock
LOOK_AGAIN = 1.0  # seconds that a call sleeps at most before it looks at the clock again
LEAST_JUMP = timedelta(seconds=1)  # of the database's clock that a claim corrects
GATHER = 0.002  # seconds in which results accumulate before they are settled together
GATHER_LONGER = 0.025  # the same if they are few and nothing is blocked on them
SMALL_BATCH = 32
HELD_UP_AGAIN = 1.0  # seconds until results that a lock of another transaction held up are tried again
SKIP_LOCKED_FOR = 5.0  # seconds after a lock timeout in which claims look past locked rows
EMPTY_WAKEUPS = 2  # wake-ups in a row that found nothing, after which the lane backs off; one happens to any lane
WAKEUP_BACKOFF = 0.02  # seconds after a wake-up in which the other lane claims first
SWEEP_EVERY = 1.0  # seconds; the stored state of a breaker turns within this time
TIDY_EVERY = 30.0
POLL_EVERY = 0.25  # seconds between searches for due messages without a wake-up
POLL_SOON = 0.05  # seconds to the next search while messages wait for concurrency, a send slot or a breaker
GRACE = 12.0  # seconds that calls in flight have to finish when the pump stops
DATABASE_BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)


class Pump:
    """One worker: claims, sends and settles until it is stopped. ``alone``: only suspects, one at a time."""

    def __init__(self, cluster: str, *, client: Client | None = None, capacity: int = CAPACITY, alone: bool = False):
        self.cluster = cluster
        self.capacity = 1 if alone else capacity
        self.service_capacity = max(1, int(self.capacity * SERVICE_SHARE))
        self.alone = alone
        self.client = client or new_client()
        self.worker_id = 0
        self.stopping = False
        self.in_flight: dict[int, tuple[Claim, asyncio.Task[None]]] = {}
        self._results: list[CallResult] = []  # not settled yet
        self._held_up: list[CallResult] = []  # the same, but another transaction has locked their rows
        self._unsent: list[Claim] = []  # their send slot had passed
        self._woken = asyncio.Event()
        self._claim_thread = _database_thread("database")
        # Settling and housekeeping need not wait for a claim. On SQLite, with its one writer at a time, they would.
        own = connection.vendor != "sqlite"
        self._settle_thread = _database_thread("settling") if own else self._claim_thread
        self._housekeeping_thread = _database_thread("housekeeping") if own else self._claim_thread
        self._settling: asyncio.Task[None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._operating: asyncio.Task[None] | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._wakeups = WakeupListener(self._on_wakeup)
        self._has_wakeup = self._may_be_due = self._found_nothing = False
        self._empty_wakeups = 0  # in a row
        self._delayed_wakeup: asyncio.TimerHandle | None = None
        # The database's time and ours at the same moment. Ours is the monotonic clock, which is never set.
        self._clock = (datetime.now(UTC), time.monotonic())
        self._steadiness = Steadiness()
        self._counts = {"delivered": 0, "failed": 0}
        self._next_renewal = self._next_sweep = self._next_tidy = self._next_poll = self._next_operation = 0.0
        self._next_free_settling = self._skip_locked_until = 0.0
        self._errors = 0  # in a row

    # ---- running ---------------------------------------------------------------------------------------------------
    async def run(self, seconds: float | None = None, *, until_idle: bool = False) -> None:
        """Run for ``seconds``, until ``stop`` is called, or until nothing is due and nothing in flight."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self.stopping and (end is None or time.monotonic() < end):
            try:
                may_claim_more = await self._turn()
            except (DatabaseError, InterfaceError) as error:
                await self._back_off(error)
                continue
            except Exception as error:  # a bug must not stop the calls in flight
                log.exception(line("turn failed"))
                await self._back_off(error)
                continue
            self._errors = 0
            if until_idle and self._found_nothing and not self._is_busy():
                break
            await self._wait(0.0 if may_claim_more else self._time_to_next_step(end))

    def _is_busy(self) -> bool:
        return bool(self.in_flight or self._may_be_due or self._housekeeping or self._operating or self._checks)

    def stop(self) -> None:
        """End the loop at its next turn. Safe to call from a signal handler of the loop."""
        self.stopping = True
        self._woken.set()

    async def close(self) -> None:
        """Wait for the calls in flight, then give back the other claims at once.

        While the database is unreachable, results are kept for as long as the calls may take. After that the claims
        return when the lease runs out.
        """
        self.stopping = True
        deadline = time.monotonic() + GRACE
        while self.in_flight and time.monotonic() < deadline:
            if await self._try_settle_all():
                await self._wait(0.1)
        for _, task in self.in_flight.values():
            task.cancel()
        for task in self._checks:
            task.cancel()
        tasks = [task for _, task in self.in_flight.values()]
        tasks += [task for task in (self._housekeeping, self._operating) if task is not None]
        await asyncio.gather(*tasks, *self._checks, return_exceptions=True)
        if await self._try_settle_all() and self.worker_id:
            await self._in_database(housekeeping.stop_worker, self.worker_id)
            await self._in_database(_write_meters)
        await self._disconnect()
        self._wakeups.close()
        await self.client.aclose()
        self._claim_thread.shutdown()
        self._settle_thread.shutdown()
        self._housekeeping_thread.shutdown()

    async def _try_settle_all(self) -> bool:
        """Settle the results so far. Returns False, after a pause, if the database is unreachable or busy."""
        try:
            await self._join_settling()
            await self._settle_batch()
        except (DatabaseError, InterfaceError) as error:
            await self._back_off(error)
            return False
        return True

    # ---- one turn --------------------------------------------------------------------------------------------------
    async def _turn(self) -> bool:
        """Renew the lease, start settling and housekeeping, and claim. Returns whether more may be claimed at once.

        The renewal comes first: after a stall that outlived the lease, the lane's own sweep would take back its claims,
        and messages whose answers it holds would be sent again.
        """
        await self._hold_lease()
        if self._settling is not None and self._settling.done():
            await self._join_settling()
        self._start_settling()
        await self._start_housekeeping()
        await self._start_operating()
        return await self._claim()

    async def _hold_lease(self) -> None:
        now = time.monotonic()
        if self.worker_id and now < self._next_renewal:
            return
        counts, self._counts = self._counts, {"delivered": 0, "failed": 0}
        renewed = self.worker_id and await self._in_database(self._renew, counts, list(self.in_flight))
        if not renewed:
            # Results of claims that another worker has taken back are late: they complete their lost attempts. They are
            # written first, before the lane claims and sweeps under its new lease.
            await self._join_settling()
            await self._settle_batches()
            self.worker_id = await self._in_database(self._register)
        self._wakeups.open()
        self._next_renewal = now + RENEW_EVERY.total_seconds()

    def _register(self) -> int:
        now = database_now()
        self._set_clock(now)
        listeners.refresh(now)
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
        self._set_clock(now)
        listeners.refresh(now)
        renewed = Worker.objects.renew(self.worker_id, now=now, in_flight=len(in_flight), **counts)
        if renewed:
            # If the reply to a claim's commit was lost, only this worker can return the claim while its lease lasts.
            give_back_unknown(self.worker_id, in_flight, now)
            _write_meters()
        return renewed

    # ---- housekeeping ----------------------------------------------------------------------------------------------
    async def _start_housekeeping(self) -> None:
        """Start housekeeping if it is due, concurrently with claims. Re-raises the error of the last run."""
        if self._housekeeping is not None:
            if not self._housekeeping.done():
                return
            ended, self._housekeeping = self._housekeeping, None
            await ended
            self._may_be_due = True  # it may have made messages due
        if time.monotonic() >= self._next_sweep:
            self._housekeeping = asyncio.create_task(self._keep_house())
            self._housekeeping.add_done_callback(lambda _: self._woken.set())

    async def _keep_house(self) -> None:
        now = time.monotonic()
        thread = self._housekeeping_thread
        self._next_sweep = now + SWEEP_EVERY
        self._steadiness.note(now)
        await self._in_thread(thread, housekeeping.sweep, self._steadiness.is_steady)
        if now >= self._next_tidy:
            self._next_tidy = now + TIDY_EVERY
            await self._in_thread(thread, housekeeping.tidy, self.client.take_certificates())
        for check in await self._in_thread(thread, health_checks.claim, health_checks.CAPACITY - len(self._checks)):
            task = asyncio.create_task(self._check(check))
            self._checks.add(task)
            task.add_done_callback(self._end_check)

    async def _start_operating(self) -> None:
        """Start the next steps of operations if they are due. Re-raises the error of the last ones.

        Not in the sweep: between two steps the thread is free for claims, and on SQLite the database for others.
        """
        if self._operating is not None:
            if not self._operating.done():
                return
            ended, self._operating = self._operating, None
            await ended
        if time.monotonic() >= self._next_operation and not self.alone:
            self._operating = asyncio.create_task(self._operate())
            self._operating.add_done_callback(lambda _: self._woken.set())

    async def _operate(self) -> None:
        pause = await self._in_thread(self._housekeeping_thread, bulk_operations.advance)
        self._next_operation = time.monotonic() + pause

    async def _check(self, check: health_checks.Check) -> None:
        try:
            call, outcome = await health_checks.send(self.client, check, self.now())
            await self._in_thread(self._housekeeping_thread, health_checks.record, check, call, outcome)
        except Exception:  # the next check comes at its own time
            log.exception(line("unchecked", service=check.service.name))

    def _end_check(self, task: asyncio.Task[None]) -> None:
        self._checks.discard(task)
        self._woken.set()

    # ---- settle ----------------------------------------------------------------------------------------------------
    def _start_settling(self) -> None:
        """Start the background task that settles results in batches. The next turn raises its error and restarts it."""
        if self._settling is None and (self._results or self._unsent or self._may_settle_held_up()):
            self._settling = asyncio.create_task(self._settle_batches())

    async def _settle_batches(self) -> None:
        try:
            while self._results or self._unsent or self._may_settle_held_up():
                await self._settle_batch()
        finally:
            self._woken.set()

    async def _join_settling(self) -> None:
        """Wait for the background task, and raise its error."""
        settling, self._settling = self._settling, None
        if settling is not None:
            await settling

    async def _settle_batch(self) -> None:
        """Settle the results so far. They stay in memory until they are committed."""
        await self._give_back_unsent()
        if self._may_settle_held_up():
            held_up, self._held_up = self._held_up, []
            await self._settle_free(held_up)
        if self._can_wait(self._results):
            await asyncio.sleep(GATHER_LONGER)
        elif len(self._results) < len(self.in_flight):
            await asyncio.sleep(GATHER)
        if not self._results:
            return
        batch = self._results[:]
        frees_nothing = self._can_wait(batch)  # asked again: more results may have come during the sleep
        try:
            await self._in_settle_thread(settle, batch)
        except (OperationalError, InterfaceError) as error:
            if not sql.is_lock_timeout(error):
                raise  # the database is unreachable or busy: the whole batch is settled later
            del self._results[: len(batch)]
            await self._settle_free(batch)
            return
        except Exception:
            # The database rejects a value in one result, which must not keep the others from being written.
            log.exception(line("unwritable", results=len(batch)))
            await self._settle_one_by_one(batch)
        del self._results[: len(batch)]
        if not frees_nothing:
            self._may_be_due = True  # a claim that is running now may not see what this commit has freed
            self._woken.set()
        self._end(batch)

    def _end(self, settled: Sequence[CallResult]) -> None:
        for result in settled:
            self._counts["delivered" if result.outcome.succeeded else "failed"] += 1
            self._forget(result.claim)

    def _may_settle_held_up(self) -> bool:
        return bool(self._held_up) and time.monotonic() >= self._next_free_settling

    async def _settle_free(self, results: list[CallResult]) -> None:
        """Settle results without those that a lock holds up; these are tried again in a second."""
        try:
            settled = await self._in_settle_thread(settle_free, results)
        except Exception:
            self._results += results
            raise
        finally:
            self._next_free_settling = time.monotonic() + HELD_UP_AGAIN
        done = {id(result) for result in settled}
        self._held_up += [result for result in results if id(result) not in done]
        self._end(settled)
        self._may_be_due = True
        self._woken.set()
        if self._held_up:
            log.warning(line("held up", results=len(self._held_up), again_in=HELD_UP_AGAIN))

    def _can_wait(self, results: Sequence[CallResult]) -> bool:
        """Whether results are few, and no concurrency, ordering key or breaker is blocked on them."""
        if len(results) >= SMALL_BATCH:
            return False
        blocking = {claimed.message.service_id for claimed, _ in self.in_flight.values() if claimed.blocks_others}
        return all(result.outcome.succeeded and result.claim.message.service_id not in blocking for result in results)

    async def _settle_one_by_one(self, batch: list[CallResult]) -> None:
        for result in batch:
            try:
                await self._in_settle_thread(settle, [result])
            except (OperationalError, InterfaceError):
                raise
            except Exception:
                log.exception(line("unwritable", message=result.claim.message.public_id))
                await self._in_settle_thread(settle_bare, result)

    async def _give_back_unsent(self) -> None:
        if unsent := self._unsent[:]:
            await self._in_settle_thread(give_back, unsent)
            del self._unsent[: len(unsent)]
            self._may_be_due = True  # they are due again
            for claimed in unsent:
                self._forget(claimed)

    def _forget(self, claimed: Claim) -> None:
        """Remove a claim. Its message may be in flight again: a concurrent claim takes messages just given back."""
        pk = claimed.message.pk
        if pk in self.in_flight and self.in_flight[pk][0] is claimed:
            del self.in_flight[pk]

    # ---- claim -----------------------------------------------------------------------------------------------------
    async def _claim(self) -> bool:
        free = self.capacity - len(self.in_flight)
        now = time.monotonic()
        if free <= 0 or not (self._has_wakeup or self._may_be_due or now >= self._next_poll):
            return False
        had_wakeup, self._has_wakeup, self._may_be_due = self._has_wakeup, False, False
        wanted = min(free, CLAIM_BATCH, self.service_capacity)
        if self.alone:
            claims = await self._in_database(claim_suspect, self.worker_id)
        else:
            claims = await self._claim_free(wanted)
        self._found_nothing = not claims
        if had_wakeup:
            self._empty_wakeups = 0 if claims else self._empty_wakeups + 1
        if claims:
            self._correct_clock(claims[0].claimed_at, now)
        for claimed in claims:
            task = asyncio.create_task(self._deliver(claimed))
            self.in_flight[claimed.message.pk] = (claimed, task)
        # More may be due after a full batch. After a smaller one, the other due messages wait for something.
        blocks_others = any(claimed.blocks_others for claimed in claims)
        self._next_poll = now if len(claims) == wanted else now + (POLL_SOON if blocks_others else POLL_EVERY)
        return bool(claims)

    async def _claim_free(self, wanted: int) -> list[Claim]:
        """Claim, and for some seconds after a lock timeout past the rows that other transactions have locked."""
        caps = self._service_caps()
        if time.monotonic() >= self._skip_locked_until:
            try:
                return await self._in_database(claim, self.worker_id, wanted, caps)
            except OperationalError as error:
                if not sql.is_lock_timeout(error):
                    raise
                self._skip_locked_until = time.monotonic() + SKIP_LOCKED_FOR
                log.warning(line("held up", step="claim", error=str(error).partition("\n")[0]))
        return await self._in_database(partial(claim, skip_locked=True), self.worker_id, wanted, caps)

    def _service_caps(self) -> dict[int, int]:
        """How many more calls each service in flight may get of this pump's capacity."""
        busy = Counter(claimed.message.service_id for claimed, _ in self.in_flight.values())
        return {service_id: max(0, self.service_capacity - count) for service_id, count in busy.items()}

    # ---- one call --------------------------------------------------------------------------------------------------
    async def _deliver(self, claimed: Claim) -> None:
        started = self.now()
        try:
            if await self._reach_slot(claimed):
                self._results.append(await send(self.client, claimed, self.now()))
            else:
                self._unsent.append(claimed)
        except Exception as error:  # a bug; without a result the claim would never end
            log.exception(line("undelivered", message=claimed.message.public_id))
            outcome = Outcome(fault=Fault.PROTOCOL, detail=f"the call ended with {type(error).__name__}")
            self._results.append(CallResult(claimed, None, outcome, started))
        if not self.stopping:  # else `close` settles
            self._start_settling()
        self._woken.set()

    async def _reach_slot(self, claimed: Claim) -> bool:
        """Wait for the claim's send slot. Returns False if it has passed: a late call would go out in a burst with the
        next one, so its slot is given back."""
        if not claimed.target.limits.rate:
            return True
        ahead = (claimed.send_at - self.now()).total_seconds()
        if ahead > 0:
            await asyncio.sleep(min(ahead, LOOK_AGAIN))
        late = (self.now() - claimed.send_at).total_seconds()
        # A slot is claimed some 0.3 s ahead. If it is still ahead after a second, a clock has moved back, and the lane
        # would hold its place for the whole jump.
        return -SLOT_EARLINESS <= late <= max(SLOT_LATENESS, claimed.target.limits.interval.total_seconds())

    def now(self) -> datetime:
        """The database's time, by our monotonic clock and the difference measured at the last renewal."""
        moment, measured_at = self._clock
        return moment + timedelta(seconds=time.monotonic() - measured_at)

    def _set_clock(self, now: datetime) -> None:
        self._clock = (now, time.monotonic())

    def _correct_clock(self, claimed_at: datetime, began: float) -> None:
        """Follow a jump of the database's clock before the next renewal.

        A claim reads the time first and may then wait for a lock, so the time belongs to a moment after ``began``.
        """
        moment, measured_at = self._clock
        earliest = moment + timedelta(seconds=began - measured_at) - LEAST_JUMP
        if not earliest <= claimed_at <= self.now() + LEAST_JUMP:
            self._clock = (claimed_at, began)

    # ---- waiting ---------------------------------------------------------------------------------------------------
    def _on_wakeup(self) -> None:
        """Claim now. After wake-ups that found nothing, back off so the other lane goes first: lanes that claim the
        same few messages at once only get in each other's way."""
        if self._empty_wakeups < EMPTY_WAKEUPS:
            self._wake()
        elif self._delayed_wakeup is None:
            self._delayed_wakeup = asyncio.get_running_loop().call_later(WAKEUP_BACKOFF, self._wake)

    def _wake(self) -> None:
        self._delayed_wakeup = None
        self._has_wakeup = True
        self._woken.set()

    async def _wait(self, seconds: float) -> None:
        if seconds > 0 and not self._woken.is_set():
            try:
                await asyncio.wait_for(self._woken.wait(), seconds)
            except TimeoutError:
                pass
        self._woken.clear()
        await asyncio.sleep(0)

    def _time_to_next_step(self, end: float | None) -> float:
        now = time.monotonic()
        moments = [self._next_renewal]
        if self._housekeeping is None:  # else its end wakes the loop
            moments.append(self._next_sweep)
        if self._operating is None and not self.alone:
            moments.append(self._next_operation)
        if len(self.in_flight) < self.capacity:
            moments.append(self._next_poll)
        if end is not None:
            moments.append(end)
        return max(0.001, min(moments) - now)

    async def _back_off(self, error: Exception) -> None:
        """Pause while the database is unreachable or busy. Results are kept; the lease decides if they still count."""
        pause = DATABASE_BACKOFF[min(self._errors, len(DATABASE_BACKOFF) - 1)]
        self._errors += 1
        log.warning(line("database", error=str(error).partition("\n")[0], again_in=pause, unwritten=len(self._results)))
        self._next_renewal = 0.0  # the renewal finds claims whose commit succeeded but whose reply was lost
        await self._disconnect()
        await asyncio.sleep(pause)

    # ---- threads ---------------------------------------------------------------------------------------------------
    async def _in_database(self, step: Callable[..., T], *args: object) -> T:
        return await self._in_thread(self._claim_thread, step, *args)

    async def _in_settle_thread(self, step: Callable[..., T], *args: object) -> T:
        return await self._in_thread(self._settle_thread, step, *args)

    async def _in_thread(self, thread: ThreadPoolExecutor, step: Callable[..., T], *args: object) -> T:
        """Run a step in one of the pump's threads, each with a connection of its own, without blocking the loop."""
        return await asyncio.get_running_loop().run_in_executor(thread, step, *args)

    async def _disconnect(self) -> None:
        for thread in (self._claim_thread, self._settle_thread, self._housekeeping_thread):
            await self._in_thread(thread, _disconnect)


def new_loop() -> asyncio.AbstractEventLoop:
    """A new event loop: uvloop's if it is installed."""
    with suppress(ImportError):
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def freeze_startup_objects() -> None:
    """Exclude everything that Django has loaded from garbage collection. Call it once, before the loop starts.

    These objects never become garbage. Scanning them again and again took a tenth of a lane's time, and now and then
    70 ms of a page.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _write_meters() -> None:
    with suppress(DatabaseError, InterfaceError):  # no call waits for a metric; the sums are written the next time
        meter.write()


def _database_thread(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix=name, initializer=sql.limit_lock_waits)


def _disconnect() -> None:
    connection.close()  # looked up here: each thread has its own
