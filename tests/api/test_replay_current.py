"""A replay in mode `current` goes by the endpoint as it is now."""

from __future__ import annotations

from collections.abc import Callable

from integrations.models import Endpoint, Message, Status
from tests.api.calling import Api


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
