from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from integrations.models import IdempotentAnswer, Message, Role, Service, Source, Status, Token
from integrations.models.idempotency import IdempotentAnswerQuerySet
from integrations.registration.registry import register
from integrations.schemas.service import ServiceIn
from tests.support.calling import Answered, Api, is_problem

SENT = {"service": "billing", "path": "/in", "body": {"n": 1}}


def test_a_repeated_request_gets_the_first_answer_byte_for_byte(operator: Api, billing: Service) -> None:
    first = operator.post("/messages", SENT, Idempotency_Key="k1")
    Message.objects.update(status=Status.DELIVERED, attempts=3)
    again = operator.post("/messages", SENT, Idempotency_Key="k1")
    assert again.status_code == first.status_code == 202
    assert again.content == first.content
    assert again["Location"] == first["Location"]
    assert again["Content-Type"] == first["Content-Type"]
    assert again["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first
    assert Message.objects.count() == 1


def test_another_body_or_path_with_the_same_key_is_a_conflict(operator: Api, billing: Service) -> None:
    operator.post("/messages", SENT, Idempotency_Key="k1")
    is_problem(operator.post("/messages", {**SENT, "body": {"n": 2}}, Idempotency_Key="k1"), 409)
    is_problem(operator.post("/messages/batch", {"messages": [SENT]}, Idempotency_Key="k1"), 409)
    assert Message.objects.count() == 1


def test_a_key_belongs_to_its_token(operator: Api, admin: Api, billing: Service) -> None:
    operator.post("/messages", SENT, Idempotency_Key="k1")
    assert "Idempotent-Replayed" not in admin.post("/messages", SENT, Idempotency_Key="k1")
    assert Message.objects.count() == 2


def test_a_key_is_forgotten_after_a_day(operator: Api, billing: Service) -> None:
    operator.post("/messages", SENT, Idempotency_Key="k1")
    IdempotentAnswer.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert "Idempotent-Replayed" not in operator.post("/messages", {**SENT, "body": 2}, Idempotency_Key="k1")
    assert Message.objects.count() == 2


def test_errors_are_not_stored(operator: Api, billing: Service) -> None:
    is_problem(operator.post("/messages", {**SENT, "service": "late"}, Idempotency_Key="k1"), 422)
    register(ServiceIn(name="late", base_url="https://a.example.com"), actor="person test", source=Source.FORM)
    assert operator.post("/messages", {**SENT, "service": "late"}, Idempotency_Key="k1").status_code == 202


def test_a_batch_and_a_replay_are_done_once(operator: Api, billing: Service, queue: Any) -> None:
    batches = [operator.post("/messages/batch", {"messages": [SENT]}, Idempotency_Key="b") for _ in range(2)]
    assert batches[0].content == batches[1].content
    assert Message.objects.count() == 1
    message = queue()
    Message.objects.filter(pk=message.pk).update(status=Status.DEAD)
    path = f"/messages/{message.public_id}/replay"
    first = operator.post(path, Idempotency_Key="r")
    Message.objects.filter(replay_of=message).update(status=Status.DEAD)
    again = operator.post(path, Idempotency_Key="r")
    assert (again.status_code, again.content) == (202, first.content)
    assert Message.objects.filter(replay_of=message).count() == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_a_length(operator: Api, billing: Service, key: str) -> None:
    answer = operator.post("/messages", SENT, Idempotency_Key=key)
    assert is_problem(answer, 422)["errors"][0]["loc"] == ["header", "Idempotency-Key"]


def test_a_fault_while_storing_leaves_no_message(
    operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(IdempotentAnswerQuerySet, "store", broken)
        is_problem(operator.post("/messages", SENT, Idempotency_Key="k1"), 500)
    assert not Message.objects.exists()
    assert operator.post("/messages", SENT, Idempotency_Key="k1").status_code == 202


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_runs_and_the_others_get_its_answer() -> None:
    register(ServiceIn(name="billing", base_url="https://billing.example.com"), actor="person test", source=Source.FORM)
    operator = Api(*Token.objects.issue("a", Role.OPERATOR))
    answers: list[Answered] = []
    start = threading.Barrier(6)

    def send() -> None:
        try:
            start.wait()
            answers.append(operator.post("/messages", SENT, Idempotency_Key="k1"))
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sorted("Idempotent-Replayed" in answer for answer in answers) == [False] + [True] * 5
    assert Message.objects.count() == IdempotentAnswer.objects.count() == 1
