"""Clocks that jump: rates go on, and no history is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from django.core.management import call_command

from integrations.delivery.claim import claim
from integrations.idempotency import run_once
from integrations.management.commands.doctor import _leap
from integrations.models import (
    AuditEntry,
    Health,
    IdempotentAnswer,
    Message,
    Retention,
    Runtime,
    Service,
    database_now,
)
from integrations.models.idempotency import KeyedRequest
from integrations.outbound.client import Client
from integrations.workers import housekeeping
from integrations.workers.pump import Pump
from tests.support.records import a_worker

pytestmark = pytest.mark.django_db(transaction=True)

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]


def test_a_rate_goes_on_after_the_clock_moved_back_a_day(register: Register, send: Send) -> None:
    """The slot of the row was pulled in, but given to no message and never saved."""
    service = register(limits={"rate": 10})
    send(service, 3)
    Runtime.objects.filter(pk=service.pk).update(next_slot=database_now() + DAY)
    claimed = claim(a_worker().pk, 10)
    assert len(claimed) == 1
    assert abs(claimed[0].send_at - database_now()) < 2 * SECOND
    next_slot = Runtime.objects.get(pk=service.pk).next_slot
    assert next_slot is not None
    assert next_slot - database_now() < 2 * SECOND


@pytest.mark.servers_only  # SQLite has no clock of its own
def test_a_message_is_due_at_once_whose_web_server_has_a_clock_that_is_ahead(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was due by the web server's clock, and waited for as long as that was ahead of the database's."""
    service = register(health_check={"path": "/", "interval": 60})
    monkeypatch.setattr("django.utils.timezone.now", lambda: datetime.now(UTC) + timedelta(hours=1))
    (message,) = send(service)
    assert [claimed.message.pk for claimed in claim(a_worker().pk, 10)] == [message.pk]
    (later,) = send(service)
    Message.objects.filter(pk=later.pk).update(due_at=database_now() + DAY)
    later.retry_now()
    assert [claimed.message.pk for claimed in claim(a_worker().pk, 10)] == [later.pk]
    Health.objects.schedule(service)
    assert Health.objects.due(database_now()).exists()


def test_a_lane_holds_no_place_for_a_slot_that_a_jump_back_left_far_ahead(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane slept for the whole jump, an hour, with its places held."""
    monkeypatch.setattr("integrations.workers.pump.LOOK_AGAIN", 0.05)
    send(register(limits={"rate": 10}))
    (claimed,) = claim(a_worker().pk, 10)

    async def reach() -> bool:
        pump = Pump("tests", client=Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))))
        async with asyncio.timeout(5):
            return await pump._reach_slot(replace(claimed, send_at=in_an_hour))

    in_an_hour = database_now() + timedelta(hours=1)
    assert not asyncio.run(reach())


def test_a_lane_follows_a_jump_of_the_databases_clock_at_its_next_claim() -> None:
    """The `webhook-timestamp` of a call followed the lane's own clock, and a jump of the database's for 5 s not."""
    pump = Pump("tests", client=Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))))
    began = time.monotonic()
    pump._correct_clock(database_now() - 3 * SECOND, began - 3)  # a claim that waited for a lock
    assert abs(pump.now() - database_now()) < SECOND / 2
    pump._correct_clock(database_now() + DAY, began)
    assert abs(pump.now() - database_now() - DAY) < SECOND


# ---- history ------------------------------------------------------------------------------------------------------
def _delivered_long_ago(send: Send, service: Service) -> None:
    send(service, 3)
    Message.objects.update(status="delivered", due_at=None, finished_at=database_now())


def _move(monkeypatch: pytest.MonkeyPatch, ahead: timedelta) -> None:
    """Set the database's clock ahead, for the modules that delete by age."""
    modules = ("workers.housekeeping", "history.retention", "idempotency", "management.commands.doctor")
    for module in modules:
        monkeypatch.setattr(f"integrations.{module}.database_now", lambda: datetime.now(UTC) + ahead)
    monkeypatch.setattr("integrations.models.idempotency.timezone.now", lambda: datetime.now(UTC) + ahead)


def _keep_house() -> None:
    Retention.objects.update(rests_until=database_now() - SECOND)
    for _ in range(3):
        housekeeping.sweep()
        housekeeping.tidy()


def test_a_leap_of_the_clock_deletes_no_history_and_forgets_no_idempotency_key(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At +100 days for 45 s, 905 messages went, and the same key made a second message."""
    _delivered_long_ago(send, register())
    key = KeyedRequest("token 1", "k", "/api/v1/messages", "digest")
    IdempotentAnswer.objects.create(owner="token 1", key="k", path=key.path, body_digest="digest", status=202)
    _keep_house()
    _move(monkeypatch, 100 * DAY)
    (answer,) = run_once([key], lambda _: lambda: pytest.fail("it is done again"))
    assert isinstance(answer, IdempotentAnswer)
    _keep_house()
    assert (Message.objects.count(), IdempotentAnswer.objects.count()) == (3, 1)
    (answer,) = run_once([key], lambda _: lambda: pytest.fail("it is done again"))
    assert isinstance(answer, IdempotentAnswer)
    (result,) = (str(result) for result in _leap())
    assert "no history is deleted" in result
    assert result.endswith("run manage.py doctor --accept-clock")


def test_history_is_deleted_again_when_an_admin_accepts_the_clock(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _delivered_long_ago(send, register())
    _keep_house()
    _move(monkeypatch, 100 * DAY)
    _keep_house()
    with suppress(SystemExit):  # for the modes of the test's own files
        call_command("doctor", "--accept-clock")
    assert "no history is deleted" not in capsys.readouterr().out
    assert AuditEntry.objects.filter(action="clock.accepted").count() == 1
    _keep_house()
    assert not Message.objects.exists()


def test_a_rest_begun_before_the_clock_moved_back_ends(register: Register, send: Send) -> None:
    _delivered_long_ago(send, register())
    Message.objects.update(finished_at=database_now() - 91 * DAY, created_at=database_now() - 91 * DAY)
    Retention.objects.current()
    Retention.objects.update(rests_until=database_now() + 100 * DAY)
    housekeeping.sweep()
    assert not Message.objects.exists()
