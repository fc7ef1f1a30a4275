"""The promises of delivery, as a receiver and an operator see them. The other side is a function or a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db import OperationalError
from django.utils import timezone

from integrations.delivery.claim import Claim, claim, claim_suspect, give_back
from integrations.delivery.send import CallResult
from integrations.delivery.send import send as make_call
from integrations.delivery.settle import settle
from integrations.delivery.waiting import waiting_for
from integrations.errors import Conflict
from integrations.models import (
    Attempt,
    AuditEntry,
    Event,
    Message,
    Priority,
    Runtime,
    Service,
    Tally,
    Worker,
    database_now,
)
from integrations.models.message import Status
from integrations.operators import traffic
from integrations.outbound.client import Call, Client
from integrations.outbound.outcome import Outcome
from integrations.schemas.actions import PauseIn, ResumeIn
from integrations.schemas.message import ReplayIn
from integrations.workers import housekeeping
from integrations.workers.pump import Pump
from tests.support.receiver import Answer, Receiver
from tests.support.records import a_worker
from tests.support.waiting import soon

pytestmark = pytest.mark.django_db(transaction=True)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]


def ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"ok": True})


def answering(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, headers=headers)


def kind_of_wait(message: Message) -> str | None:
    message = Message.objects.select_related("service__runtime").get(pk=message.pk)
    waiting = waiting_for(message, database_now())
    return waiting.kind if waiting else None


# ---- the straight way ---------------------------------------------------------------------------------------------
def test_a_delivered_message_has_its_attempt(register: Register, send: Send, deliver: Deliver, sink: Receiver) -> None:
    sink.answer(201, body={"id": 7})
    service = register(base_url=f"{sink.url}/v1/", headers={"X-Tenant": "acme"})
    (message,) = send(service, body=b'{"n": 1}', query={"page": 2}, headers={"X-Trace": "t1"})

    deliver()

    message.refresh_from_db()
    assert (message.status, message.attempts, message.last_status_code) == (Status.DELIVERED, 1, 201)
    attempt = Attempt.objects.get(message=message)
    assert (attempt.number, attempt.trigger, attempt.outcome) == (1, "first", "succeeded")
    assert attempt.timings["total"] == pytest.approx(attempt.duration, abs=1e-5)
    assert json.loads(bytes(attempt.response_body)) == {"id": 7}
    call = sink.last
    assert (call.method, call.target, call.body) == ("POST", "/v1/hook?page=2", b'{"n": 1}')
    assert call.header("X-Tenant") == "acme"
    assert call.header("X-Trace") == "t1"
    assert call.header("Content-Type") == "application/json"
    assert call.header("webhook-id") == message.public_id
    assert Tally.objects.get(service=service).delivered == 1


def test_every_attempt_carries_the_same_bytes_and_the_same_id(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    sink.script(503, 503)
    service = register(base_url=sink.url, retry={"max_attempts": 3})
    (message,) = send(service, body='{"name":"Zoë","n":12345678901234567890}'.encode())

    deliver(until=lambda: Message.objects.get(pk=message.pk).status == Status.DELIVERED)

    assert len({call.body for call in sink.calls}) == 1
    assert {call.header("webhook-id") for call in sink.calls} == {message.public_id}
    assert [attempt.trigger for attempt in message.attempt_rows.oldest_first()] == ["first", "retry", "retry"]


def test_many_messages_are_each_delivered_once(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    service = register(base_url=sink.url, limits={"concurrency": 20})
    messages = send(service, count=300)

    deliver()

    assert sorted(sink.ids()) == sorted(message.public_id for message in messages)
    assert sink.max_in_flight <= 20
    assert Attempt.objects.count() == 300


# ---- outcomes, see also test_outcome_table.py ----------------------------------------------------------------------
def test_attempts_spent_make_a_message_dead(register: Register, send: Send, deliver: Deliver) -> None:
    (message,) = send(register(retry={"max_attempts": 3}))
    deliver(answering(500), until=lambda: Message.objects.get(pk=message.pk).is_finished)
    message.refresh_from_db()
    assert (message.status, message.dead_reason, message.attempts) == (Status.DEAD, "attempts", 3)
    assert message.attempt_rows.count() == 3


def test_a_retry_after_makes_the_whole_service_wait(register: Register, send: Send, deliver: Deliver) -> None:
    service = register()
    send(service)
    deliver(answering(429, **{"Retry-After": "300"}))
    (other,) = send(service)
    deliver(ok)
    assert kind_of_wait(other) == "rate"
    assert Message.objects.get(pk=other.pk).attempts == 0


def test_a_shorter_retry_after_does_not_end_a_longer_one(register: Register, send: Send) -> None:
    send(register(), count=2)
    longer, shorter = claim(a_worker().pk, 10)
    for claimed, seconds in ((longer, "300"), (shorter, "10")):
        settle([result_of([claimed], answering(429, **{"Retry-After": seconds}))])
    throttled_until = Runtime.objects.get().throttled_until
    assert throttled_until
    assert throttled_until - database_now() > timedelta(seconds=200)


def test_gone_pauses_the_service_where_it_is_told_to(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(retry={"on_gone": "pause"})
    (message,) = send(service)
    deliver(answering(410))
    service.refresh_from_db()
    assert service.is_paused
    assert kind_of_wait(message) == "paused"
    assert Event.objects.filter(type="service.paused", service=service).count() == 1


def test_a_request_that_cannot_be_built_is_dead_and_the_pump_goes_on(
    register: Register, send: Send, deliver: Deliver
) -> None:
    service = register()
    (bad,) = send(service, headers={"X-Emoji": "☃"})
    (good,) = send(service)
    deliver(ok)
    bad.refresh_from_db()
    good.refresh_from_db()
    assert (bad.status, bad.dead_reason) == (Status.DEAD, "config")
    assert good.status == Status.DELIVERED


def test_an_address_inside_is_refused_at_the_call(
    register: Register, send: Send, deliver: Deliver, settings: Any
) -> None:
    settings.ALLOW_PRIVATE = ""
    (message,) = send(register(base_url="http://127.0.0.1:9"))
    deliver()
    message.refresh_from_db()
    assert (message.status, message.dead_reason, message.last_fault) == (Status.DEAD, "blocked", "blocked")


def test_secrets_are_sent_and_never_recorded(register: Register, send: Send, deliver: Deliver, sink: Receiver) -> None:
    sink.answer(200, body="you said s3cr3t-canary", headers={"Set-Cookie": "sid=s3cr3t-canary"})
    service = register(base_url=sink.url, auth={"type": "bearer"})
    service.keep_secret("auth.token", "s3cr3t-canary")
    service.save()
    (message,) = send(service)
    deliver()
    assert sink.last.header("Authorization") == "Bearer s3cr3t-canary"
    attempt = message.attempt_rows.get()
    assert "s3cr3t-canary" not in json.dumps([attempt.request_headers, attempt.response_headers, attempt.detail])


# ---- waiting is not failing ---------------------------------------------------------------------------------------
def test_a_paused_service_holds_its_messages(register: Register, send: Send, deliver: Deliver) -> None:
    service = register()
    traffic.pause(service, PauseIn(reason="maintenance"), actor="person ada")
    (message,) = send(service)
    deliver(ok)
    assert kind_of_wait(message) == "paused"
    assert Message.objects.get(pk=message.pk).attempts == 0
    traffic.resume(service, ResumeIn(), actor="person ada")
    deliver(ok)
    assert Message.objects.get(pk=message.pk).status == Status.DELIVERED
    assert list(AuditEntry.objects.values_list("action", flat=True)) == ["service.paused", "service.resumed"]


def test_a_resume_may_leave_messages_back(register: Register, send: Send, deliver: Deliver) -> None:
    service = register()
    traffic.pause(service, PauseIn(reason="migration"), actor="person ada")
    (old,) = send(service)
    moment = timezone.now()
    (new,) = send(service)
    held = traffic.resume(service, ResumeIn(release="newer_than", newer_than=moment), actor="person ada")
    deliver(ok)
    assert held == 1
    assert Message.objects.get(pk=new.pk).status == Status.DELIVERED
    assert kind_of_wait(old) == "held"
    traffic.retry_now(old, actor="person ada")
    deliver(ok)
    assert Message.objects.get(pk=old.pk).status == Status.DELIVERED


def test_a_resume_with_a_rate_spreads_what_waits(register: Register, send: Send) -> None:
    service = register()
    traffic.pause(service, PauseIn(reason="x"), actor="person ada")
    send(service, count=5)
    traffic.resume(service, ResumeIn(rate=2), actor="person ada")
    times = list(Message.objects.order_by("pk").values_list("due_at", flat=True))
    assert [round((time - times[0]).total_seconds(), 3) for time in times] == [0, 0.5, 1, 1.5, 2]


def test_a_schedule_waits_and_says_so(register: Register, send: Send, deliver: Deliver) -> None:
    (message,) = send(register(), deliver_at=timezone.now() + timedelta(hours=1))
    deliver(ok)
    assert kind_of_wait(message) == "schedule"
    traffic.retry_now(message, actor="person ada")
    deliver(ok)
    assert Message.objects.get(pk=message.pk).status == Status.DELIVERED


def test_a_schedule_in_the_past_gets_no_place_ahead_of_the_others(register: Register, send: Send) -> None:
    (message,) = send(register(), deliver_at=timezone.now() - timedelta(hours=1))
    assert message.due_at == message.created_at


def test_an_expired_message_is_dead_without_a_call(register: Register, send: Send, deliver: Deliver) -> None:
    service = register()
    (message,) = send(service)
    Message.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    deliver(ok)
    message.refresh_from_db()
    assert (message.status, message.dead_reason, message.attempts) == (Status.DEAD, "expired", 0)
    assert Tally.objects.values_list("calls", "dead").get() == (0, 1)


def test_a_deadline_ends_what_waited_too_long(register: Register, send: Send, deliver: Deliver) -> None:
    (message,) = send(register(retry={"deadline": 10}))
    Message.objects.update(created_at=timezone.now() - timedelta(seconds=11))
    deliver(ok)
    message.refresh_from_db()
    assert (message.status, message.dead_reason) == (Status.DEAD, "deadline")


def test_no_more_calls_than_the_concurrency_are_claimed(register: Register, send: Send) -> None:
    service = register(limits={"concurrency": 3})
    send(service, count=10)
    worker = a_worker()
    assert len(claim(worker.pk, 100)) == 3
    assert claim(worker.pk, 100) == []
    assert kind_of_wait(Message.objects.pending().first()) == "concurrency"


def test_services_share_the_places_of_a_pump(register: Register, send: Send) -> None:
    for name in ("one", "two", "three"):
        send(register(name, limits={"concurrency": 100}), count=50)
    send(register("small"), count=2)
    claims = claim(a_worker().pk, 32)
    by_service = [sum(c.target.service.name == name for c in claims) for name in ("one", "two", "three", "small")]
    assert by_service == [10, 10, 10, 2]


def test_first_tries_go_ahead_of_retries_and_bulk(register: Register, send: Send) -> None:
    service = register(limits={"concurrency": 3})
    for priority in (Priority.BULK, Priority.RETRY, Priority.FIRST):
        send(service, priority=priority)
    claims = claim(a_worker().pk, 2)
    assert [claimed.message.priority for claimed in claims] == [Priority.FIRST, Priority.RETRY]


def test_retries_stay_within_their_budget(register: Register, send: Send) -> None:
    service = register(limits={"concurrency": 100}, retry={"budget": 0.2})
    Runtime.objects.filter(pk=service.pk).update(recent=[[int(timezone.now().timestamp()), 100, 18]])
    messages = send(service, count=5, priority=Priority.RETRY)
    assert len(claim(a_worker().pk, 100)) == 2
    assert kind_of_wait(Message.objects.pending().first()) == "budget"
    traffic.retry_now(messages[-1], actor="person ada")
    assert len(claim(a_worker().pk, 100)) == 1


def test_a_probe_spends_nothing_of_the_retry_budget(register: Register, send: Send) -> None:
    send(register(), priority=Priority.RETRY)
    Runtime.objects.update(state="half_open")
    assert [claimed.trigger for claimed in claim(a_worker().pk, 10)] == ["probe"]
    assert [tuple(counts) for _, *counts in Runtime.objects.get().recent] == [(1, 0)]


def test_a_bulk_replay_that_fails_stays_behind_first_attempts_and_retries(register: Register, send: Send) -> None:
    (message,) = send(register(), priority=Priority.BULK)
    settle([result_of(claim(a_worker().pk, 10), answering(500))])
    message.refresh_from_db()
    assert (message.status, message.priority) == (Status.PENDING, Priority.BULK)


def test_services_that_one_look_leaves_out_are_next(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.delivery.claim.SERVICES_AT_ONCE", 1)
    for name in ("first", "second"):
        send(register(name=name), count=2)
    worker = a_worker()
    assert {claim(worker.pk, 1)[0].target.service.name for _ in range(2)} == {"first", "second"}


def test_a_rate_gives_each_claim_a_slot_of_its_own(register: Register, send: Send) -> None:
    service = register(limits={"rate": 20, "concurrency": 50})
    send(service, count=30)
    worker = a_worker()
    claims = claim(worker.pk, 100)
    assert len(claims) == 5  # a quarter of a second ahead
    claims += claim(worker.pk, 100)  # more only as time goes on, and behind the slots given out
    gaps = [(after.send_at - before.send_at).total_seconds() for before, after in itertools.pairwise(claims)]
    interval = service.limits_policy.interval.total_seconds()
    assert gaps[:4] == pytest.approx([interval] * 4)
    assert min(gaps) > interval - 0.0001


def test_a_fast_rate_begins_when_the_claim_is_committed(register: Register, send: Send) -> None:
    send(register(limits={"rate": 100, "concurrency": 50}), count=10)
    claims = claim(a_worker().pk, 100)
    assert min(claimed.send_at - claimed.claimed_at for claimed in claims) >= timedelta(milliseconds=20)


# ---- breaker ------------------------------------------------------------------------------------------------------
def test_a_recovered_service_gets_no_more_at_once_than_its_ramp(register: Register, send: Send) -> None:
    service = register(limits={"concurrency": 50})
    Runtime.objects.update(ramp=3)
    send(service, count=10)
    worker = a_worker()
    assert len(claim(worker.pk, 100)) == 3
    assert claim(worker.pk, 100) == []  # the three in flight count
    Runtime.objects.update(ramp=4)
    assert len(claim(worker.pk, 100)) == 1


def test_a_message_held_by_an_open_breaker_keeps_its_attempts(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(retry={"initial": 60}, limits={"concurrency": 1})
    send(service, count=9)
    deliver(answering(503))
    runtime = Runtime.objects.get(pk=service.pk)
    assert (runtime.state, runtime.reason) == ("open", "5 failures in a row")
    assert Attempt.objects.count() == 5
    waiting = Message.objects.filter(attempts=0)
    assert waiting.count() == 4
    assert kind_of_wait(waiting[0]) == "breaker"
    event = Event.objects.get(type="breaker.opened")
    assert event.facts["attempts"] == [attempt.public_id for attempt in Attempt.objects.order_by("pk")]


def test_a_probe_closes_the_breaker_and_the_rest_follows(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(
        retry={"max_attempts": 5}, breaker={"open_for": 0.5, "consecutive_failures": 2}, limits={"concurrency": 4}
    )
    send(service, count=12)
    deliver(answering(500))
    assert Runtime.objects.get(pk=service.pk).state == "open"
    deliver(ok, until=lambda: Message.objects.filter(status=Status.DELIVERED).count() == 12)
    assert Runtime.objects.get(pk=service.pk).state == "closed"
    assert Attempt.objects.filter(trigger="probe").count() == 1
    types = list(Event.objects.filter(type__startswith="breaker").order_by("pk").values_list("type", flat=True))
    assert types == ["breaker.opened", "breaker.half_opened", "breaker.closed"]


def test_a_failed_probe_opens_it_again_for_longer(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(
        retry={"max_attempts": 9}, breaker={"open_for": 0.5, "open_factor": 100, "consecutive_failures": 1}
    )
    send(service)
    deliver(answering(500), until=lambda: Runtime.objects.get(pk=service.pk).reopenings == 1)
    runtime = Runtime.objects.get(pk=service.pk)
    assert runtime.state == "open"
    assert runtime.retry_at - database_now() > timedelta(seconds=40)


def test_a_half_open_breaker_lets_one_probe_out_and_a_lost_one_gives_its_place_back(
    register: Register, send: Send
) -> None:
    service = register()
    send(service, count=5)
    Runtime.objects.filter(pk=service.pk).update(state="half_open", generation=3)
    worker = a_worker()
    (probe,) = claim(worker.pk, 100)
    assert probe.trigger == "probe"
    assert claim(worker.pk, 100) == []
    assert kind_of_wait(Message.objects.pending().first()) == "breaker"
    lose(worker)
    assert housekeeping.rescue() == 1
    assert len(claim(a_worker().pk, 100)) == 1


def test_an_open_breaker_turns_half_open_with_nothing_waiting(register: Register) -> None:
    service = register()
    past = timezone.now() - timedelta(seconds=1)
    Runtime.objects.filter(pk=service.pk).update(state="open", opened_at=past, retry_at=past)
    housekeeping.sweep()
    assert Runtime.objects.get(pk=service.pk).state == "half_open"


def test_a_service_that_hangs_leaves_room_for_the_others(register: Register, send: Send) -> None:
    class Hanging(Client):
        hung, served, over = 0, 0, asyncio.Event()

        async def send(self, call: Call) -> Outcome:
            if "hanging" in call.url:
                self.hung += 1
                await self.over.wait()
            else:
                self.served += 1
            return Outcome(status_code=200)

    quick = register("quick", "http://quick.test")
    send(register("hanging", "http://hanging.test", limits={"concurrency": 1000}), count=100)

    async def pump() -> tuple[int, int]:
        client = Hanging()
        pump = Pump("tests", client=client, capacity=16)
        running = asyncio.create_task(pump.run(30))
        async with asyncio.timeout(20):
            while client.hung < 14:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(send, quick, count=20)
            while client.served < 20:
                await asyncio.sleep(0.01)
        hung = client.hung
        client.over.set()
        pump.stop()
        await running
        await pump.close()
        return hung, client.served

    assert asyncio.run(pump()) == (14, 20)  # an eighth of the pump's capacity is for others


class Answering(Client):
    """Respond to a call once ``let_go`` is set; ``calls`` are the paths that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.let_go = asyncio.Event()

    async def send(self, call: Call) -> Outcome:
        self.calls.append(call.url.removeprefix("http://"))
        if "waits" in call.url:
            await self.let_go.wait()
        return Outcome(status_code=200)


def test_what_waits_for_a_result_is_looked_for_though_calm_ones_are_written_with_it(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.workers.pump.GATHER_LONGER", 0.3)
    monkeypatch.setattr("integrations.workers.pump.POLL_EVERY", 30)
    send(register("calm", "http://calm.test"))
    send(register("keyed", "http://waits.test", ordering="key"), count=2, ordering_key="a")

    async def pump() -> list[str]:
        client = Answering()
        pump = Pump("tests", client=client)
        running = asyncio.create_task(pump.run(30, until_idle=True))
        await soon(lambda: bool(pump._results) and pump._found_nothing)  # the calm one is gathered for
        client.let_go.set()
        await running
        await pump.close()
        return client.calls

    assert len(asyncio.run(pump())) == 3


def test_what_a_result_frees_while_a_claim_looks_is_looked_for_again(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("integrations.workers.pump.POLL_EVERY", 30)
    monkeypatch.setattr("integrations.workers.pump.SWEEP_EVERY", 30)  # housekeeping makes the pump claim again, too
    send(register("keyed", "http://waits.test", ordering="key"), count=2, ordering_key="a")

    async def pump() -> list[str]:
        client = Answering()
        pump = Pump("tests", client=client)
        in_database = pump._in_database

        async def while_a_result_is_settled(step: Callable[..., Any], *given: object) -> Any:
            answer = await in_database(step, *given)
            if step is claim and not answer and not pump._housekeeping and not client.let_go.is_set():
                client.let_go.set()
                await soon(lambda: not pump.in_flight)  # its result is settled before the claim returns
            return answer

        monkeypatch.setattr(pump, "_in_database", while_a_result_is_settled)
        await pump.run(30, until_idle=True)
        await pump.close()
        return client.calls

    assert len(asyncio.run(pump())) == 2


def test_a_place_is_used_again_whichever_call_leaves_it(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was claimed before the last place was taken."""
    monkeypatch.setattr("integrations.workers.pump.POLL_EVERY", 30)
    monkeypatch.setattr("integrations.workers.pump.GATHER_LONGER", 0.01)
    service = register("narrow", "http://narrow.test", limits={"concurrency": 2})
    send(service, path="/waits")

    class Hanging(Answering):
        over = asyncio.Event()

        async def send(self, call: Call) -> Outcome:
            if call.url.endswith("hangs"):
                self.calls.append("hangs")
                await self.over.wait()
                return Outcome(status_code=200)
            return await super().send(call)

    async def pump() -> list[str]:
        client = Hanging()
        pump = Pump("tests", client=client)
        running = asyncio.create_task(pump.run(60))
        await soon(lambda: len(client.calls) == 1)
        await asyncio.to_thread(send, service, path="/hangs")
        await asyncio.to_thread(send, service, path="/last")
        await soon(lambda: len(client.calls) == 2)
        await soon(lambda: pump._found_nothing)
        client.let_go.set()
        await soon(lambda: len(client.calls) == 3)
        client.over.set()
        pump.stop()
        await running
        await pump.close()
        return client.calls

    assert asyncio.run(pump()) == ["narrow.test/waits", "hangs", "narrow.test/last"]


# ---- lost claims --------------------------------------------------------------------------------------------------
def result_of(claims: Sequence[Claim], answer: Callable[[httpx.Request], httpx.Response]) -> CallResult:
    """Make the one call of a claim."""
    (claimed,) = claims
    return asyncio.run(make_call(Client(transport=httpx.MockTransport(answer)), claimed, timezone.now()))


def lose(worker: Worker) -> None:
    Worker.objects.filter(pk=worker.pk).update(lease_until=database_now() - timedelta(seconds=1))


def test_a_lost_claim_is_recorded_and_claimed_again(register: Register, send: Send, deliver: Deliver) -> None:
    (message,) = send(register())
    worker = a_worker()
    claim(worker.pk, 10)
    lose(worker)

    deliver(ok)  # rescues, and leaves suspects alone
    message.refresh_from_db()
    assert (message.status, message.attempts, message.calls, message.losses) == (Status.PENDING, 0, 1, 1)
    deliver(ok, alone=True)

    message.refresh_from_db()
    assert (message.status, message.attempts, message.calls, message.losses) == (Status.DELIVERED, 1, 2, 0)
    assert [attempt.outcome for attempt in message.attempt_rows.oldest_first()] == ["lost", "succeeded"]
    assert Event.objects.filter(type="worker.lost").count() == 1


def test_a_late_result_becomes_history_and_changes_nothing(register: Register, send: Send) -> None:
    (message,) = send(register())
    worker = a_worker()
    claims = claim(worker.pk, 10)
    lose(worker)
    housekeeping.rescue()

    settle([result_of(claims, ok)])

    message.refresh_from_db()
    assert (message.status, message.attempts) == (Status.PENDING, 0)
    attempt = message.attempt_rows.get()
    assert (attempt.outcome, attempt.status_code) == ("lost", 200)


def test_a_message_that_loses_its_worker_again_and_again_is_dead(register: Register, send: Send) -> None:
    (message,) = send(register())
    for _ in range(4):  # once among others, three times alone
        worker = a_worker()
        claims = claim(worker.pk, 10) or claim_suspect(worker.pk)
        assert len(claims) == 1
        lose(worker)
        housekeeping.rescue()
    message.refresh_from_db()
    assert (message.status, message.dead_reason, message.attempts) == (Status.DEAD, "worker_lost", 0)
    assert Tally.objects.get().dead == 1
    assert message.attempt_rows.filter(outcome="lost").count() == 4


def test_a_message_that_dies_with_its_workers_lets_the_next_of_its_key_go(register: Register, send: Send) -> None:
    head, behind = send(register(ordering="key"), count=2, ordering_key="a")
    worker = a_worker()
    assert [claimed.message.pk for claimed in claim(worker.pk, 10)] == [head.pk]
    Message.objects.filter(pk=head.pk).update(losses=housekeeping.MAX_LOSSES_ALONE)
    lose(worker)
    housekeeping.rescue()
    assert Message.objects.get(pk=head.pk).status == Status.DEAD
    assert [claimed.message.pk for claimed in claim(a_worker().pk, 10)] == [behind.pk]


def test_a_suspect_waits_for_a_place_like_any_other_message(register: Register, send: Send) -> None:
    service = register(limits={"concurrency": 1})
    (suspect,) = send(service)
    Message.objects.update(losses=1)
    send(service)
    in_flight = claim(a_worker().pk, 10)
    alone = a_worker()
    assert claim_suspect(alone.pk) == []
    give_back(in_flight)
    assert [claimed.message.pk for claimed in claim_suspect(alone.pk)] == [suspect.pk]


def test_a_stopped_worker_gives_its_claims_back(register: Register, send: Send) -> None:
    (message,) = send(register())
    worker = a_worker()
    claim(worker.pk, 10)
    housekeeping.stop_worker(worker.pk)
    message.refresh_from_db()
    assert (message.status, message.losses, message.calls) == (Status.PENDING, 0, 1)
    assert not Worker.objects.alive(database_now()).exists()


def test_a_message_is_claimed_by_the_first_of_two_that_chose_it(register: Register, send: Send) -> None:
    (message,) = send(register())
    now = timezone.now()
    assert set(Message.objects.claim([message.pk], worker_id=a_worker().pk, now=now)) == {message.pk}
    assert not Message.objects.claim([message.pk], worker_id=a_worker().pk, now=now)


def test_a_claim_given_back_before_its_call_leaves_no_trace(register: Register, send: Send) -> None:
    (message,) = send(register())
    worker = a_worker()
    give_back(claim(worker.pk, 10))
    message.refresh_from_db()
    assert (message.status, message.calls, message.attempt_rows.count()) == (Status.PENDING, 0, 0)


def test_a_pump_that_forgets_a_claim_keeps_a_later_one_of_the_same_message(register: Register, send: Send) -> None:
    send(register())
    worker = a_worker()
    (first,) = claim(worker.pk, 10)
    give_back([first])
    (second,) = claim(worker.pk, 10)

    async def forget() -> None:
        pump = Pump("tests")
        task = asyncio.create_task(asyncio.sleep(0))
        pump.in_flight[second.message.pk] = (second, task)
        pump._forget(first)
        assert pump.in_flight == {second.message.pk: (second, task)}
        pump._forget(second)
        assert not pump.in_flight
        await task
        await pump.close()

    asyncio.run(forget())


def test_a_claim_given_back_once_more_leaves_a_later_one_alone(register: Register, send: Send) -> None:
    """As when the answer to the first commit was lost."""
    (message,) = send(register())
    worker = a_worker()
    first = claim(worker.pk, 10)
    give_back(first)
    (second,) = claim(worker.pk, 10)
    give_back(first)
    message.refresh_from_db()
    assert (message.status, message.claimed_at) == (Status.DELIVERING, second.claimed_at)


def test_an_answer_that_cannot_be_written_harms_no_other(register: Register, send: Send) -> None:
    class Poisonous(Client):
        async def send(self, call: Call) -> Outcome:
            # PostgreSQL takes no NUL in a text; the real client lets none through.
            return Outcome(status_code=200, detail="\0" if call.body == b"bad" else "fine")

    service = register()
    (bad,) = send(service, body=b"bad")
    good = send(service, count=5)

    async def pump() -> None:
        pump = Pump("tests", client=Poisonous())
        await pump.run(10, until_idle=True)
        await pump.close()

    asyncio.run(pump())

    assert {Message.objects.get(pk=message.pk).status for message in [bad, *good]} == {Status.DELIVERED}
    assert Attempt.objects.count() == 6


def test_a_pump_that_stops_beside_a_database_that_is_busy_writes_its_results(
    register: Register, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter(range(2))

    def busy(results: Sequence[CallResult]) -> None:
        if next(refusals, None) is not None:
            raise OperationalError("the database is locked")
        settle(results)

    monkeypatch.setattr("integrations.workers.pump.settle", busy)
    (message,) = send(register())

    async def pump() -> None:
        client = Client(transport=httpx.MockTransport(ok))
        pump = Pump("tests", client=client)
        async with asyncio.timeout(20):
            while not pump.in_flight:
                await pump._turn()
            await pump.close()

    asyncio.run(pump())

    message.refresh_from_db()
    assert (message.status, message.calls, next(refusals, None)) == (Status.DELIVERED, 1, None)


def test_a_result_counts_where_its_own_claim_stands(register: Register, send: Send) -> None:
    (message,) = send(register())
    claims = claim(a_worker().pk, 10)
    result = result_of(claims, ok)
    settle([result])
    written = Attempt.objects.values().get()
    settle([result])  # once more changes nothing
    message.refresh_from_db()
    assert (message.status, message.attempts) == (Status.DELIVERED, 1)
    assert Attempt.objects.values().get() == written


def test_a_result_written_once_more_does_not_end_the_next_claim_of_its_worker(register: Register, send: Send) -> None:
    (message,) = send(register())
    worker = a_worker()
    result = result_of(claim(worker.pk, 10), answering(500))
    settle([result])
    Message.objects.update(due_at=database_now())
    assert len(claim(worker.pk, 10)) == 1
    settle([result])
    message.refresh_from_db()
    assert (message.status, message.attempts, message.attempt_rows.count()) == (Status.DELIVERING, 1, 1)


# ---- order --------------------------------------------------------------------------------------------------------
def test_messages_of_one_key_keep_their_order_over_failures(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    service = register(
        base_url=sink.url,
        ordering="key",
        limits={"concurrency": 20},
        retry={"max_attempts": 20, "budget": 1},
        breaker={"enabled": False},
    )
    keys = [f"k{number}" for number in range(8)]
    accepted = {key: [] for key in keys}
    for _ in range(6):
        for key in keys:
            accepted[key] += [message.public_id for message in send(service, ordering_key=key)]
    seen: set[str] = set()

    def sometimes_failing(call: Any) -> int:
        identifier = call.header("webhook-id")
        fails = identifier not in seen and hash(identifier) % 4 == 0
        seen.add(identifier)
        return 500 if fails else 200

    sink.decide(sometimes_failing)
    deliver(until=lambda: not Message.objects.unfinished().exists(), within=30)

    delivered = [call.header("webhook-id") for call in sink.calls]
    for key in keys:
        firsts = sorted(accepted[key], key=delivered.index)
        assert firsts == accepted[key]
    for key, ids in accepted.items():
        last_call = {identifier: max(i for i, d in enumerate(delivered) if d == identifier) for identifier in ids}
        first_call = {identifier: delivered.index(identifier) for identifier in ids}
        for ahead, behind in itertools.pairwise(ids):
            assert last_call[ahead] < first_call[behind], key


def test_a_message_behind_another_of_its_key_waits_for_it(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(ordering="key")
    (head,) = send(service, ordering_key="a", deliver_at=timezone.now() + timedelta(hours=1))
    (behind,) = send(service, ordering_key="a")
    (free,) = send(service)
    deliver(ok)
    assert kind_of_wait(behind) == "ordering"
    assert Message.objects.get(pk=free.pk).status == Status.DELIVERED
    traffic.cancel(head, actor="person ada")
    deliver(ok)
    assert Message.objects.get(pk=behind.pk).status == Status.DELIVERED


def test_a_parked_message_stays_parked_when_it_is_retried_now_and_is_due_since_its_acceptance_afterwards(
    register: Register, send: Send
) -> None:
    service = register(ordering="key")
    head, behind = send(service, count=2, ordering_key="a")
    assert len(claim(a_worker().pk, 10)) == 1  # the head; it parks the other one
    Message.objects.filter(pk=head.pk).update(status=Status.PENDING, worker_id=None, claimed_at=None)
    traffic.retry_now(behind, actor="person ada")
    behind.refresh_from_db()
    assert (behind.parked, behind.due_at) == (True, None)
    traffic.cancel(head, actor="person ada")
    behind.refresh_from_db()
    assert (behind.parked, behind.due_at) == (False, behind.created_at)


# ---- replay -------------------------------------------------------------------------------------------------------
def test_a_replay_is_a_new_message_with_the_first_ones_id(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    sink.script(400)
    (message,) = send(register(base_url=sink.url))
    deliver()
    replay, is_new = traffic.replay(message, ReplayIn(), actor="person ada")
    again, is_new_again = traffic.replay(message, ReplayIn(), actor="person ada")
    assert (again.pk, is_new, is_new_again) == (replay.pk, True, False)
    deliver()
    assert Message.objects.get(pk=replay.pk).status == Status.DELIVERED
    assert Message.objects.get(pk=message.pk).status == Status.DEAD
    assert sink.last.header("webhook-id") == message.public_id
    assert not Message.objects.dead().unreplayed().exists()


def test_an_edited_replay_has_an_id_of_its_own(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    (message,) = send(register(base_url=sink.url))
    deliver()
    replay, _ = traffic.replay(message, ReplayIn(body={"fixed": True}), actor="person ada")
    deliver()
    assert sink.last.header("webhook-id") == replay.public_id
    assert sink.last.json() == {"fixed": True}


def test_an_unfinished_message_cannot_be_replayed_and_a_finished_one_not_cancelled(
    register: Register, send: Send, deliver: Deliver
) -> None:
    (message,) = send(register())
    with pytest.raises(Conflict, match="it is pending"):
        traffic.replay(message, ReplayIn(), actor="person ada")
    deliver(ok)
    with pytest.raises(Conflict, match="it is delivered"):
        traffic.cancel(message, actor="person ada")
    with pytest.raises(Conflict, match="it is delivered"):
        traffic.retry_now(message, actor="person ada")


# ---- OAuth 2 ------------------------------------------------------------------------------------------------------
def test_a_token_is_fetched_once_and_again_after_a_401(
    register: Register, send: Send, deliver: Deliver, sink: Receiver
) -> None:
    tokens = iter(["first", "second"])

    def answer(call: Any) -> Answer:
        if call.path == "/token":
            return Answer(200, body={"access_token": next(tokens), "expires_in": 3600})
        is_stale = call.header("Authorization") == "Bearer first" and call.path == "/stale"
        return Answer(401 if is_stale else 200)

    sink.decide(answer)
    auth = {"type": "oauth2", "token_url": f"{sink.url}/token", "client_id": "us", "scope": "orders"}
    service = register(base_url=sink.url, auth=auth, limits={"concurrency": 1})
    service.keep_secret("auth.client_secret", "hush")
    service.save()
    send(service, count=3)
    send(service, path="/stale")

    deliver(until=lambda: not Message.objects.unfinished().exists())

    asked = [call for call in sink.calls if call.path == "/token"]
    assert len(asked) == 2
    assert asked[0].header("Authorization") == "Basic dXM6aHVzaA=="
    assert b"scope=orders" in asked[0].body
    assert Message.objects.filter(status=Status.DELIVERED).count() == 4
    assert "Bearer first" not in json.dumps(list(Attempt.objects.values_list("request_headers", flat=True)))


def test_no_token_means_no_call(register: Register, send: Send, deliver: Deliver, sink: Receiver) -> None:
    sink.answer(500)
    auth = {"type": "oauth2", "token_url": f"{sink.url}/token", "client_id": "us"}
    (message,) = send(register(base_url=f"{sink.url}", auth=auth, retry={"initial": 60}))
    deliver()
    assert [call.path for call in sink.calls] == ["/token"]
    message.refresh_from_db()
    assert message.last_detail.startswith("no token from the token URL")


# ---- what a review found ------------------------------------------------------------------------------------------
def test_a_worker_that_was_rescued_claims_nothing_more(register: Register, send: Send) -> None:
    send(register(), count=3)
    worker = a_worker()
    lose(worker)
    housekeeping.rescue()
    assert claim(worker.pk, 10) == []
    assert not Message.objects.delivering().exists()


def test_a_claim_whose_commit_was_not_heard_of_is_given_back(register: Register, send: Send) -> None:
    known, unknown = send(register(), count=2)
    worker = a_worker()
    claim(worker.pk, 10)
    pump = Pump("tests")
    pump.worker_id = worker.pk
    assert pump._renew({"delivered": 0, "failed": 0}, [known.pk])
    assert [message.pk for message in Message.objects.delivering()] == [known.pk]
    assert Message.objects.get(pk=unknown.pk).status == Status.PENDING


def test_a_service_that_cannot_be_read_holds_back_nobody_else(register: Register, send: Send, deliver: Deliver) -> None:
    broken = register("broken")
    Service.objects.filter(pk=broken.pk).update(retry={"max_attempts": "many"}, updated_at=timezone.now())
    (stuck,) = send(broken)
    (fine,) = send(register("fine"))
    deliver(ok)
    assert Message.objects.get(pk=fine.pk).status == Status.DELIVERED
    assert Message.objects.get(pk=stuck.pk).status == Status.PENDING


def test_a_held_message_stays_held_when_the_one_ahead_of_it_ends(
    register: Register, send: Send, deliver: Deliver
) -> None:
    service = register(ordering="key")
    head, behind = send(service, count=2, ordering_key="a")
    Message.objects.park([behind.pk])
    traffic.pause(service, PauseIn(reason="x"), actor="person ada")
    traffic.resume(service, ResumeIn(release="none"), actor="person ada")
    traffic.retry_now(head, actor="person ada")
    deliver(ok)
    assert Message.objects.get(pk=head.pk).status == Status.DELIVERED
    assert kind_of_wait(behind) == "held"


def test_a_key_that_was_left_parked_is_found_again(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(ordering="key")
    (message,) = send(service, ordering_key="a")
    Message.objects.park([message.pk])
    assert housekeeping.unpark_stuck() == 1
    deliver(ok)
    assert Message.objects.get(pk=message.pk).status == Status.DELIVERED


def test_retry_now_does_not_move_a_deadline_into_the_past(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(retry={"deadline": 600})
    (message,) = send(service, deliver_at=timezone.now() + timedelta(hours=1))
    Message.objects.update(created_at=timezone.now() - timedelta(hours=2))
    traffic.retry_now(message, actor="person ada")
    deliver(ok)
    assert Message.objects.get(pk=message.pk).status == Status.DELIVERED


def test_messages_past_their_deadline_do_not_hold_up_the_others(
    register: Register, send: Send, deliver: Deliver
) -> None:
    service = register(retry={"deadline": 60}, limits={"concurrency": 1})
    send(service, count=30)
    Message.objects.update(created_at=timezone.now() - timedelta(minutes=5))
    (fresh,) = send(service)
    (claimed,) = claim(a_worker().pk, 10)
    assert claimed.message.pk == fresh.pk
    assert Message.objects.filter(dead_reason="deadline").count() == 30


def test_gone_leaves_an_operators_pause_alone(register: Register, send: Send) -> None:
    service = register(retry={"on_gone": "pause"})
    send(service)
    claims = claim(a_worker().pk, 10)
    traffic.pause(service, PauseIn(reason="maintenance"), actor="person ada")
    settle([result_of(claims, answering(410))])
    service.refresh_from_db()
    assert service.paused_reason == "maintenance"


def test_gone_ends_a_message_whose_attempts_are_spent(register: Register, send: Send) -> None:
    (message,) = send(register(retry={"on_gone": "pause", "max_attempts": 1}))
    settle([result_of(claim(a_worker().pk, 10), answering(410))])
    message.refresh_from_db()
    assert (message.status, message.dead_reason) == (Status.DEAD, "gone")
