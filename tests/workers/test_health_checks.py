"""Regular checks of a service: one worker makes each, and they leave the breaker and the traffic alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise

import httpx
import pytest
from django.db import connection
from django.db.models import Sum
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from integrations.models import Attempt, Event, Health, Runtime, Service, Tally
from integrations.outbound.outcome import Outcome
from integrations.policies.health import DOWN_AFTER, HealthState, is_expected, next_state
from integrations.workers import health_checks
from tests.support.receiver import Receiver

Register = Callable[..., Service]
Deliver = Callable[..., None]


@pytest.fixture
def service(register: Register, sink: Receiver) -> Service:
    service = register(base_url=sink.url, health_check={"path": "/up", "interval": 60, "expect": "2xx"})
    Health.objects.schedule(service)
    return service


def check_again(deliver: Deliver, times: int = 1) -> Health:
    for _ in range(times):
        before = Health.objects.get().checked_at
        Health.objects.update(next_at=timezone.now() - timedelta(seconds=1))
        deliver(until=lambda before=before: Health.objects.get().checked_at != before)
    return Health.objects.get()


def told() -> list[str]:
    return list(
        Event.objects.filter(type__in=("service.up", "service.down")).order_by("pk").values_list("type", flat=True)
    )


def test_a_check_is_a_small_get_that_leaves_the_breaker_and_the_traffic_alone(
    service: Service, sink: Receiver, deliver: Deliver
) -> None:
    before = Runtime.objects.values("state", "consecutive", "window").get(service=service)
    sink.answer(500)
    found = check_again(deliver, 6)
    assert (sink.last.method, sink.last.path) == ("GET", "/up")
    attempt = Attempt.objects.get(pk=found.attempt_id)
    assert (attempt.trigger, attempt.outcome, attempt.status_code, attempt.message) == ("health", "failed", 500, None)
    assert sink.last.header("webhook-id") == attempt.public_id
    assert Runtime.objects.values("state", "consecutive", "window").get(service=service) == before
    counted = Tally.objects.aggregate(*(Sum(name) for name in ("calls", "seconds", "checks", "failed_checks")))
    assert list(counted.values()) == [0, 0, 6, 6]


def test_it_is_down_after_two_failures_and_up_after_one_success_and_told_once(
    service: Service, sink: Receiver, deliver: Deliver
) -> None:
    assert check_again(deliver).state == "up"
    assert told() == []  # found up for the first time is no news
    sink.answer(503)
    assert check_again(deliver).state == "up"
    down = check_again(deliver)
    assert (down.state, down.failed_in_a_row) == ("down", 2)
    assert "503" in down.detail
    check_again(deliver)
    assert told() == ["service.down"]
    event = Event.objects.get(type="service.down")
    assert event.facts["attempts"]
    assert "503" in event.facts["cause"]
    sink.answer(204)
    up = check_again(deliver)
    assert (up.state, up.failed_in_a_row, up.detail) == ("up", 0, "")
    assert told() == ["service.down", "service.up"]


@pytest.mark.parametrize(
    ("expect", "status", "is_good"),
    [("2xx", 301, False), ("401", 401, True), ("200, 3xx", 304, True), ("2xx", 404, False)],
)
def test_healthy_is_what_is_expected(
    service: Service, sink: Receiver, deliver: Deliver, expect: str, status: int, is_good: bool
) -> None:
    Service.objects.filter(pk=service.pk).update(health_check={"path": "/", "interval": 60, "expect": expect})
    sink.answer(status)
    found = check_again(deliver)
    attempt = Attempt.objects.get(pk=found.attempt_id)
    assert (found.state, attempt.outcome) == (("up", "succeeded") if is_good else ("unknown", "failed"))


def test_no_answer_at_all_is_a_failure_in_words(service: Service, sink: Receiver, deliver: Deliver) -> None:
    sink.close()
    found = check_again(deliver, 2)
    assert found.state == "down"
    assert found.detail


def test_after_a_401_the_next_check_brings_a_new_token(register: Register, deliver: Deliver) -> None:
    auth = {"type": "oauth2", "token_url": "http://login.test/token", "client_id": "us"}
    service = register(auth=auth, health_check={"path": "/up", "interval": 60})
    service.keep_secret("auth.client_secret", "ours")
    service.save()
    Health.objects.schedule(service)
    made = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal made
        if request.url.host == "login.test":
            made += 1
            return httpx.Response(200, json={"access_token": f"token-{made}"})
        return httpx.Response(200 if request.headers["Authorization"] == "Bearer token-2" else 401)

    def once_more() -> str:
        before = Health.objects.get().checked_at
        Health.objects.update(next_at=timezone.now() - timedelta(seconds=1))
        deliver(answer, until=lambda: Health.objects.get().checked_at != before)
        return Attempt.objects.order_by("-pk")[0].outcome

    assert [once_more(), once_more()] == ["failed", "succeeded"]


def test_a_check_takes_no_longer_than_its_interval(service: Service) -> None:
    Service.objects.update(health_check={"path": "/", "interval": 7}, timeout={"connect": 20, "total": 30})
    (check,) = health_checks.claim()
    assert check.service.timeouts.total == 30

    class Asked:
        async def send(self, call: object) -> object:
            self.call = call
            raise InterruptedError

    import asyncio

    asked = Asked()
    with pytest.raises(InterruptedError):
        asyncio.run(health_checks.send(asked, check, timezone.now()))  # type: ignore[arg-type]
    assert (asked.call.total_timeout, asked.call.connect_timeout) == (7, 7)  # type: ignore[attr-defined]


def test_of_many_workers_one_makes_the_check(service: Service) -> None:
    found: list[int] = []
    barrier = threading.Barrier(4)

    def claim() -> None:
        barrier.wait()
        found.append(len(health_checks.claim()))
        connection.close()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 0, 0, 1]
    assert Attempt.objects.count() == 1
    assert Health.objects.get().next_at > timezone.now() + timedelta(seconds=50)


def test_a_paused_service_is_not_checked(service: Service) -> None:
    service.pause("their maintenance")
    assert health_checks.claim() == []


def test_only_the_newest_checks_are_kept(service: Service, deliver: Deliver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_checks, "HISTORY", 3)
    check_again(deliver, 5)
    assert Attempt.objects.count() == 3
    assert Attempt.objects.filter(pk=Health.objects.get().attempt_id).exists()


def test_a_service_deleted_meanwhile_leaves_nothing(service: Service) -> None:
    (check,) = health_checks.claim()
    service.delete()
    health_checks.record(check, None, Outcome(status_code=200))
    assert not Attempt.objects.exists()


@given(st.lists(st.booleans(), max_size=40))
def test_news_come_in_turn_and_only_after_enough_failures(checks: list[bool]) -> None:
    state: HealthState = "unknown"
    failed, news = 0, []
    for place, is_good in enumerate(checks):
        state, failed, change = next_state(state, failed, is_good=is_good)
        if change:
            news.append(change)
        if change == "down":
            assert not any(checks[place + 1 - DOWN_AFTER : place + 1])
        assert (state == "up") == is_good or (state == "up" and failed < DOWN_AFTER)
    assert all(one != other for one, other in pairwise(news))
    assert news[:1] in ([], ["down"])


def test_without_a_status_nothing_is_expected() -> None:
    assert not is_expected(None, "2xx")
