"""`POST /messages` on the event loop: the same answers as the view's, in groups that share a transaction."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from django.db import DataError, OperationalError

from dashboard import asgi
from integrations.api.asgi import ingest, routes
from integrations.api.asgi.routes import Capacity
from integrations.models import Draft, IdempotentAnswer, Message, Service
from integrations.models.message import MessageQuerySet
from integrations.registration import endpoints
from integrations.schemas.service import EndpointIn
from tests.support.calling import ROOT, Api
from tests.support.database import locked
from tests.support.serving import Served, close_connections, held
from tests.support.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

MESSAGES = f"{ROOT}/messages"
SENT = {"service": "billing", "path": "/in", "body": {"n": 1}}


@pytest.fixture
def served() -> Iterator[Served]:
    """The whole application."""
    one = Served(asgi.application)
    yield one
    one.close()
    for pool in (ingest._ingest._thread, routes._look_ups._threads, asgi.console.executor):
        close_connections(pool)


@pytest.fixture
def threaded() -> Iterator[Served]:
    """Its WSGI part alone: what answers without the routes ahead of it."""
    one = Served(asgi.console)
    yield one
    one.close()


def post(api: Api, body: Any = SENT, **headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Authorization": f"Bearer {api.secret}", "Content-Type": "application/json"} | named
    return {"method": "POST", "url": MESSAGES, "content": content, "headers": given}


# ---- one rule, two ways ---------------------------------------------------------------------------------------------
REQUESTS: dict[str, tuple[Any, dict[str, str]]] = {
    "plain": (SENT, {}),
    "vendor's JSON": (SENT, {"Content_Type": "application/vnd.x+json; charset=utf-8"}),
    "everything": (
        SENT
        | {"query": {"a": ["1", "2"]}, "headers": {"X-Api-Key": "hush"}, "tags": {"a": "b"}, "ordering_key": "k"}
        | {"deliver_at": "2090-01-01T00:00:00Z", "expires_at": "2091-01-01T00:00:00+02:00"},
        {},
    ),
    "endpoint": ({"service": "billing", "endpoint": "invoices"}, {}),
    "base64": ({"service": "billing", "path": "/", "body_base64": "AAEC", "content_type": "image/x"}, {}),
    "with a key": (SENT, {"Idempotency_Key": "one"}),
    "a key of nothing": (SENT, {"Idempotency_Key": ""}),
    "a key too long": (SENT, {"Idempotency_Key": "x" * 256}),
    "no token": (SENT, {"Authorization": ""}),
    "another scheme": (SENT, {"Authorization": "Basic YTpi"}),
    "a bad token": (SENT, {"Authorization": "Bearer sbt_no"}),
    "not UTF-8": (b'{"service": "\xff"}', {}),
    "not JSON": (b"{", {}),
    "NaN": (b'{"service": NaN}', {}),
    "a name twice": (b'{"service": "a", "service": "b"}', {}),
    "too deep": (b"[" * 100_000, {}),
    "half a pair": (b'{"service": "\\ud800"}', {}),
    "nothing": (b"", {}),
    "nothing, of a wrong type": (b"", {"Content_Type": "text/plain"}),
    "a list": ([], {}),
    "no object": (7, {}),
    "no fields": ({}, {}),
    "a field too many": (SENT | {"colour": "red"}, {}),
    "two faults": (SENT | {"method": "TRACE", "path": "in"}, {}),
    "endpoint and path": (SENT | {"endpoint": "invoices"}, {}),
    "a NUL": (SENT | {"ordering_key": "a\0"}, {}),
    "not base64": ({"service": "billing", "path": "/", "body_base64": "?"}, {}),
    "unknown service": (SENT | {"service": "nobody"}, {}),
    "unknown endpoint": ({"service": "billing", "endpoint": "nothing"}, {}),
    "expired": (SENT | {"expires_at": "2001-01-01T00:00:00Z"}, {}),
    "body too large": (SENT | {"body": "x" * (1024 * 1024)}, {}),
    "request too large": (b" " * (2 * 1024 * 1024 + 1), {}),
    "wrong type": (SENT, {"Content_Type": "text/plain"}),
    "another host": (SENT, {"Host": "evil.example"}),
}


def test_the_view_and_the_route_give_the_same_answers(
    served: Served, threaded: Served, operator: Api, invoices: Any
) -> None:
    for name, (body, headers) in REQUESTS.items():
        request = post(operator, body, **headers)
        (by_route,) = served.send(request)
        IdempotentAnswer.objects.all().delete()
        (by_view,) = threaded.send(request)
        assert told(by_route) == told(by_view), name


def test_a_role_too_low_and_a_repetition_are_the_same_both_ways(
    served: Served, threaded: Served, viewer: Api, operator: Api, billing: Service
) -> None:
    (by_route,), (by_view,) = served.send(post(viewer)), threaded.send(post(viewer))
    assert told(by_route) == told(by_view)
    assert by_route.status_code == 403
    keyed = post(operator, Idempotency_Key="k")
    (first,), (again,), (by_view,) = served.send(keyed), served.send(keyed), threaded.send(keyed)
    assert told(again) == told(by_view)
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    other = post(operator, SENT | {"body": 2}, Idempotency_Key="k")
    (by_route,), (by_view,) = served.send(other), threaded.send(other)
    assert told(by_route) == told(by_view)
    assert by_route.status_code == 409


def test_a_busy_token_is_told_when_to_come_back_both_ways(
    served: Served, threaded: Served, operator: Api, billing: Service, settings: Any
) -> None:
    settings.TOKEN_RATE = 0.5  # never a whole request
    (by_route,), (by_view,) = served.send(post(operator)), threaded.send(post(operator))
    assert told(by_route) == told(by_view)
    assert by_route.status_code == 429


def told(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """An answer without the parts that differ from message to message."""
    assert int(answer.headers.get("content-length", len(answer.content))) == len(answer.content)
    moving = ("date", "content-length")
    headers = {name: MOVING.sub("…", value) for name, value in answer.headers.items() if name not in moving}
    return answer.status_code, headers, MOVING.sub("…", answer.text)


MOVING = re.compile(r"msg_\d+_[0-9a-f]{8}|20(?!9)\d\d-\d\d-\d\dT[\d:.]+Z")


def test_a_chunked_body_is_read_and_bounded(served: Served, operator: Api, billing: Service) -> None:
    def parts(size: int) -> Any:
        async def body() -> Any:
            yield json.dumps(SENT).encode()
            for _ in range(size // 65536):
                yield b" " * 65536

        return post(operator) | {"content": body()}

    small, large = served.send(parts(65536), parts(3 * 1024 * 1024))
    assert (small.status_code, large.status_code) == (202, 413)
    assert Message.objects.count() == 1


# ---- groups ---------------------------------------------------------------------------------------------------------
def together(served: Served, opener: dict[str, Any], *requests: dict[str, Any]) -> list[httpx.Response]:
    """Sends requests that all wait while the opener is stored, and so make one group; all answers, its first."""
    with gathered(served, opener, *requests) as answers:
        pass
    return answers


@contextmanager
def gathered(served: Served, opener: dict[str, Any], *requests: dict[str, Any]) -> Iterator[list[httpx.Response]]:
    """The same, with something to do while they wait; the answers are there at the end."""
    answers: list[httpx.Response] = []
    first: list[httpx.Response] = []
    with held(ingest._ingest._thread):
        opening = threading.Thread(target=lambda: first.extend(served.send(opener)))
        opening.start()
        until(lambda: ingest._ingest._group_began > 0, 30)
        others = threading.Thread(target=lambda: answers.extend(served.send(*requests)))
        others.start()
        until(lambda: len(ingest._ingest._waiting) == len(requests), 30)
        yield answers
    opening.join()
    others.join()
    answers[:0] = first


def test_what_came_together_shares_a_transaction(served: Served, operator: Api, billing: Service) -> None:
    answers = together(served, *(post(operator, SENT | {"body": number}) for number in range(8)))
    assert [(answer.status_code, answer.json()["body"]) for answer in answers] == [(202, n) for n in range(8)]
    assert {answer.json()["id"] for answer in answers} == {message.public_id for message in Message.objects.all()}
    moments = [message.created_at for message in Message.objects.all()]
    assert max(moments.count(moment) for moment in moments) == 7


def test_one_that_is_refused_leaves_the_others_alone(served: Served, operator: Api, billing: Service) -> None:
    requests = [post(operator), post(operator, SENT | {"service": "nobody"}), post(operator, b"{"), post(operator)]
    answers = together(served, post(operator), *requests)
    assert [answer.status_code for answer in answers] == [202, 202, 422, 400, 202]
    assert Message.objects.count() == 3


@pytest.mark.parametrize(("error", "status"), [(DataError, 422), (RuntimeError, 500)])
def test_one_that_breaks_the_transaction_leaves_the_others_alone(
    served: Served,
    operator: Api,
    billing: Service,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    status: int,
) -> None:
    accept = MessageQuerySet.accept

    def break_at_poison(self: MessageQuerySet, drafts: list[Draft], *rest: Any) -> list[Message]:
        accepted = accept(self, drafts, *rest)
        if any(draft.path == "/poison" for draft in drafts):
            raise error("poison")
        return accepted

    monkeypatch.setattr(MessageQuerySet, "accept", break_at_poison)
    poison = post(operator, SENT | {"path": "/poison"}, Idempotency_Key="poison")
    others = [post(operator, Idempotency_Key=f"k{number}") for number in range(3)]
    answers = together(served, post(operator), others[0], poison, *others[1:])
    assert [answer.status_code for answer in answers] == [202, 202, status, 202, 202]
    assert Message.objects.count() == 4
    assert IdempotentAnswer.objects.count() == 3


def test_a_key_that_comes_many_times_at_once_is_done_once(
    served: Served, threaded: Served, operator: Api, billing: Service
) -> None:
    request = post(operator, Idempotency_Key="k")
    by_view: list[httpx.Response] = []
    beside = threading.Thread(target=lambda: by_view.extend(threaded.send(*[request] * 4)))
    beside.start()
    answers = together(served, post(operator), *[request] * 6)[1:]
    beside.join()
    answers += by_view
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sorted("idempotent-replayed" in answer.headers for answer in answers) == [False] + [True] * 9
    assert Message.objects.count() == 2


def test_a_key_whose_first_request_was_refused_is_free_for_the_second(
    served: Served, operator: Api, billing: Service
) -> None:
    first = post(operator, SENT | {"service": "late"}, Idempotency_Key="k")
    second = post(operator, SENT, Idempotency_Key="k")
    answers = together(served, post(operator), first, second)
    assert sorted(answer.status_code for answer in answers) in ([202, 202, 409], [202, 202, 422])
    assert IdempotentAnswer.objects.count() == 1


# ---- when it is too much --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("capacity", [Capacity(2, 1_000_000), Capacity(100, 150)], ids=["requests", "bytes"])
def test_more_than_there_is_room_for_is_told_to_come_back(
    served: Served, operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch, capacity: Capacity
) -> None:
    monkeypatch.setattr(ingest._ingest, "capacity", capacity)
    with gathered(served, post(operator), post(operator)) as answers:
        (refused,) = served.send(post(operator))
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert [answer.status_code for answer in answers] == [202, 202]
    assert served.send(post(operator))[0].status_code == 202
    assert Message.objects.count() == 3


def test_a_slow_database_is_a_503_and_what_still_waited_is_not_stored(
    served: Served, operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hasty, held(ingest._ingest._thread):
        hasty.setattr(ingest, "DATABASE_TIMEOUT", 0.3)
        first, second = served.send(*(post(operator, Idempotency_Key=f"k{number}") for number in range(2)))
        (third,) = served.send(post(operator))
    assert "did not respond in time" in second.json()["detail"]
    assert "does not respond;" in third.json()["detail"], "it waited for a database that is known to hang"
    assert {first.status_code, second.status_code, third.status_code} == {503}
    assert "Idempotency-Key" in first.json()["detail"]
    assert "retry-after" in first.headers
    until(lambda: not ingest._ingest._group_began, 30)
    again = served.send(*(post(operator, Idempotency_Key=f"k{number}") for number in range(2)))
    assert [answer.status_code for answer in again] == [202, 202]
    assert Message.objects.count() == 2  # the one in doubt was stored, and its key found it


def test_a_database_that_fails_is_a_503_for_everybody(
    served: Served, operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise OperationalError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(MessageQuerySet, "accept", gone)
        answers = together(served, *(post(operator) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {503}
    assert served.send(post(operator))[0].status_code == 202


# ---- callers --------------------------------------------------------------------------------------------------------
def test_a_revoked_token_is_let_in_for_a_second_at_most(
    served: Served, operator: Api, billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "recent_callers", routes.RecentCallers())
    assert served.send(post(operator))[0].status_code == 202
    operator.token.delete()
    ((_, ends),) = routes.recent_callers._callers.values()
    assert ends - time.monotonic() <= routes.RecentCallers.KEPT_FOR == 1.0
    until(lambda: served.send(post(operator))[0].status_code == 401, 30)
    assert time.monotonic() >= ends, "it was asked for at once, and nothing was shown"


def test_a_changed_endpoint_counts_at_once(served: Served, operator: Api, billing: Service, invoices: Any) -> None:
    to_endpoint = post(operator, {"service": "billing", "endpoint": "invoices"})
    assert served.send(to_endpoint)[0].json()["path"] == "/invoices"
    endpoints.save(billing, EndpointIn(name="invoices", path="/bills"), actor="person test", endpoint=invoices)
    assert served.send(to_endpoint)[0].json()["path"] == "/bills"


# ---- with busy threads ----------------------------------------------------------------------------------------------
def test_health_and_acceptance_do_not_wait_for_busy_threads(served: Served, operator: Api, billing: Service) -> None:
    with held(asgi.console.executor, asgi.THREADS):
        alive, accepted = served.send({"method": "GET", "url": "/healthz"}, post(operator))
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert alive.headers["x-content-type-options"] == "nosniff"
    assert accepted.status_code == 202


def test_a_server_that_stops_answers_what_it_has_begun(operator: Api, billing: Service) -> None:
    one = Served(asgi.application)
    with gathered(one, *[post(operator)] * 4) as answers:
        one.server.should_exit = True
        until(lambda: not is_open(one), 30)  # the listener accepts no more connections, and the group still waits
    one.thread.join()
    assert [answer.status_code for answer in answers] == [202] * 4
    assert Message.objects.count() == 4
    for pool in (ingest._ingest._thread, routes._look_ups._threads):
        close_connections(pool)


def is_open(one: Served) -> bool:
    try:
        one.send({"method": "GET", "url": "/healthz"})
    except httpx.TransportError:  # refused, or accepted by a listener that closes: there is no answer either way
        return False
    return True


@pytest.mark.servers_only
def test_a_foreign_lock_on_one_service_refuses_its_messages_only(
    served: Served, operator: Api, billing: Service
) -> None:
    """Every POST was a 503 while an open transaction held the row of one service."""
    Service.objects.create(name="crm", base_url="https://crm.example.com")
    with locked(Service.objects.filter(pk=billing.pk)):
        other = post(operator, SENT | {"service": "crm"})
        _, refused, stored = together(served, other, post(operator), other)
    assert (refused.status_code, stored.status_code) == (503, 202)
    assert "may have been accepted" in refused.json()["detail"]
    assert [message.service.name for message in Message.objects.all()] == ["crm", "crm"]
