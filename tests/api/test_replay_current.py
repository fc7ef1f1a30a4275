"""A replay in mode `current` goes by the endpoint as it is now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from integrations.models import Endpoint, Message, Status
from tests.support.calling import Api, is_problem


def test_a_current_replay_takes_what_the_endpoint_says_now(
    operator: Api, invoices: Endpoint, queue: Callable[..., Message]
) -> None:
    invoices.headers = {"X-Version": "1"}
    invoices.save()
    message = queue(endpoint="invoices", path=None, query={"own": "yes"}, headers={"X-Own": "yes"})
    message.content.refresh_from_db()
    Message.objects.update(status=Status.DEAD)
    invoices.query, invoices.headers, invoices.path = {"v": "2"}, {"X-Version": "2"}, "/new"
    invoices.save()
    made = operator.post(f"/messages/{message.public_id}/replay", {"mode": "current"}).json()
    assert (made["path"], made["query"]) == ("/new", {"v": "2", "own": "yes"})
    assert made["headers"] == {"X-Version": "2", "X-Own": "yes"}
    Message.objects.update(status=Status.DEAD)
    edit = {"mode": "current", "headers": {"X-Version": "mine"}}
    made = operator.post(f"/messages/{message.public_id}/replay", edit).json()
    assert made["headers"] == {"X-Version": "mine"}
    Message.objects.update(status=Status.DEAD)
    made = operator.post(f"/messages/{message.public_id}/replay", {"mode": "as_is"}).json()
    assert (made["path"], made["query"]) == ("/invoices", {"v": "1", "own": "yes"})


def test_a_current_replay_drops_what_the_endpoint_no_longer_says(
    operator: Api, invoices: Endpoint, queue: Callable[..., Message]
) -> None:
    """Its own parts are kept apart, also through replays as it is, and through one whose headers were edited."""
    invoices.headers = {"X-Version": "1", "X-Both": "the endpoint's"}
    invoices.save()
    own = {"query": {"v": "own"}, "headers": {"X-Both": "its own"}}
    plain, edited = queue(endpoint="invoices", path=None, **own), queue(endpoint="invoices", path=None, **own)
    invoices.query, invoices.headers = {"page": "1", "v": "2"}, {}
    invoices.save()
    for message, edit, kept in ((plain, {}, {"X-Both": "its own"}), (edited, {"headers": {"X-E": "1"}}, {"X-E": "1"})):
        made = replayed(operator, message, {"mode": "as_is", **edit})
        assert made["query"] == {"v": "own"}
        current = replayed(operator, Message.objects.latest("pk"), {"mode": "current"})
        assert (current["query"], current["headers"]) == ({"page": "1", "v": "own"}, kept)


def test_a_message_without_an_endpoint_can_be_replayed_to_one(
    operator: Api, invoices: Endpoint, queue: Callable[..., Message]
) -> None:
    message = queue(query={"own": "yes"}, headers={"X-Own": "yes"})
    assert message.content.own == {}, "nothing is kept twice"
    made = replayed(operator, message, {"mode": "current", "endpoint": "invoices"})
    assert (made["path"], made["query"]) == ("/invoices", {"v": "1", "own": "yes"})
    assert made["headers"] == {"X-Own": "yes"}


def test_a_current_replay_whose_endpoint_is_gone_is_refused_in_words(
    operator: Api, invoices: Endpoint, queue: Callable[..., Message]
) -> None:
    Endpoint.objects.filter(pk=invoices.pk).update(query={}, headers={})
    gone, to_a_path = queue(endpoint="invoices", path=None), queue()
    Message.objects.update(status=Status.DEAD)
    assert operator.delete("/services/billing/endpoints/invoices").status_code == 204
    refused = operator.post(f"/messages/{gone.public_id}/replay", {"mode": "current"})
    assert "endpoint was deleted" in is_problem(refused, 409)["detail"]
    again = operator.post(f"/messages/{gone.public_id}/replay", {"mode": "as_is"})
    assert again.status_code == 202
    Message.objects.update(status=Status.DEAD)
    is_problem(operator.post(f"/messages/{again.json()['id']}/replay", {"mode": "current"}), 409)
    assert operator.post(f"/messages/{to_a_path.public_id}/replay", {"mode": "current"}).status_code == 202


@pytest.mark.parametrize(
    ("change", "is_its_own"),
    [({}, False), ({"description": "x"}, False), ({"path": "/new"}, True), ({"query": {"v": "2"}}, True)],
)
def test_a_current_replay_whose_endpoint_changed_carries_its_own_webhook_id(
    operator: Api, invoices: Endpoint, queue: Callable[..., Message], change: dict[str, Any], is_its_own: bool
) -> None:
    message = queue(endpoint="invoices", path=None)
    Endpoint.objects.filter(pk=invoices.pk).update(**change)
    made = replayed(operator, message, {"mode": "current"})
    replay = Message.objects.by_public_id(made["id"])
    assert replay
    assert replay.wire_id == (replay.public_id if is_its_own else message.public_id)


def replayed(operator: Api, message: Message, asked: dict[str, Any]) -> dict[str, Any]:
    """Finish the messages, replay one, and return the new message as the API shows it."""
    Message.objects.update(status=Status.DEAD)
    made: dict[str, Any] = operator.post(f"/messages/{message.public_id}/replay", asked).json()
    return made
