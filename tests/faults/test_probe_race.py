"""Many processes at once for the few places of a half-open breaker: never one too many, and none is lost for good.

Real processes, each with a worker row and a connection of its own, race through the claim that the pumps use. A few
rounds are in the everyday suite, 200 in `make faults`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from django.db import connections

from integrations.delivery.claim import claim
from integrations.models import Draft, Event, Message, Runtime, Service, Worker, database_now, worker
from integrations.models.message import Status
from integrations.workers import housekeeping
from tests.faults.traffic import busiest_worker, rows, wait_for_lanes
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.records import a_worker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(280), pytest.mark.slow]

PROCESSES = 8
MESSAGES = 20  # more than all racers together could need
ONE_AFTER = 2  # claims that each racer still tries when the places are taken
fork = multiprocessing.get_context("fork")


@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("rounds", [15, pytest.param(200, marks=pytest.mark.long)])
def test_exactly_the_permitted_probes_are_claimed(places: int, rounds: int) -> None:
    service = a_service(places)
    Message.objects.accept([a_draft(service) for _ in range(MESSAGES)])
    claimed: Any = fork.Array("i", PROCESSES)
    gate = fork.Barrier(PROCESSES + 1, timeout=60)
    winners = set[int]()
    with processes(PROCESSES, race, gate, claimed, places, rounds):
        for number in range(1, rounds + 1):
            open_again(service)
            connections.close_all()
            gate.wait()  # all go for it
            gate.wait()  # all have given up
            assert sum(claimed) == places, f"round {number}: {list(claimed)}"
            out = Message.objects.delivering()
            assert out.count() == out.filter(probe_generation=Runtime.objects.get().generation).count() == places
            assert Event.objects.filter(type="breaker.half_opened").count() == number  # one turned it, and one only
            winners |= {racer for racer, count in enumerate(claimed) if count}
    assert len(winners) > 1, "only one process ever got a place: that was no race"


def race(number: int, gate: Any, claimed: Any, places: int, rounds: int) -> None:
    """One racer: claims as its pump would, again and again, until the places are taken and for a bit longer."""
    mine = a_worker()
    for round_ in range(rounds):
        gate.wait()
        Worker.objects.renew(mine.pk, now=database_now(), in_flight=0, delivered=0, failed=0)
        count, after = 0, 0
        while after < ONE_AFTER:
            claims = claim(mine.pk, 1 + round_ % 4)
            assert all(one.trigger == "probe" for one in claims)
            count += len(claims)
            after += Message.objects.delivering().count() >= places
        claimed[number] = count
        gate.wait()


@pytest.mark.faults
def test_the_place_of_a_killed_holder_returns_within_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a lease of 3 s in place of 20; the full one is below."""
    lease = 3.0  # the holder renews it 15 times as often: a machine may be that slow
    monkeypatch.setattr(worker, "LEASE", timedelta(seconds=lease))
    service = a_service(places=1)
    Message.objects.accept([a_draft(service) for _ in range(2)])
    open_again(service)
    ours, theirs = fork.Pipe()
    connections.close_all()
    with processes(1, hold, theirs) as (holder,):
        assert ours.poll(20)
        assert ours.recv() == 1
        watcher = a_worker()
        seen_until = time.monotonic() + lease + 1
        while time.monotonic() < seen_until:  # it renews: as long as it lives the place is its own
            assert not try_to_claim(watcher)
            time.sleep(0.1)
        assert holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        while not try_to_claim(watcher):
            assert time.monotonic() - killed_at < lease + 30, "the place has not come back"
            time.sleep(0.05)
    assert Runtime.objects.get().state == "half_open"
    assert not try_to_claim(watcher), "and it is one place, not two"
    lost = Message.objects.get(losses=1)
    assert lost.attempt_rows.get().outcome == "lost"


def hold(_: int, pipe: Connection) -> None:
    """Claims the probe and keeps its lease until it is killed."""
    mine = a_worker()
    pipe.send(len(claim(mine.pk, 10)))
    while True:
        Worker.objects.renew(mine.pk, now=database_now(), in_flight=1, delivered=0, failed=0)
        time.sleep(0.2)


def try_to_claim(mine: Worker) -> int:
    """One turn of a pump, without sending."""
    Worker.objects.renew(mine.pk, now=database_now(), in_flight=0, delivered=0, failed=0)
    housekeeping.sweep()
    return len(claim(mine.pk, 10))


@pytest.mark.faults
@pytest.mark.long
def test_a_killed_worker_of_a_whole_installation_gives_its_probe_back(
    installation: Installation, sink: Receiver
) -> None:
    """The lease as it is, 20 s: another worker has sent the next probe a second or two after it."""
    sink.answer(200, delay=28)
    wait_for_lanes(installation)
    with installation.api(installation.token()) as api:
        made = api.post("services", json={"name": "billing", "base_url": sink.url, "timeout": {"total": 30}})
        assert made.status_code == 201, made.text
        for action in ("open", "half_open"):
            steered = api.post("services/billing/breaker", json={"action": action, "reason": "a probe to lose"})
            assert steered.status_code == 200, steered.text
        for _ in range(3):
            assert api.post("messages", json={"service": "billing", "path": "/orders"}).status_code == 202
    sink.wait_until(lambda: sink.in_flight == 1, 10, "the probe")
    time.sleep(1)
    assert sink.in_flight == 1
    first = sink.last.header("webhook-id")
    os.kill(busiest_worker(installation), signal.SIGKILL)
    killed_at = time.monotonic()
    sink.wait_until(lambda: sink.ids()[-1] != first, 40, "the next probe")
    took = time.monotonic() - killed_at
    print(f"\nthe next probe was there {took:.1f} s after its holder was killed")
    assert took < worker.LEASE.total_seconds() + 3
    assert len(sink.calls) == 2
    assert rows(installation, "SELECT state FROM integrations_runtime") == [("half_open",)]


# ---- parts ----------------------------------------------------------------------------------------------------------
@contextmanager
def processes(count: int, target: Callable[..., None], *arguments: Any) -> Iterator[list[BaseProcess]]:
    """Forked, as django-q2 forks its workers; connections do not pass a fork, so each makes its own."""
    connections.close_all()
    started: list[BaseProcess] = [fork.Process(target=target, args=(number, *arguments)) for number in range(count)]
    for one in started:
        one.start()
    try:
        yield started
        if target is race:
            for one in started:
                one.join(timeout=20)
            assert [one.exitcode for one in started] == [0] * count
    finally:
        for one in started:
            one.kill()
            one.join()


def a_service(places: int) -> Service:
    return Service.objects.create(
        name="billing", base_url="http://billing.test", breaker={"half_open_calls": places}, limits={"concurrency": 50}
    )


def a_draft(service: Service) -> Draft:
    return Draft(service=service, method="POST", path="/orders", body=b"{}", content_type="application/json")


def open_again(service: Service) -> None:
    """An open breaker whose time has just come, and no call in flight: the first claim turns it."""
    past = database_now() - timedelta(seconds=1)
    Message.objects.update(
        status=Status.PENDING, worker_id=None, claimed_at=None, probe_generation=None, due_at=database_now()
    )
    Runtime.objects.filter(pk=service.pk).update(state="open", opened_at=past, retry_at=past, probes_succeeded=0)
