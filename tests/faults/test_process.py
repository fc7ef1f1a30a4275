"""kill -9 while `POST /process` waits for a service: its places come back by themselves, and the log does not lie.

The web process is killed in the everyday suite; all of `manage.py up`, in `make faults`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from integrations.delivery.direct_call import LEASE_MARGIN
from integrations.delivery.unqueued_call import UNFINISHED
from integrations.models import identifiers
from tests.faults.traffic import rows
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(280)]

PLACES = 3
PATIENCE = 3.0  # seconds of a caller
WITHIN = PATIENCE + LEASE_MARGIN + 60  # a lease, and what a slow machine adds to it


def the_web(installation: Installation) -> Callable[[], None]:
    (victim,) = installation.processes()["web"]  # looked for before, so that the kill comes at once

    def kill() -> None:
        os.kill(victim.pid, signal.SIGKILL)
        installation.wait_for_web()

    return kill


def everything(installation: Installation) -> Callable[[], None]:
    def kill() -> None:
        installation.kill()
        installation.start()

    return kill


@pytest.mark.parametrize(
    "killer", [pytest.param(the_web, id="web"), pytest.param(everything, id="up", marks=pytest.mark.long)]
)
def test_the_places_of_killed_calls_come_back(
    start_installation: Callable[..., Installation],
    sink: Receiver,
    killer: Callable[[Installation], Callable[[], None]],
) -> None:
    installation = start_installation("--no-workers")
    kill = killer(installation)
    with installation.api() as api:
        service = {"name": "billing", "base_url": sink.url, "limits": {"concurrency": PLACES}}
        # A call that its caller gave up says nothing about the service: however many there are, the breaker stays.
        assert api.post("services", json=service).status_code == 201
        sink.answer(hang=True)
        with calling(api):
            sink.wait_until(lambda: sink.in_flight == PLACES, 60, "calls in flight")
            kill()
        received = {call.header("webhook-id") for call in sink.calls}
        sink.answer(200)
        until(lambda: process(api)["success"], WITHIN, lambda: f"no place came back: {rows(installation, LEASES)}")
        sink.answer(hang=True)
        before = len(sink.calls)
        with calling(api):
            sink.wait_until(lambda: len(sink.calls) >= before + PLACES, WITHIN, "all places")
    log = {
        identifiers.public_id("att", pk, nonce): (outcome, fault, detail)
        for pk, nonce, outcome, fault, detail in rows(installation, ATTEMPTS)
    }
    lost = {one for one, (outcome, *_) in log.items() if outcome == "lost"} & received
    assert 1 <= len(lost) <= PLACES, log
    assert {log[one] for one in lost} == {("lost", "worker_lost", UNFINISHED)}
    assert received <= set(log), "a call was made that the log does not have"
    assert "succeeded" in {outcome for outcome, *_ in log.values()}
    assert rows(installation, "SELECT state FROM integrations_runtime") == [("closed",)]


ATTEMPTS = "SELECT id, nonce, outcome, fault, detail FROM integrations_attempt WHERE trigger = 'process'"
LEASES = "SELECT leases FROM integrations_runtime"


def process(api: httpx.Client) -> dict[str, Any]:
    answer = api.post("process", json={"service": "billing", "method": "GET", "path": "/", "timeout": PATIENCE})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@contextmanager
def calling(api: httpx.Client) -> Iterator[None]:
    """As many callers as permits, each calling again and again until the end or until no server answers."""
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            try:
                process(api)
            except httpx.HTTPError:
                return

    with ThreadPoolExecutor(PLACES) as callers:
        running = [callers.submit(call) for _ in range(PLACES)]
        try:
            yield
        finally:
            is_over.set()
    for one in running:
        one.result()
