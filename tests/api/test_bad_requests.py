"""Bad requests × every call that takes a body: a clear 4xx problem each, by Django's view and by the native route."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations.api import api, json_io
from integrations.api.problems import Problem
from integrations.models import Endpoint, Message, Role, Token
from integrations.models.operation import Kind
from integrations.operators import bulk_operations
from tests.api.test_failures import failed
from tests.support.calling import Api, is_problem
from tests.support.installation import Installation

# Every one has a field that is wrong wherever it is sent, so that no call can take it.
BODIES: dict[str, tuple[bytes, set[int]]] = {
    "invalid UTF-8": (b'{"name": "\xff"}', {400}),
    "NaN": (b'{"name": NaN}', {400}),
    "infinity": (b'{"name": -Infinity}', {400}),
    "100,000 open brackets": (b"[" * 100_000, {400}),
    "90,000 nested brackets": (b'{"name": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", {400}),
    "100,001 empty lists": (b'{"name": [' + b"[]," * 100_001 + b"0]}", {413}),
    "a member twice": (b'{"name": "a", "name": "b"}', {400}),
    "half a surrogate pair": (b'{"name": "\\ud800"}', {400}),
    "a NUL in a key": (b'{"na\\u0000me": "a"}', {422}),
    "a NUL in a text": (b'{"name": "a\\u0000", "mode": "\\u0000"}', {422}),
    "a number beyond float": (b'{"name": 1e999, "retry": {"initial": 1e999}}', {422}),
    "a number of 5,000 digits": (b'{"name": ' + b"9" * 5000 + b"}", {400}),
    "no object": (b'"name"', {422}),
    "cut off": (b'{"name": ', {400}),
}
LIMIT = 2 * 1024 * 1024


@pytest.fixture
def calls(invoices: Endpoint, queue: Callable[..., Message]) -> list[tuple[str, str]]:
    message = queue().public_id
    operation = bulk_operations.plan(Kind.CANCEL, "service:billing", by="a test", reason="a test").public_id
    failure = failed(invoices.service, 500, message_id=None).public_id
    return [
        ("POST", "/services"),
        ("PATCH", "/services/billing"),
        ("POST", "/services/billing/pause"),
        ("POST", "/services/billing/resume"),
        ("POST", "/services/billing/breaker"),
        ("POST", "/services/billing/signing/rotate"),
        ("POST", "/services/billing/endpoints"),
        ("PATCH", "/services/billing/endpoints/invoices"),
        ("POST", "/messages"),
        ("POST", "/messages/batch"),
        ("POST", f"/messages/{message}/replay"),
        ("POST", "/process"),
        ("POST", "/operations"),
        ("PATCH", f"/operations/{operation}"),
        ("PATCH", f"/failures/{failure}"),
        ("POST", "/tokens"),
        ("PATCH", "/retention"),
        ("PATCH", "/backups"),
    ]


def test_no_call_with_a_body_is_left_out(calls: list[tuple[str, str]]) -> None:
    described = [call for methods in api.get_openapi_schema()["paths"].values() for call in methods.values()]
    assert len(calls) == len([call for call in described if "requestBody" in call])


@pytest.mark.parametrize("what", BODIES)
def test_a_bad_body_is_refused_by_every_call(admin: Api, calls: list[tuple[str, str]], what: str) -> None:
    body, statuses = BODIES[what]
    for method, path in calls:
        answer = admin.call(method, path, body)
        assert answer.status_code in statuses, (method, path, answer.content[:300])
        is_problem(answer, answer.status_code)


def test_a_wrong_type_a_huge_body_and_a_bad_token_are_refused_by_every_call(
    admin: Api, viewer: Api, calls: list[tuple[str, str]]
) -> None:
    unknown, expired = Api(viewer.token, "sbt_nothing"), Api(*Token.objects.issue("old", Role(viewer.token.role)))
    Token.objects.filter(pk=expired.token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    for method, path in calls:
        is_problem(admin.call(method, path, b"name=a", content_type="text/plain"), 415)
        huge = b" " * (LIMIT * (8 if path.endswith("/batch") else 1) + 1)
        is_problem(admin.call(method, path, huge), 413)
        is_problem(unknown.call(method, path, b"{}"), 401)
        is_problem(expired.call(method, path, b"{}"), 401)
        is_problem(viewer.call(method, path, b"{}"), 403)


def test_a_bad_entry_never_rejects_the_others_of_its_batch(operator: Api, calls: list[tuple[str, str]]) -> None:
    good = {"service": "billing", "path": "/", "body": {"a": "\0 is fine in a body"}}
    bad = [{**good, "tags": {"a": "\0"}}, {**good, "service": "\0"}, 1, {**good, "deliver_at": 1.5}]
    answer = operator.post("/messages/batch", {"messages": [good, *bad, good]})
    assert answer.status_code == 200
    assert [one["index"] for one in answer.json()["accepted"]] == [0, 5]
    assert [one["error"]["status"] for one in answer.json()["rejected"]] == [422] * 4


def test_half_a_million_lists_took_two_seconds_of_the_thread_that_stores_messages() -> None:
    nested = b"[" + b"[" * 90 + (b"]" * 90 + b"," + b"[" * 90) * 5_700 + b"]" * 90 + b"]"
    with pytest.raises(Problem, match="body_base64") as refused:
        json_io.parse(nested)
    assert refused.value.status == 413
    text = json.dumps(["[{" * 60_000, '\\"[' * 60_000]).encode()
    assert json_io.parse(text) == json.loads(text), "brackets in a text are no lists"
    assert len(json_io.parse(b"[" + b"{}," * 99_998 + b"0]")) == 99_999
    assert len(json_io.parse(b"[" + (b'{"name":"abc"}' + b" " * 4 + b",") * 150_000 + b"0]")) == 150_001, "a batch"


def test_a_time_is_no_number(operator: Api, calls: list[tuple[str, str]]) -> None:
    is_problem(operator.get("/messages?created_before=0.5"), 422)
    is_problem(operator.post("/messages", {"service": "billing", "path": "/", "deliver_at": 4e9}), 422)


def test_the_native_route_refuses_the_same(start_installation: Callable[..., Installation]) -> None:
    installation = start_installation("--no-workers")
    viewer = installation.token("viewer")
    with installation.api() as api:
        service = {"name": "billing", "base_url": "http://127.0.0.1:9"}
        assert api.post("services", json=service).status_code == 201
        kind = {"Content-Type": "application/json"}
        for what, (body, statuses) in BODIES.items():
            answer = api.post("messages", content=body, headers=kind)
            assert answer.status_code in statuses, (what, answer.text[:300])
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert json.loads(answer.content)["status"] == answer.status_code
        good = b'{"service": "billing", "path": "/"}'
        for status, headers, content in (
            (415, {"Content-Type": "text/plain"}, good),
            (413, kind, b" " * (LIMIT + 1)),
            (401, kind | {"Authorization": "Bearer sbt_nothing"}, good),
            (403, kind | {"Authorization": f"Bearer {viewer}"}, good),
        ):
            answer = api.post("messages", content=content, headers=headers)
            assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
