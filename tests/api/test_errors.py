from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from integrations.models import Service
from tests.support.calling import Api, is_problem


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"service": NaN}',
        b'{"service": Infinity}',
        b'{"service": -Infinity}',
        b'{"service": "\xff"}',
        '{"service": "billing"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"service": "billing"}',
        b'{"service": "a", "service": "b"}',
        b'{"service": "\\ud800"}',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"body": ' + b"[" * 101 + b"]" * 101 + b"}",
        b'{"body": ' + b"9" * 5000 + b"}",
        b'{"service": "billing"} trailing',
    ],
    ids=range(16),
)
def test_what_is_not_json_is_refused(operator: Api, billing: Service, body: bytes) -> None:
    answer = operator.post("/messages", body)
    problem = is_problem(answer, 422 if body == b"" else 400)
    assert problem["type"] == ("/problems/validation" if body == b"" else "/problems/malformed")


def test_brackets_in_strings_are_no_nesting(operator: Api, billing: Service) -> None:
    text = "[{" * 500 + '\\"' + "["
    made = operator.post("/messages", {"service": "billing", "path": "/", "body": [text, [[text]]]})
    assert made.status_code == 202
    assert made.json()["body"] == [text, [[text]]]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_only_json_is_taken(operator: Api, billing: Service, kind: str) -> None:
    body = json.dumps({"service": "billing", "path": "/"}).encode()
    is_problem(operator.post("/messages", body, content_type=kind), 415)
    assert operator.post("/messages", body, content_type="application/json; charset=utf-8").status_code == 202
    assert operator.post("/messages", body, content_type="application/vnd.x+json").status_code == 202


def test_a_body_over_the_limit_is_not_read(operator: Api) -> None:
    is_problem(operator.post("/messages", b" " * (2 * 1024 * 1024 + 1)), 413)
    is_problem(operator.post("/services", b" " * (2 * 1024 * 1024 + 1)), 413)
    is_problem(operator.post("/messages/batch", b" " * (16 * 1024 * 1024 + 1)), 413)
    assert operator.post("/messages/batch", b" " * (16 * 1024 * 1024 - 16) + b'{"messages": []}').status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/", "/api/v1/nothing", "/api/v1/services/", "/api/v1/services/a/b/c/d"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.django_db
def test_an_unknown_address_is_a_problem_too(path: str, method: str) -> None:
    is_problem(Client().generic(method, path), 404)


def test_an_unknown_service_is_not_found(operator: Api) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("POST", "/resume"), ("GET", "/breaker")):
        body = None if method == "GET" else {}
        assert "unknown" in is_problem(operator.call(method, f"/services/unknown{path}", body), 404)["detail"]


def test_a_method_that_is_not_offered_says_which_are(operator: Api) -> None:
    answer = operator.call("PUT", "/services")
    is_problem(answer, 405)
    assert set(answer["Allow"].replace(" ", "").split(",")) == {"GET", "POST"}


def test_a_database_that_does_not_answer_is_503(
    operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any, **__: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr("integrations.models.message.MessageQuerySet.accept", locked)
    answer = operator.post("/messages", {"service": "billing", "path": "/"})
    is_problem(answer, 503)
    assert int(answer["Retry-After"]) > 0
    assert b"locked" not in answer.content


def test_a_fault_of_ours_is_500_without_its_details(
    operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret of billing")

    monkeypatch.setattr("integrations.models.message.MessageQuerySet.accept", broken)
    answer = operator.post("/messages", {"service": "billing", "path": "/"})
    is_problem(answer, 500)
    assert b"secret" not in answer.content


@pytest.mark.django_db(transaction=True)
def test_a_nul_character_is_stored_or_refused_and_nothing_breaks(operator: Api, billing: Service) -> None:
    for sent in ({"tags": {"a": "b\x00"}}, {"ordering_key": "b\x00"}):
        answer = operator.post("/messages", {"service": "billing", "path": "/", **sent})
        assert answer.status_code in (202, 422)
    for path in ("/services/a%00", "/messages?service=a%00", "/messages?q=a:b%00", "/audit?target=%00"):
        assert operator.get(path).status_code < 500
