from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.utils import timezone

from integrations.api.responses import AttemptPage, BatchOut, MessageOut, MessagePage
from integrations.models import Attempt, Endpoint, Message, Service, Status, Worker
from integrations.schemas.fields import BODY_LIMIT
from tests.support.calling import Api, is_problem


def finish(message: Message, status: Status = Status.DEAD, **changes: Any) -> None:
    Message.objects.filter(pk=message.pk).update(status=status, due_at=None, finished_at=timezone.now(), **changes)


# ---- queue --------------------------------------------------------------------------------------------------------
def test_a_queued_message_is_at_the_location_that_was_answered(operator: Api, billing: Service) -> None:
    Worker.objects.create(
        cluster="c", host="h", pid=1, started_at=timezone.now(), heartbeat_at=timezone.now(),
        lease_until=timezone.now() + timedelta(minutes=1),
    )  # fmt: skip
    sent = {"service": "billing", "path": "/in", "body": {"a": [1, None, "é"]}, "tags": {"order": "7"}}
    made = operator.post("/messages", sent)
    assert made.status_code == 202
    found = operator.get(made["Location"])
    assert found.json() == made.json()
    message = MessageOut.model_validate_json(found.content)
    assert (message.status, message.attempts, message.method) == ("pending", 0, "POST")
    assert message.body == {"a": [1, None, "é"]}
    assert message.tags == {"order": "7"}
    assert message.dead_reason is None
    assert found.json()["last"] == {"status_code": None, "fault": None, "detail": ""}
    assert message.waiting_for is not None
    assert message.waiting_for.kind == "worker"


def test_queueing_costs_few_queries(operator: Api, invoices: Endpoint, django_assert_max_num_queries: Any) -> None:
    operator.get("/services")  # notes the token's use, once a minute
    with django_assert_max_num_queries(7):  # token, service, endpoint, BEGIN, message, content, COMMIT
        assert operator.post("/messages", {"service": "billing", "endpoint": "invoices"}).status_code == 202


def test_bytes_are_stored_as_they_were_given(operator: Api, queue: Any, billing: Service) -> None:
    raw = bytes(range(256))
    made = operator.post(
        "/messages",
        {"service": "billing", "path": "/", "body_base64": b64encode(raw).decode(), "content_type": "a/b"},
    )
    message = Message.objects.by_public_id(made.json()["id"])
    assert message is not None
    assert bytes(message.content.body) == raw
    assert made.json()["body_base64"] == b64encode(raw).decode()
    assert made.json()["content_type"] == "a/b"


@pytest.mark.parametrize("text", ["12345678901234567890123456789", "-0.0", '"\\u0000 é"', "null", "[]", "1e22"])
def test_json_keeps_its_value(operator: Api, billing: Service, text: str) -> None:
    raw = b'{"service": "billing", "path": "/", "body": ' + text.encode() + b"}"
    made = operator.post("/messages", raw)
    assert made.status_code == 202, made.content
    assert made.json()["body"] == json.loads(text)
    message = Message.objects.by_public_id(made.json()["id"])
    assert message is not None
    assert json.loads(bytes(message.content.body)) == json.loads(text)


@pytest.mark.parametrize("field", [{"tags": {"a": "b\0"}}, {"ordering_key": "\0"}, {"query": {"\0": 1}}])
def test_a_nul_is_refused_on_every_database(operator: Api, billing: Service, field: dict[str, Any]) -> None:
    answer = operator.post("/messages", {"service": "billing", "path": "/", **field})
    assert answer.status_code == 422
    assert "NUL" in answer.json()["errors"][0]["msg"]


def test_a_null_body_is_a_body_and_no_body_is_none(operator: Api, billing: Service) -> None:
    null = operator.post("/messages", {"service": "billing", "path": "/", "body": None}).json()
    nothing = operator.post("/messages", {"service": "billing", "path": "/"}).json()
    assert "body" in null
    assert null["content_type"] == "application/json"
    assert nothing["body_base64"] == ""
    assert nothing["content_type"] == ""


def test_a_message_to_an_endpoint_takes_what_it_has(operator: Api, invoices: Endpoint) -> None:
    made = operator.post("/messages", {"service": "billing", "endpoint": "invoices", "query": {"x": "2"}}).json()
    assert (made["method"], made["path"], made["query"]) == ("PUT", "/invoices", {"v": "1", "x": "2"})
    assert made["endpoint"] == "invoices"


@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"service": "unknown"}, ["body", "service"]),
        ({"path": None, "endpoint": "nothing"}, ["body", "endpoint"]),
        ({"path": "in"}, ["body", "path"]),
        ({"query": {"q": "é" * 9_000}}, ["body", "query"]),
        ({"method": "CONNECT"}, ["body", "method"]),
        ({"headers": {"X-A": "b\r\nX-Evil: 1"}}, ["body", "headers"]),
        ({"headers": {"X-A\r\nX-Evil": "1"}}, ["body", "headers"]),
        ({"body_base64": "a"}, ["body"]),
        ({"deliver_at": "2030-01-01T00:00:00"}, ["body", "deliver_at"]),
        ({"expires_at": "2001-01-01T00:00:00Z"}, ["body", "expires_at"]),
        ({"colour": "red"}, ["body", "colour"]),
        ({"tags": {"a": 1}}, ["body", "tags", "a"]),
    ],
)
def test_a_broken_rule_is_named_with_its_place(
    operator: Api, billing: Service, change: dict[str, Any], location: list[str]
) -> None:
    answer = operator.post("/messages", {"service": "billing", "path": "/in", "body": 1, **change})
    problem = is_problem(answer, 422)
    assert problem["errors"][0]["loc"] == location
    assert "Value error" not in answer.content.decode()
    assert not Message.objects.exists()


def test_a_body_over_a_mebibyte_is_too_large(operator: Api, billing: Service) -> None:
    body = {"service": "billing", "path": "/", "body_base64": b64encode(b"x" * BODY_LIMIT).decode()}
    assert operator.post("/messages", body).status_code == 202
    body["body_base64"] = b64encode(b"x" * (BODY_LIMIT + 1)).decode()
    is_problem(operator.post("/messages", body), 413)


def test_not_base64_is_said_in_words(operator: Api, billing: Service) -> None:
    answer = operator.post("/messages", {"service": "billing", "path": "/", "body_base64": "§§"})
    assert is_problem(answer, 422)["errors"] == [
        {"loc": ["body", "body_base64"], "msg": "body_base64 must be valid base64"}
    ]


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_beyond_the_calendar_is_refused_in_words(
    operator: Api, viewer: Api, billing: Service, moment: str
) -> None:
    answer = operator.post("/messages", {"service": "billing", "path": "/", "deliver_at": moment})
    assert is_problem(answer, 422)["errors"][0]["msg"] == "the year must be between 1900 and 9998"
    is_problem(operator.post("/services/billing/pause", {"reason": "x", "until": moment}), 422)
    is_problem(viewer.get(f"/messages?created_after={moment.replace('+', '%2B')}"), 422)


def test_times_are_answered_in_utc(operator: Api, billing: Service) -> None:
    sent = {"service": "billing", "path": "/", "deliver_at": "2031-01-01T12:00:00+02:00"}
    made = operator.post("/messages", sent)
    assert made.json()["deliver_at"] == "2031-01-01T10:00:00Z"
    assert operator.get(made["Location"]).json() == made.json()


# ---- batch --------------------------------------------------------------------------------------------------------
def test_one_bad_entry_never_rejects_the_others(operator: Api, invoices: Endpoint) -> None:
    good = {"service": "billing", "endpoint": "invoices"}
    huge = {"service": "billing", "path": "/", "body_base64": b64encode(b"x" * (BODY_LIMIT + 1)).decode()}
    entries = [good, {"service": "unknown", "path": "/"}, 5, {**good, "endpoint": "none"}, huge, {**good, "x": 1}, good]
    answer = operator.post("/messages/batch", {"messages": entries})
    assert answer.status_code == 200
    batch = BatchOut.model_validate_json(answer.content)
    assert [entry.index for entry in batch.accepted] == [0, 6]
    assert [(entry.index, entry.error.status) for entry in batch.rejected] == [
        (1, 422), (2, 422), (3, 422), (4, 413), (5, 422),
    ]  # fmt: skip
    assert batch.rejected[0].error.errors == [
        {"loc": ["body", "messages", 1, "service"], "msg": "there is no service named unknown"}
    ]
    assert {message.public_id for message in Message.objects.all()} == {entry.id for entry in batch.accepted}


def test_a_batch_of_a_thousand_costs_as_many_queries_as_one(
    operator: Api, invoices: Endpoint, django_assert_max_num_queries: Any
) -> None:
    entries = [{"service": "billing", "endpoint": "invoices"}, {"service": "unknown", "path": "/"}] * 500
    operator.get("/services")
    with django_assert_max_num_queries(30):  # inserts are split to fit the parameters that a statement can have
        answer = operator.post("/messages/batch", {"messages": entries})
    assert len(answer.json()["accepted"]) == 500
    is_problem(operator.post("/messages/batch", {"messages": [*entries, entries[0]]}), 422)


def test_an_empty_batch_accepts_nothing(operator: Api) -> None:
    assert operator.post("/messages/batch", {"messages": []}).json() == {"accepted": [], "rejected": []}


# ---- look at ------------------------------------------------------------------------------------------------------
def test_pages_follow_each_other_without_gap_or_repetition(viewer: Api, queue: Any) -> None:
    ids = [queue().public_id for _ in range(7)]
    seen: list[str] = []
    path = "/messages?limit=3"
    while path:
        answer = viewer.get(path).json()
        MessagePage.model_validate(answer)
        seen += [item["id"] for item in answer["items"]]
        queue()  # new messages do not shift the pages
        path = f"/messages?limit=3&cursor={answer['next_cursor']}" if answer["next_cursor"] else ""
    assert seen == ids[::-1]


def test_a_cursor_that_was_tampered_with_is_refused(viewer: Api, queue: Any) -> None:
    queue(), queue()
    cursor = viewer.get("/messages?limit=1").json()["next_cursor"]
    for bad in (cursor[:-1], "x", cursor.replace(cursor[0], "Z", 1), "1", ""):
        problem = is_problem(viewer.get(f"/messages?cursor={bad}"), 422)
        assert problem["errors"][0]["loc"] == ["query", "cursor"]
    is_problem(viewer.get(f"/services?cursor={cursor}"), 422)


@pytest.mark.parametrize("limit", ["0", "501", "-1", "x", "9" * 30])
def test_a_limit_out_of_range_is_refused(viewer: Api, limit: str) -> None:
    is_problem(viewer.get(f"/messages?limit={limit}"), 422)


def test_filters_narrow_the_list(viewer: Api, invoices: Endpoint, queue: Any) -> None:
    plain, dead, by_endpoint = queue(tags={"order": "7"}), queue(), queue(path=None, endpoint="invoices")
    finish(dead, dead_reason="status", last_fault="status", last_status_code=404)
    middle = datetime.now(UTC)
    later = queue()

    def ids(query: str) -> list[str]:
        answer = viewer.get(f"/messages?{query}")
        assert answer.status_code == 200, answer.content
        return [item["id"] for item in answer.json()["items"]]

    stamp = middle.isoformat().replace("+00:00", "Z")
    assert ids("service=billing") == [m.public_id for m in (later, by_endpoint, dead, plain)]
    assert ids("service=nobody") == []
    assert ids("endpoint=invoices") == [by_endpoint.public_id]
    assert ids("status=dead") == ids("dead_reason=status") == ids("fault=status") == ids("status_code=404")
    assert ids("status=dead") == [dead.public_id]
    assert ids(f"created_after={stamp}") == [later.public_id]
    assert later.public_id not in ids(f"created_before={stamp}")
    assert ids("q=tag:order%3D7") == [plain.public_id]
    assert ids("q=tag:order%3D8") == []
    assert ids(f"q={dead.public_id}") == [dead.public_id]


def test_q_is_the_search_of_the_console(viewer: Api, queue: Any) -> None:
    first, second = queue(path="/orders/1"), queue(path="/orders/2")
    finish(first, last_status_code=503)

    def ids(**query: str) -> list[str]:
        return [item["id"] for item in viewer.get(f"/messages?{urlencode(query)}").json()["items"]]

    assert ids(q="/orders/1") == ids(q="code:500..599") == ids(q="-status:pending") == [first.public_id]
    assert ids(q="-/orders/1 newer:1h") == [second.public_id]
    assert ids(q="-/orders/1", status="dead") == ids(q="status:pending", status="dead") == []


def test_what_no_index_answers_is_looked_for_in_steps(viewer: Api, queue: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 2)
    wanted = queue(path="/wanted")
    for _ in range(3):
        queue()
    pages = [viewer.get("/messages?q=/wanted").json()]
    while pages[-1]["next_cursor"] and len(pages) < 5:
        pages.append(viewer.get(f"/messages?q=/wanted&cursor={pages[-1]['next_cursor']}").json())
    assert [[item["id"] for item in page["items"]] for page in pages] == [[], [wanted.public_id]]


@pytest.mark.parametrize(
    "query",
    ["status=lost", "dead_reason=x", "fault=x", "status_code=1", "created_after=soon", "q=colour:red",
     "replayed=perhaps", "created_after=2026-01-01T00:00:00"],
)  # fmt: skip
def test_a_filter_that_means_nothing_is_refused(viewer: Api, query: str) -> None:
    assert is_problem(viewer.get(f"/messages?{query}"), 422)["errors"][0]["loc"] == ["query", query.partition("=")[0]]


def test_what_was_replayed_is_told_apart(viewer: Api, operator: Api, queue: Any) -> None:
    replayed, left = queue(), queue()
    finish(replayed), finish(left)
    operator.post(f"/messages/{replayed.public_id}/replay")
    assert [item["id"] for item in viewer.get("/messages?status=dead&replayed=true").json()["items"]] == [
        replayed.public_id
    ]
    assert [item["id"] for item in viewer.get("/messages?status=dead&replayed=false").json()["items"]] == [
        left.public_id
    ]


def test_a_list_costs_the_same_for_any_number(viewer: Api, queue: Any, django_assert_max_num_queries: Any) -> None:
    for _ in range(20):
        queue()
    viewer.get("/messages")
    with django_assert_max_num_queries(8):
        items = viewer.get("/messages").json()["items"]
    assert {item["waiting_for"]["kind"] for item in items} == {"worker"}
    assert "No worker is running" in items[0]["waiting_for"]["why"]


def test_attempts_come_oldest_first(viewer: Api, queue: Any) -> None:
    message = queue(body={"a": 1})
    for number in (1, 2, 3):
        Attempt.objects.create(
            message=message, service=message.service, number=number, trigger="first", started_at=timezone.now(),
            outcome="failed", fault="status", status_code=503, request_headers=[["X-A", "b"]], response_body=b"\xff",
        )  # fmt: skip
    first = viewer.get(f"/messages/{message.public_id}/attempts?limit=2")
    AttemptPage.model_validate_json(first.content)
    assert [item["number"] for item in first.json()["items"]] == [1, 2]
    assert first.json()["items"][0]["request"]["body"] == '{"a":1}'
    assert first.json()["items"][0]["response"]["body_base64"] == "/w=="
    rest = viewer.get(f"/messages/{message.public_id}/attempts?cursor={first.json()['next_cursor']}").json()
    assert [item["number"] for item in rest["items"]] == [3]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("text", ["msg_1_00000000", "msg_0_1", "x", "msg_99999999999999999999_00000000"])
def test_an_unknown_message_is_not_found(operator: Api, text: str) -> None:
    is_problem(operator.get(f"/messages/{text}"), 404)
    is_problem(operator.get(f"/messages/{text}/attempts"), 404)
    for verb in ("replay", "cancel", "retry-now"):
        is_problem(operator.post(f"/messages/{text}/{verb}"), 404)


# ---- replay, cancel, retry ----------------------------------------------------------------------------------------
def test_a_finished_message_is_replayed_once_at_a_time(operator: Api, queue: Any) -> None:
    message = queue()
    is_problem(operator.post(f"/messages/{message.public_id}/replay"), 409)
    finish(message, dead_reason="attempts")
    first = operator.post(f"/messages/{message.public_id}/replay")
    assert first.status_code == 202
    assert first["Location"] == f"/api/v1/messages/{first.json()['id']}"
    assert first.json()["replay_of"] == message.public_id
    again = operator.post(f"/messages/{message.public_id}/replay", {"mode": "as_is"})
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    original = operator.get(f"/messages/{message.public_id}").json()
    assert (original["status"], original["replays"]) == ("dead", [first.json()["id"]])


def test_a_replay_may_be_edited(operator: Api, invoices: Endpoint, queue: Any) -> None:
    message = queue()
    finish(message)
    body = {"mode": "current", "endpoint": "invoices", "body": {"n": 2}}
    replay = operator.post(f"/messages/{message.public_id}/replay", body).json()
    assert (replay["path"], replay["body"], replay["endpoint"]) == ("/invoices", {"n": 2}, "invoices")
    is_problem(operator.post(f"/messages/{message.public_id}/replay", {"endpoint": "none"}), 422)
    is_problem(operator.post(f"/messages/{message.public_id}/replay", {"mode": "again"}), 422)


def test_only_a_pending_message_is_cancelled_or_retried_now(operator: Api, queue: Any) -> None:
    later = (timezone.now() + timedelta(hours=1)).isoformat()
    message = queue(deliver_at=later)
    path = f"/messages/{message.public_id}"
    assert operator.get(path).json()["waiting_for"]["kind"] == "schedule"
    assert operator.post(f"{path}/retry-now").json()["waiting_for"]["kind"] == "worker"
    Message.objects.filter(pk=message.pk).update(status=Status.DELIVERING)
    is_problem(operator.post(f"{path}/cancel"), 409)
    is_problem(operator.post(f"{path}/retry-now"), 409)
    Message.objects.filter(pk=message.pk).update(status=Status.PENDING)
    cancelled = operator.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"], cancelled.json()["waiting_for"]) == (
        200,
        "cancelled",
        None,
    )
    assert "cancelled" in is_problem(operator.post(f"{path}/cancel"), 409)["detail"]


def test_what_was_answered_once_is_answered_again_after_the_world_has_changed(operator: Api, billing: Service) -> None:
    body = {"service": "billing", "path": "/", "body": 1}
    first = operator.call("POST", "/messages", body, Idempotency_Key="k1")
    Service.objects.filter(pk=billing.pk).update(name="renamed")
    again = operator.call("POST", "/messages", body, Idempotency_Key="k1")
    assert (again.status_code, again.content) == (202, first.content)


def test_credentials_in_a_messages_headers_are_masked_for_readers(operator: Api, billing: Service) -> None:
    sent = {"service": "billing", "path": "/", "headers": {"Authorization": "Bearer canary-canary"}}
    made = operator.post("/messages", sent).json()
    assert "canary" not in operator.get(f"/messages/{made['id']}").content.decode()


@pytest.mark.parametrize("moment", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_time_at_the_end_of_the_calendar_is_refused(operator: Api, billing: Service, moment: str) -> None:
    answer = operator.post("/messages", {"service": "billing", "path": "/", "deliver_at": moment})
    assert answer.status_code == 422
