"""The sandbox of `make demo`: each upstream does what its name says, and registering twice changes nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.backends import ROOT
from tests.support.installation import free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from integrations.outbound.outcome import Outcome


@pytest.fixture
def call() -> Callable[..., list[Outcome]]:
    """Calls an upstream of a fresh sandbox, one after the other: `call("flaky", times=50)`."""

    def calls(behaviour: str, times: int = 1, seed: int = 1) -> list[Outcome]:
        return asyncio.run(_call(behaviour, times, seed))

    return calls


async def _call(behaviour: str, times: int, seed: int) -> list[Outcome]:
    from integrations.outbound.addresses import parse_networks
    from integrations.outbound.client import Call, Client
    from integrations.registration.sandbox import Upstreams

    upstreams, client = Upstreams(Random(seed)), Client()
    await upstreams.start()
    url, loopback = f"http://127.0.0.1:{upstreams.port}/{behaviour}/orders", parse_networks("127.0.0.0/8")
    try:
        return [await client.send(Call("POST", url, body=b'{"order": 1}', allowed=loopback)) for _ in range(times)]
    finally:
        await client.aclose()
        await upstreams.close()


def test_the_healthy_one_answers_200_at_once(call):
    outcomes = call("healthy", times=20)
    assert {outcome.status_code for outcome in outcomes} == {200}
    assert max(outcome.duration for outcome in outcomes) < 1


def test_the_slow_one_takes_a_second_to_three(call):
    (outcome,) = call("slow")
    assert outcome.status_code == 200
    assert 1 <= outcome.duration < 4


def test_the_flaky_one_fails_about_one_call_in_five(call):
    statuses = [outcome.status_code for outcome in call("flaky", times=300)]
    assert set(statuses) == {200, 500}
    assert 30 < statuses.count(500) < 90


def test_the_one_that_is_down_never_answers_anything_but_503(call):
    assert {outcome.status_code for outcome in call("down", times=5)} == {503}


def test_the_rate_limiting_one_says_how_long_to_wait(call):
    allowed, also_allowed, refused = call("rate-limiting", times=3)
    assert (allowed.status_code, also_allowed.status_code, refused.status_code) == (200, 200, 429)
    assert ("Retry-After", "1") in refused.headers


def test_garbage_is_never_taken_for_an_answer(call):
    outcomes = call("garbage", times=12)
    assert not any(outcome.succeeded for outcome in outcomes)
    assert {outcome.fault for outcome in outcomes} <= {"protocol", "reset"}
    assert len({outcome.detail for outcome in outcomes}) > 1


def test_an_unknown_path_is_404(call):
    assert call("nobody")[0].status_code == 404


@pytest.mark.django_db
def test_registering_twice_changes_nothing():
    from integrations.models import AuditEntry, Endpoint, Runtime, Service
    from integrations.registration.sandbox import SANDBOX, register_services

    register_services(8090)
    before = list(Service.objects.values()), list(Endpoint.objects.values()), AuditEntry.objects.count()
    register_services(8090)
    assert (list(Service.objects.values()), list(Endpoint.objects.values()), AuditEntry.objects.count()) == before
    assert Runtime.objects.count() == Service.objects.count() == len(SANDBOX) == 6


@pytest.mark.django_db
def test_what_somebody_changed_stays_while_the_address_follows_the_port():
    from integrations.models import Service
    from integrations.registration.sandbox import register_services

    register_services(8090)
    service = Service.objects.get(name="sandbox-down")
    service.breaker = {"open_for": 7}
    service.save()
    service.endpoints.get(name="stock-level").delete()

    register_services(8091)

    service.refresh_from_db()
    assert service.base_url == "http://127.0.0.1:8091/down"
    assert service.breaker == {"open_for": 7}
    assert not service.endpoints.filter(name="stock-level").exists()


@pytest.mark.django_db
def test_only_the_sandbox_may_reach_this_machine():
    from integrations.models import Service
    from integrations.outbound.urls import static_refusal
    from integrations.registration.sandbox import register_services

    register_services(8090)
    Service.objects.create(name="another", base_url="http://127.0.0.1:8090/")
    allowed = {s.name for s in Service.objects.all() if static_refusal(s.base_url, s.allowed_networks) is None}
    assert "another" not in allowed
    assert len(allowed) == 6


@pytest.mark.slow
@pytest.mark.django_db
def test_traffic_varies_and_stops_at_what_may_wait():
    from integrations.models import Message
    from integrations.registration.sandbox import SANDBOX, WAITING_LIMIT, Traffic, register_services

    register_services(8090)
    traffic = Traffic(Random(3))
    for _ in range(1_000):
        traffic.send_one()

    assert traffic.sent == Message.objects.count() == len(SANDBOX) * WAITING_LIMIT
    assert Message.objects.values("endpoint").distinct().count() > len(SANDBOX)
    assert len({message.tags["region"] for message in Message.objects.all()}) == 3
    assert Message.objects.values("ordering_key").distinct().count() > 10


@pytest.mark.any_database
def test_the_demo_lives_and_stops_like_up(start_installation):
    demo = start_installation(on="sqlite", start=False, migrated=False, SWITCHBOARD_ALLOW_PRIVATE=None)
    with (demo.folder / "up.log").open("ab") as output:
        demo.process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", str(demo.port), "--sandbox-port", str(free_port())],
            cwd=ROOT,
            env=demo.env,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    demo.wait_for_web()
    assert "6 sandbox services" in demo.log
    until(lambda: "/setup/" in demo.log, 10, "no set-up link")
    api = demo.api(demo.token("viewer"))
    deadline = time.monotonic() + 30
    while not (delivered := api.get("messages", params={"status": "delivered"}).json()["items"]):
        assert time.monotonic() < deadline, demo.log[-2000:]
        time.sleep(0.3)
    assert delivered[0]["service"].startswith("sandbox-")
    demo.kill()  # the sandbox dies with its parent, as everything does
    demo.wait_until_gone()
