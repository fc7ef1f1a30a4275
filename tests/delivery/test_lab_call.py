"""The lab's calls: the same request as delivery makes, kept as an attempt of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Timer
from time import monotonic

import pytest
from django.db import connection

from integrations.delivery import lab_call, unqueued_call
from integrations.models import Attempt, Message, Runtime, Service
from tests.support.receiver import Answer, Call, Receiver

Register = Callable[..., Service]


@pytest.fixture
def service(register: Register, sink: Receiver) -> Service:
    return register(base_url=sink.url, headers={"X-Team": "pay"})


def test_a_call_is_the_one_that_delivery_would_make(
    service: Service, sink: Receiver, send: Callable[..., list[Message]], deliver: Callable[..., None]
) -> None:
    send(service, path="/same", query={"a": "b"}, headers={"X-Own": "1"}, body=b'{"n":1}')
    deliver(until=lambda: bool(sink.calls))
    lab_call.run(
        lab_call.LabRequest(service, "POST", "/same", {"a": "b"}, {"X-Own": "1"}, b'{"n":1}', "application/json"),
        actor="a",
    )
    delivered, tried = sink.calls
    own = {"webhook-id", "webhook-timestamp"}
    assert (delivered.method, delivered.target, delivered.body) == (tried.method, tried.target, tried.body)
    assert {pair for pair in delivered.headers if pair[0].lower() not in own} == {
        pair for pair in tried.headers if pair[0].lower() not in own
    }


def test_the_attempt_carries_its_own_id_and_belongs_to_no_message(service: Service, sink: Receiver) -> None:
    attempt = lab_call.run(lab_call.LabRequest(service), actor="person ada")
    attempt.refresh_from_db()
    assert sink.last.header("webhook-id") == attempt.public_id
    assert (attempt.trigger, attempt.message, attempt.outcome) == ("lab", None, "succeeded")
    assert attempt.actor == "person ada"
    assert attempt.timings["total"] > 0


def test_an_answer_is_kept_up_to_a_mebibyte(service: Service, sink: Receiver) -> None:
    service.response_cap = 10
    sink.answer(200, body=b"x" * 300_000)
    attempt = lab_call.run(lab_call.LabRequest(service), actor="a")
    assert len(attempt.response_body) == 300_000
    assert not attempt.truncated


def test_a_failure_neither_feeds_nor_obeys_the_breaker(service: Service, sink: Receiver) -> None:
    Runtime.objects.filter(service=service).update(state="open")
    service.pause("their maintenance")
    before = Runtime.objects.values().get(service=service)
    sink.answer(503)
    for _ in range(10):
        assert lab_call.run(lab_call.LabRequest(service), actor="a").status_code == 503
    assert Runtime.objects.values().get(service=service) == before
    assert len(sink.calls) == 10


def test_the_timeout_of_the_form_holds(service: Service, sink: Receiver) -> None:
    sink.answer(200, delay=5)
    attempt = lab_call.run(lab_call.LabRequest(service, timeout=0.2), actor="a")
    assert (attempt.fault, attempt.outcome) == ("timeout", "failed")


def test_what_cannot_be_built_is_kept_as_a_result(service: Service) -> None:
    service.base_url = ""
    attempt = lab_call.run(lab_call.LabRequest(service, path="/x"), actor="a")
    assert (attempt.fault, attempt.url) == ("config", "/x")
    assert "no address" in attempt.detail


def test_an_oauth_token_that_the_service_echoes_is_not_stored(register: Register, sink: Receiver) -> None:
    def answer(call: Call) -> Answer:
        if call.path == "/token":
            return Answer(200, body={"access_token": "fetched-token-1", "expires_in": 3600})
        return Answer(200, body={"you sent": call.header("Authorization")})

    sink.decide(answer)
    attempt = lab_call.run(lab_call.LabRequest(_with_oauth(register, sink)), actor="a")
    assert json.loads(bytes(attempt.response_body)) == {"you sent": "Bearer ••••"}
    assert sink.last.header("Authorization") == "Bearer fetched-token-1"
    assert b"fetched-token-1" not in bytes(Attempt.objects.get().response_body)


def test_after_a_401_the_next_call_fetches_a_new_token(register: Register, sink: Receiver) -> None:
    tokens = iter(["first", "second"])

    def answer(call: Call) -> Answer:
        if call.path == "/token":
            return Answer(200, body={"access_token": next(tokens), "expires_in": 3600})
        return Answer(200 if call.header("Authorization") == "Bearer second" else 401)

    sink.decide(answer)
    service = _with_oauth(register, sink)
    assert [lab_call.run(lab_call.LabRequest(service), actor="a").status_code for _ in range(2)] == [401, 200]


def _with_oauth(register: Register, sink: Receiver) -> Service:
    auth = {"type": "oauth2", "token_url": f"{sink.url}/token", "client_id": "us"}
    service = register(base_url=sink.url, auth=auth)
    service.keep_secret("auth.client_secret", "hush")
    service.save()
    return service


def test_a_call_that_never_ended_leaves_a_trace(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_call, "make_call", stop)
    with pytest.raises(KeyboardInterrupt):
        lab_call.run(lab_call.LabRequest(service), actor="a")
    assert Attempt.objects.get().outcome == "lost"


@pytest.mark.slow
def test_a_cancelled_call_ends_at_once_and_says_by_what(
    transactional_db: None, service: Service, sink: Receiver
) -> None:
    sink.decide(lambda call: Answer(delay=20))
    canceller = Timer(0.5, _cancel)
    canceller.start()
    began = monotonic()
    attempt = lab_call.run(lab_call.LabRequest(service, timeout=30), actor="person ada")
    canceller.join()
    assert monotonic() - began < 5
    attempt.refresh_from_db()
    assert (attempt.outcome, attempt.fault, attempt.method) == ("failed", "reset", "GET")
    assert attempt.detail.startswith("cancelled: ")


def _cancel() -> None:
    unqueued_call.cancel_lab_calls("person ada")
    connection.close()
