"""The Python client against a server that fails as Switchboard may, then against a running installation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from switchboard_client import Client, Refused, SwitchboardError, Unavailable, backoff, responses, verify
from tests.support.backends import ROOT
from tests.support.installation import Installation, free_port
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

ACCEPTED = Answer(202, body={"id": "msg_1"})


@pytest.fixture
def client(sink: Receiver) -> Iterator[Client]:
    with Client(sink.url, "the-token", attempts=4, initial_wait=0.01) as one:
        yield one


# ---- retries --------------------------------------------------------------------------------------------------------
def test_retries_carry_the_same_key_and_the_same_bytes(client: Client, sink: Receiver) -> None:
    sink.script(503, Answer(reset=True), Answer(429, {"Retry-After": "0"}), ACCEPTED)
    assert client.send("billing", path="/orders", body={"größe": 42})["id"] == "msg_1"
    assert len({call.header("idempotency-key") for call in sink.calls}) == 1
    assert [call.body for call in sink.calls] == [
        '{"service":"billing","path":"/orders","body":{"größe":42}}'.encode()
    ] * 4
    assert sink.last.header("authorization") == "Bearer the-token"


def test_each_send_has_a_key_of_its_own_unless_it_is_given_one(client: Client, sink: Receiver) -> None:
    sink.script(ACCEPTED, ACCEPTED, ACCEPTED)
    for key in (None, None, "order-42"):
        client.send("billing", path="/", idempotency_key=key)
    first, second, third = (call.header("idempotency-key") for call in sink.calls)
    assert first != second
    assert third == "order-42"


def test_a_send_that_never_succeeds_says_with_which_key_to_repeat_it(client: Client, sink: Receiver) -> None:
    sink.answer(503, headers={"Retry-After": "0"})
    with pytest.raises(Unavailable, match="503") as raised:
        client.send("billing", path="/", idempotency_key="order-42")
    assert raised.value.idempotency_key == "order-42"
    assert len(sink.calls) == 4


def test_a_refusal_is_not_repeated_and_names_the_fields(client: Client, sink: Receiver) -> None:
    errors = [{"loc": ["body", "path"], "msg": "must begin with /"}]
    problem = {"title": "The request is invalid", "detail": "path: must begin with /", "errors": errors}
    sink.answer(422, headers={"Content-Type": "application/problem+json"}, body=json.dumps(problem))
    with pytest.raises(Refused, match="must begin with /") as raised:
        client.send("billing", path="x")
    assert (raised.value.status, raised.value.errors) == (422, errors)
    assert len(sink.calls) == 1


def test_a_direct_call_that_may_have_been_made_is_not_made_twice(client: Client, sink: Receiver) -> None:
    for failure in (Answer(503), Answer(reset=True)):
        sink.script(failure)
        with pytest.raises(Unavailable):
            client.process("billing", path="/")
    assert len(sink.calls) == 2
    sink.script(Answer(429, {"Retry-After": "0"}), Answer(body={"success": True}))
    assert client.process("billing", path="/")["success"]
    assert len(sink.calls) == 4


def test_a_server_that_cannot_be_reached_is_tried_again() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", "t", attempts=3, initial_wait=0.01) as client,
        pytest.raises(Unavailable, match="ConnectError"),
    ):
        client.get("msg_1")


def test_another_server_at_the_address_is_an_error_of_the_client(client: Client, sink: Receiver) -> None:
    for answer in (Answer(200, body="<html>"), Answer(302, {"Location": "/login/"}), Answer(501)):
        sink.script(answer)
        with pytest.raises(SwitchboardError):
            client.get("msg_1")


@pytest.mark.parametrize(
    ("failures", "retry_after", "least", "most"),
    [
        (1, None, 0.5, 1),
        (2, None, 1, 2),
        (3, None, 2, 4),
        (9, None, 5, 10),
        (5000, None, 5, 10),
        (1, 3.0, 3, 3),
        (1, 60.0, 10, 10),
    ],
)
def test_the_wait_doubles_up_to_a_limit_and_is_no_shorter_than_asked(
    failures: int, retry_after: float | None, least: float, most: float
) -> None:
    assert backoff.delay(failures, 1, 10, retry_after, 0) == least
    assert backoff.delay(failures, 1, 10, retry_after, 1) == most


# ---- the request ---------------------------------------------------------------------------------------------------
def test_bytes_times_and_filters_are_written_as_the_api_reads_them(client: Client, sink: Receiver) -> None:
    sink.script(ACCEPTED, Answer(body={"items": [], "next_cursor": None}))
    client.send("billing", path="/", body_bytes=b"\x00\xff", deliver_at=datetime(2030, 1, 1, tzinfo=UTC))
    sent = {"service": "billing", "path": "/", "body_base64": "AP8=", "deliver_at": "2030-01-01T00:00:00+00:00"}
    assert sink.last.json() == sent
    assert list(client.search("code:500..599", replayed=False)) == []
    assert sink.last.query == "q=code%3A500..599&replayed=false"
    with pytest.raises(ValueError, match="time zone"):
        client.send("billing", path="/", deliver_at=datetime(2030, 1, 1))


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        (responses.Message, ["MessageOut"]),
        (responses.Last, ["LastOut"]),
        (responses.WaitingFor, ["WaitingOut"]),
        (responses.Attempt, ["AttemptOut"]),
        (responses.BatchResult, ["BatchOut"]),
        (responses.Accepted, ["AcceptedOut"]),
        (responses.Rejected, ["RejectedOut"]),
        (responses.ProcessResult, ["ProcessedOut", "UnprocessedOut"]),
        (responses.ProcessError, ["ProcessErrorOut"]),
    ],
)
def test_the_types_have_the_fields_of_the_api(kind: Any, described: list[str]) -> None:
    schemas = json.loads((ROOT / "docs/openapi.json").read_text())["components"]["schemas"]
    assert set(kind.__annotations__) == {field for name in described for field in schemas[name]["properties"]}


# ---- a running installation -----------------------------------------------------------------------------------------
def test_the_client_sends_finds_replays_and_calls_through_an_installation(
    installation: Installation, switchboard: Client, register: Callable[..., None], sink: Receiver, token: str
) -> None:
    register("orders", signing={"enabled": True})
    with installation.api(token) as api:
        old, new = (api.post("services/orders/signing/rotate", json={}).json()["secret"] for _ in range(2))
        public = api.get("services/orders").json()["signing"]["public_key"]
    message = switchboard.send("orders", path="/orders", body={"order": 42}, idempotency_key="order-42")
    assert switchboard.send("orders", path="/orders", body={"order": 42}, idempotency_key="order-42") == message
    until(lambda: switchboard.get(message["id"])["status"] == "delivered")
    (call,) = sink.calls
    for keys in (old, new, public, [new, old]):
        assert verify(call.body, dict(call.headers), keys) == message["id"]
    assert [attempt["status_code"] for attempt in switchboard.attempts(message["id"])] == [200]

    replay = switchboard.replay(message["id"])
    assert replay["replay_of"] == message["id"]
    result = switchboard.send_many([{"service": "orders", "path": "/a"}, {"service": "missing", "path": "/"}])
    assert [entry["index"] for entry in result["accepted"]] == [0]
    assert [entry["error"]["status"] for entry in result["rejected"]] == [422]
    sent = [result["accepted"][0]["id"], replay["id"], message["id"]]
    assert [found["id"] for found in switchboard.search("service:orders", limit=1)] == sent

    until(lambda: all(found["status"] == "delivered" for found in switchboard.search("service:orders")))
    sink.answer(200, body={"total": 1200})
    assert switchboard.process("orders", method="GET", path="/invoices/42", timeout=5)["result"] == {"total": 1200}
    with pytest.raises(Refused, match="missing"):
        switchboard.send("missing", path="/")
