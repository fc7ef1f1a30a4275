"""Numbers of a JSON body are stored, sent and returned as they were written."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from integrations.models import Message, Service, Status
from integrations.schemas import exact_json
from tests.support.calling import Api, is_problem

WRITTEN = (
    b"1e3",
    b"1E+3",
    b"-0",
    b"-0.0",
    b"1.10",
    b"0.12345678901234567890123456789",
    b"100000000000000000000000000000.25",
    b"12345678901234567890123",
    b"1.5",
    b"1e-400",
)


@pytest.mark.parametrize("number", WRITTEN)
def test_a_number_is_stored_and_returned_as_it_was_written(operator: Api, billing: Service, number: bytes) -> None:
    body = b'{"n":%b,"list":[%b,"1e3",true]}' % (number, number)
    made = operator.post("/messages", b'{"service":"billing","path":"/","body":%b}' % body)
    assert made.status_code == 202
    assert bytes(Message.objects.get().content.body) == body
    for answer in (made, operator.get(made["Location"])):
        assert b'"body":' + body in answer.content
        assert json.loads(answer.content)["body"] == json.loads(body)


def test_batches_and_edited_replays_keep_numbers_too(operator: Api, billing: Service) -> None:
    operator.post("/messages/batch", b'{"messages":[{"service":"billing","path":"/","body":[1e3]}]}')
    message = Message.objects.get()
    assert bytes(message.content.body) == b"[1e3]"
    Message.objects.update(status=Status.DEAD)
    operator.post(f"/messages/{message.public_id}/replay", b'{"body":[1.10]}')
    assert bytes(Message.objects.latest("pk").content.body) == b"[1.10]"


def test_a_number_beyond_all_floats_is_still_refused(operator: Api, billing: Service) -> None:
    is_problem(operator.post("/messages", b'{"service":"billing","path":"/","body":1e999}'), 422)


def test_other_fields_take_numbers_in_any_form(operator: Api, billing: Service) -> None:
    changed = operator.call("PATCH", "/services/billing", b'{"limits":{"rate":1e1,"concurrency":2.0}}')
    assert changed.json()["limits"]["rate"] == 10
    sent = operator.post("/messages", b'{"service":"billing","path":"/","query":{"page":1e1}}')
    assert sent.status_code == 202


def test_a_body_that_looks_like_a_placeholder_stays_text(queue: Callable[..., Message]) -> None:
    text = f"{exact_json.PLACE}1e3"[:-3].replace(":", ";")
    assert json.loads(bytes(queue(body={"a": text}).content.body)) == {"a": text}
