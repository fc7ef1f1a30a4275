"""`POST /process`: a call now, by the same rules as delivery, against a real receiver."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.core.cache import cache
from django.utils import timezone
from standardwebhooks.webhooks import Webhook

from integrations.delivery import direct_call
from integrations.delivery.waiting import waiting_for
from integrations.models import Attempt, Endpoint, Event, Message, Runtime, Service, Source, Tally
from integrations.operators import traffic
from integrations.registration.registry import register
from integrations.schemas.service import ServiceIn
from integrations.workers.pump import Pump
from tests.support.calling import Api, is_problem
from tests.support.installation import Installation
from tests.support.receiver import Answer, Receiver

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch, reachable_loopback: None) -> Iterator[None]:
    monkeypatch.setattr(direct_call, "WAIT", lambda state: 0.01)
    yield
    cache.clear()


@pytest.fixture
def service(db: None, sink: Receiver) -> Callable[..., Service]:
    def make(**fields: Any) -> Service:
        data = ServiceIn.model_validate({"name": "pay", "base_url": sink.url, **fields})
        return register(data, actor="person test", source=Source.FORM)

    return make


def ask(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post("/process", {"service": "pay", "path": "/in", **fields})
    assert answer.status_code == 200, answer.content
    document: dict[str, Any] = json.loads(answer.content)
    return document


# ---- responses ----------------------------------------------------------------------------------------------------
def test_the_answer_of_the_service_comes_back(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    Endpoint.objects.create(service=service(), name="order", method="PUT", path="/orders", query={"v": "1"})
    sink.answer(201, body={"id": 42})
    answer = json.loads(operator.post("/process", {"service": "pay", "endpoint": "order", "body": {"n": 1}}).content)
    duration = answer.pop("duration")
    assert answer == {"success": True, "result": {"id": 42}, "status_code": 201, "attempts": 1, "cached": False}
    assert 0 < duration < 5
    assert (sink.last.method, sink.last.target, sink.last.json()) == ("PUT", "/orders?v=1", {"n": 1})


def test_a_query_that_no_url_can_hold_is_refused_before_the_call(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    endpoint = Endpoint.objects.create(service=service(), name="order", query={"own": "a" * 5000})
    for parts in ({"path": "/in", "query": {"q": "a" * 8192}}, {"endpoint": endpoint.name, "query": {"q": "a" * 4000}}):
        refused = operator.post("/process", {"service": "pay", **parts})
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error["loc"] == ["body", "query"]
        assert "the limit is 8,192: send long values in the body" in error["msg"]
    assert (sink.calls, Attempt.objects.count()) == ([], 0)


def test_the_call_is_an_attempt_like_any_other(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service(response_cap=5)
    sink.answer(body={"id": 42})
    ask(operator, body={"n": 1})
    attempt = Attempt.objects.get()
    assert sink.last.header("webhook-id") == attempt.public_id
    assert (attempt.trigger, attempt.actor, attempt.outcome) == ("process", "token a-operator", "succeeded")
    assert (bytes(attempt.request_body or b""), attempt.message, attempt.number) == (b'{"n":1}', None, 1)
    assert (attempt.status_code, attempt.fault, bytes(attempt.response_body)) == (200, "", b'{"id"')
    assert attempt.truncated  # the row keeps what the service's cap lets it; the caller had all of it
    assert Runtime.objects.get().leases == []
    assert Tally.objects.get().calls == 1


def test_calls_are_signed(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    secret = service(signing={"enabled": True}).secret("signing.0")
    ask(operator, body={"n": 1})
    Webhook(secret or "").verify(sink.last.body, {name.lower(): value for name, value in sink.last.headers})


@pytest.mark.parametrize(
    ("kind", "body", "result"),
    [
        ("application/json", b'"text"', "text"),
        ("application/vnd.pay+json; charset=utf-8", b"[1]", [1]),
        ("text/plain", b"[1]", "[1]"),
        ("", "grüß".encode(), "grüß"),
        ("application/json", b"", None),
        ("application/json", b"<html>", "<html>"),
        ("application/json", b"NaN", "NaN"),
        ("application/json", b"1e999", "1e999"),
        ("application/json", b'{"a":1,"a":2}', '{"a":1,"a":2}'),
        ("application/json", b'"\\ud800"', '"\\ud800"'),
        ("application/json", b"[" * 5000, "[" * 5000),
        ("application/json", b"9" * 5000, "9" * 5000),
        ("application/json; charset=\xff", b"{}", {}),
    ],
)
def test_an_answer_is_parsed_or_text(
    operator: Api, service: Callable[..., Service], sink: Receiver, kind: str, body: bytes, result: Any
) -> None:
    service()
    sink.answer(body=body, headers={"Content-Type": kind} if kind else {})
    assert ask(operator)["result"] == result


def test_an_answer_that_is_no_text_comes_as_its_bytes(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service()
    sink.answer(body=b"\xff\x00", headers={"Content-Type": "application/json"})
    answer = ask(operator)
    assert answer["result"] is None
    assert base64.b64decode(answer["result_base64"]) == b"\xff\x00"


def test_an_answer_never_shows_the_services_secret(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service(auth={"type": "bearer", "token": "hunter2-hunter2"})
    sink.decide(lambda call: Answer(body={"you sent": call.header("Authorization")}))
    assert ask(operator)["result"] == {"you sent": "Bearer ••••"}
    assert sink.last.header("Authorization") == "Bearer hunter2-hunter2"


def test_an_answer_has_a_mebibyte_at_most(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service()
    sink.answer(body=b"x" * MIB)
    assert len(ask(operator)["result"]) == MIB
    sink.answer(body=b"x" * (MIB + 1))
    answer = ask(operator)
    assert (answer["success"], answer["error"]["kind"], answer["retry"]) == (False, "too_large", False)
    assert answer["status_code"] == 200
    assert Attempt.objects.latest("pk").fault == "too_large"
    assert Runtime.objects.get().consecutive == 0  # neutral for the breaker


# ---- failures and retries -------------------------------------------------------------------------------------------
def test_a_refusal_of_the_service_is_told_and_not_repeated(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service()
    sink.answer(404, body="no such thing")
    answer = ask(operator)
    assert answer.pop("duration") > 0
    assert answer == {
        "success": False,
        "error": {"kind": "status", "detail": "answered 404 Not Found"},
        "retry": False,
        "status_code": 404,
        "attempts": 1,
    }


def test_trouble_is_tried_again_under_the_same_webhook_id(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service()
    sink.script(503, Answer(reset=True), 200)
    assert (answer := ask(operator))["success"], answer
    assert answer["attempts"] == 3
    first, second, third = Attempt.objects.order_by("pk")
    assert [row.number for row in (first, second, third)] == [1, 2, 3]
    assert set(sink.ids()) == {first.public_id}
    assert Tally.objects.get().retries == 2


def test_the_service_decides_how_often_and_for_what(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service(retry={"max_attempts": 2, "retry_on": [502]})
    sink.answer(502)
    answer = ask(operator)
    assert (answer["attempts"], answer["retry"], answer["error"]["kind"]) == (2, True, "status")
    sink.answer(503)
    assert ask(operator)["attempts"] == 1


def test_a_long_retry_after_is_not_waited_for(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service()
    sink.answer(429, headers={"Retry-After": "120"})
    answer = ask(operator, timeout=3)
    assert (answer["attempts"], answer["status_code"], answer["retry"]) == (1, 429, True)
    assert answer["duration"] < 2
    again = ask(operator)  # the whole service waits, as it does for messages
    assert (again["error"]["kind"], again["attempts"], again["retry"]) == ("rate", 0, True)
    assert "asked us to wait" in again["error"]["detail"]


def test_nobody_there_is_a_fault_word(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service()
    sink.stop()
    answer = ask(operator)
    assert (answer["error"]["kind"], answer["attempts"], answer["retry"]) == ("connect", 3, True)
    assert "status_code" not in answer


def test_the_callers_patience_bounds_everything_and_is_not_the_services_fault(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    pay = service(timeout={"total": 60}, retry={"max_attempts": 1})
    sink.answer(hang=True)
    assert ask(operator, timeout=0.8)["error"]["kind"] == "timeout"
    assert Attempt.objects.get().duration <= 0.8 + 5, "it had the service's time"
    assert Runtime.objects.get().consecutive == 0
    pay.timeout["total"] = 0.8
    pay.save()
    assert ask(operator, timeout=30)["error"]["kind"] == "timeout"
    assert Runtime.objects.get().consecutive == 1


def test_a_request_that_cannot_be_built_says_so(operator: Api, service: Callable[..., Service]) -> None:
    service()
    Service.objects.update(base_url="", updated_at=timezone.now())
    answer = ask(operator)
    assert (answer["error"]["kind"], answer["attempts"], answer["retry"]) == ("config", 1, False)
    assert Attempt.objects.get().url == "/in"


def test_an_address_that_is_not_allowed_is_not_called(
    operator: Api, service: Callable[..., Service], sink: Receiver, settings: Any
) -> None:
    service()
    settings.ALLOW_PRIVATE = ""
    assert ask(operator)["error"]["kind"] == "blocked"
    assert not sink.calls


# ---- breaker, pause, rate, concurrency ------------------------------------------------------------------------------
def test_it_feeds_and_obeys_the_breaker(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service(breaker={"consecutive_failures": 2}, retry={"max_attempts": 1})
    sink.answer(500)
    assert [ask(operator)["attempts"] for _ in range(2)] == [1, 1]
    opened = Event.objects.get(type="breaker.opened")
    assert opened.facts["attempts"] == [row.public_id for row in Attempt.objects.order_by("pk")]
    refused = ask(operator)
    assert (refused["error"]["kind"], refused["retry"], refused["attempts"]) == ("breaker_open", True, 0)
    assert (len(sink.calls), Attempt.objects.count()) == (2, 2)

    # Its time has come: the next call is the probe, and its success closes the breaker.
    Runtime.objects.update(retry_at=timezone.now() - timedelta(seconds=1))
    sink.answer(200)
    assert ask(operator)["success"]
    assert Runtime.objects.get().state == "closed"


def test_a_probe_under_way_leaves_no_place_for_another(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service(limits={"concurrency": 10})
    runtime = Runtime.objects.get()
    runtime.state, runtime.generation = "half_open", 4
    runtime.lease(1, 4, timezone.now(), 30)
    runtime.save()
    assert ask(operator)["error"]["kind"] == "breaker_open"
    runtime.leases = [[1, 3, time.time() + 30]]  # of an earlier opening
    runtime.save()
    assert ask(operator)["success"]


def test_a_trip_by_its_own_retries_answers_with_what_happened(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service(breaker={"consecutive_failures": 2})
    sink.answer(500)
    answer = ask(operator)
    assert (answer["error"]["kind"], answer["attempts"], answer["retry"]) == ("status", 2, True)


def test_a_pause_is_obeyed(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service().pause("their maintenance")
    answer = ask(operator)
    assert (answer["error"]["kind"], answer["retry"]) == ("paused", True)
    assert "their maintenance" in answer["error"]["detail"]
    assert not sink.calls


def test_gone_pauses_where_the_service_says_so(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service(retry={"on_gone": "pause"})
    sink.answer(410)
    assert ask(operator)["error"]["kind"] == "status"
    assert ask(operator)["error"]["kind"] == "paused"


def test_the_rate_is_obeyed(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service(limits={"rate": 1, "per": 60})
    assert ask(operator)["success"]
    answer = ask(operator)
    assert (answer["error"]["kind"], answer["attempts"], answer["retry"]) == ("rate", 0, True)
    assert len(sink.calls) == 1


def test_the_places_are_shared_and_one_that_a_crash_left_comes_back(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service(limits={"concurrency": 1})
    runtime = Runtime.objects.get()
    runtime.lease(1, None, timezone.now(), 30)
    runtime.save()
    answer = ask(operator)
    assert (answer["error"]["kind"], answer["attempts"]) == ("rate", 0)
    assert "1 calls in flight" in answer["error"]["detail"]
    runtime.leases = [[1, None, time.time() - 0.001]]  # its call must have ended by now
    runtime.save()
    assert ask(operator)["success"]
    assert Runtime.objects.get().leases == []


@pytest.mark.django_db(transaction=True)
def test_messages_wait_for_a_place_that_a_process_call_has(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service(limits={"concurrency": 1})
    runtime = Runtime.objects.get()
    runtime.lease(1, None, timezone.now(), 30)
    runtime.save()
    queued = operator.post("/messages", {"service": "pay", "path": "/in"})
    work_until_idle()
    assert not sink.calls
    message = Message.objects.by_public_id(json.loads(queued.content)["id"])
    waiting = message and waiting_for(message, timezone.now())
    assert waiting
    assert waiting.kind == "concurrency"
    Runtime.objects.update(leases=[])
    work_until_idle()
    assert len(sink.calls) == 1


def work_until_idle() -> None:
    async def work() -> None:
        pump = Pump("tests")
        await pump.run(10, until_idle=True)
        await pump.close()

    asyncio.run(work())


def test_a_call_whose_process_dies_stays_as_lost(
    operator: Api, service: Callable[..., Service], sink: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dies(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Dies

    service()
    monkeypatch.setattr("integrations.outbound.client.Client.send", dies)
    with pytest.raises(Dies):
        ask(operator, timeout=20)
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.fault) == ("lost", "worker_lost")
    ((leased, probes_for, until),) = Runtime.objects.get().leases
    assert (leased, probes_for) == (attempt.pk, None)
    assert 20 < until - time.time() < 20 + direct_call.LEASE_MARGIN  # and by then its place is free again


def test_retries_stay_within_the_budget(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service(retry={"budget": 0})
    runtime = Runtime.objects.get()
    runtime.recent = [[int(time.time()) // 5 * 5, 10, 10]]
    runtime.save()
    sink.answer(503)
    assert ask(operator)["attempts"] == 1


def test_a_steered_breaker_holds_calls_too(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    from integrations.schemas.actions import BreakerIn

    traffic.override_breaker(service(), BreakerIn(action="open", reason="we move"), actor="person test")
    assert ask(operator)["error"]["kind"] == "breaker_open"
    assert not sink.calls


# ---- answers that are given again -----------------------------------------------------------------------------------
def test_a_get_may_be_answered_from_before(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    kept = service(cache={"ttl": 60})
    sink.decide(lambda call: Answer(body={"n": call.number}))
    get = {"method": "GET", "query": {"a": "1"}}
    assert ask(operator, **get)["cached"] is False
    again = ask(operator, **get)
    assert (again["cached"], again["result"], again["attempts"], again["status_code"]) == (True, {"n": 1}, 0, 200)
    assert ask(operator, **{**get, "query": {"a": "2"}})["result"] == {"n": 2}
    assert ask(operator, **get, headers={"Accept-Language": "de"})["result"] == {"n": 3}
    assert ask(operator, **get, headers={"Cache-Control": "no-cache"})["cached"] is False
    assert [ask(operator)["cached"] for _ in range(2)] == [False, False]  # POST
    kept.headers = {"X-Team": "pay"}
    kept.save()
    assert ask(operator, **get)["cached"] is False
    assert Attempt.objects.count() == len(sink.calls)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [("Cache-Control", "public"), ("Cache-Control", "NO-STORE")]),
        (200, [("Cache-Control", "private")]),
        (200, [("Cache-Control", "max-age=0")]),
        (200, [("Cache-Control", 'max-age="3600", max-age=0')]),
        (200, [("Cache-Control", "max-age=-5")]),
        (200, [("Cache-Control", "s-maxage=0, max-age=100")]),
        (200, [("Cache-Control", "max-age=60"), ("Age", "60")]),
        (200, [("Expires", "0")]),
        (200, [("Expires", "Thu, 01 Jan 1970 00:00:00 GMT")]),
        (200, [("Vary", "Accept, *")]),
        (200, [("Set-Cookie", "session=1")]),
        (206, []),
        (404, []),
    ],
)
def test_what_may_not_be_kept_is_asked_for_anew(
    operator: Api, service: Callable[..., Service], sink: Receiver, status: int, headers: list[tuple[str, str]]
) -> None:
    service(cache={"ttl": 60})
    sink.answer(status, body={"n": 1}, headers=headers)
    for _ in range(2):
        assert ask(operator, method="GET").get("cached", False) is False
    assert len(sink.calls) == 2


def test_nothing_is_kept_unless_the_service_says_so(
    operator: Api, service: Callable[..., Service], sink: Receiver
) -> None:
    service()
    sink.answer(body={"n": 1}, headers={"Cache-Control": "max-age=3600"})
    assert [ask(operator, method="GET")["cached"] for _ in range(2)] == [False, False]


# ---- refusals -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"service": "nobody"}, "service"),
        ({"path": None, "endpoint": "nothing"}, "endpoint"),
        ({"path": None}, None),
        ({"path": "/in", "endpoint": "order"}, None),
        ({"timeout": 301}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"method": "CONNECT"}, "method"),
        ({"headers": {"Host": "elsewhere"}}, "headers"),
        ({"body": 1, "body_base64": "AA=="}, None),
        ({"deliver_at": "2030-01-01T00:00:00Z"}, "deliver_at"),
    ],
)
def test_bad_input_is_refused(
    operator: Api, service: Callable[..., Service], sink: Receiver, fields: dict[str, Any], where: str | None
) -> None:
    service()
    asked = {name: value for name, value in {"service": "pay", "path": "/in", **fields}.items() if value is not None}
    problem = is_problem(operator.post("/process", asked), 422)
    assert where is None or where in problem["errors"][0]["loc"]
    assert not sink.calls


def test_a_body_too_large_is_refused(operator: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service()
    is_problem(operator.post("/process", {"service": "pay", "path": "/in", "body": "x" * MIB}), 413)
    is_problem(operator.post("/process", b" " * (2 * MIB + 1)), 413)
    assert not sink.calls


def test_a_viewer_cannot_call(viewer: Api, service: Callable[..., Service], sink: Receiver) -> None:
    service()
    is_problem(viewer.post("/process", {"service": "pay", "path": "/in"}), 403)
    assert not sink.calls


def test_the_description_shows_it_with_examples() -> None:
    from integrations.api import api

    described = api.get_openapi_schema()
    assert described["paths"]["/api/v1/process"]["post"]["operationId"] == "process_now"
    for name in ("ProcessIn", "ProcessedOut", "UnprocessedOut"):
        assert described["components"]["schemas"][name]["examples"]


# ---- the route of the web server ------------------------------------------------------------------------------------
def test_slow_calls_hold_up_nobody(start_installation: Callable[..., Installation], sink: Receiver) -> None:
    """60 calls wait for a slow service: the web server still answers, and no call exceeds the concurrency."""
    slow = 60
    house = start_installation("--no-workers")
    with house.api() as api:
        for name, places in (("slow", slow), ("narrow", 3)):
            limits = {"concurrency": places}
            made = api.post("services", json={"name": name, "base_url": sink.url, "limits": limits})
            assert made.status_code == 201, made.text
        headers = dict(api.headers)

    async def story() -> None:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=house.url, headers=headers, timeout=60, limits=limits) as web:

            async def ask(service: str) -> dict[str, Any]:
                answer = await web.post("/api/v1/process", json={"service": service, "path": "/", "timeout": 60})
                assert answer.status_code == 200, answer.text
                document: dict[str, Any] = answer.json()
                return document

            may_answer = threading.Event()
            sink.answer(body={"ok": True}, until=may_answer)
            calls = [asyncio.create_task(ask("slow")) for _ in range(slow)]
            await asyncio.to_thread(sink.wait_until, lambda: sink.in_flight == slow, 50)
            for path in ("/healthz", "/api/v1/services", "/login/"):
                assert (await web.get(path)).status_code == 200
            assert sink.in_flight == slow, "all of them were waiting"
            may_answer.set()
            assert all(answer["success"] for answer in await asyncio.gather(*calls))

            sink.clear()
            sink.answer(body={"ok": True}, delay=0.3)
            answers = await asyncio.gather(*(ask("narrow") for _ in range(8)))
            assert 1 <= sink.max_in_flight <= 3
            kinds = {answer["error"]["kind"] for answer in answers if not answer["success"]}
            assert kinds <= {"rate"}
            assert sum(answer["success"] for answer in answers) == len(sink.calls) >= 3

            refused = await web.post("/api/v1/process", json={"service": "nobody", "path": "/"})
            assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
            refused = await web.post("/api/v1/process", content=b" " * (2 * MIB + 1))
            assert refused.status_code == 413

    asyncio.run(story())
