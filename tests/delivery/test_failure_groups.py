"""Failed calls become groups while they are settled: counted by increments, opened, resolved, regressed, ignored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from integrations.delivery import failure_groups
from integrations.errors import Invalid
from integrations.models import Attempt, AuditEntry, Event, Failure, FailureHour, Message, Result, Service, database_now
from integrations.models.failure import FailureQuerySet
from integrations.operators import failures
from integrations.schemas.actions import FailureIn
from integrations.workers import housekeeping

pytestmark = pytest.mark.django_db(transaction=True)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]


@pytest.fixture
def service(register: Register) -> Service:
    return register(breaker={"enabled": False}, retry={"budget": 1})


def answer(status_code: int = 500, words: str = "no stock for 17") -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status_code, text=words)


def decide(failure: Failure, **fields: Any) -> Failure:
    return failures.change(failure, FailureIn.model_validate(fields), actor="person ada")


def events(type_: str) -> list[str]:
    return list(Event.objects.filter(type=type_).order_by("pk").values_list("subject", flat=True))


def test_calls_that_fail_alike_are_one_group(service: Service, send: Send, deliver: Deliver) -> None:
    messages = send(service, 3)
    deliver(answer())  # each is called twice and dies

    group = Failure.objects.get()
    assert (group.count, group.messages, group.state, group.status_code) == (6, 3, "open", 500)
    assert group.title == "500 Internal Server Error: no stock for …"
    assert group.because["phase"] == "answer"
    assert group.first_seen <= group.last_seen
    assert group.sample_id in {message.pk for message in messages}
    assert Attempt.objects.get(pk=group.attempt_id).outcome == "failed"
    assert set(Message.objects.dead().values_list("failure_id", flat=True)) == {group.pk}
    assert sum(FailureHour.objects.filter(failure=group).values_list("count", flat=True)) == 6
    assert events("failure.opened") == [group.public_id]
    assert Event.objects.get(type="failure.opened").service_id == service.pk


def test_a_message_belongs_to_the_group_of_its_last_failure(service: Service, send: Send, deliver: Deliver) -> None:
    answers = iter([500, 502])
    (message,) = send(service)
    deliver(lambda request: httpx.Response(next(answers)))

    first, second = Failure.objects.order_by("pk")
    assert [(group.status_code, group.messages, group.count) for group in (first, second)] == [(500, 1, 1), (502, 1, 1)]
    assert Message.objects.get(pk=message.pk).failure_id == second.pk


def test_what_succeeds_later_keeps_the_group_of_its_failure(service: Service, send: Send, deliver: Deliver) -> None:
    answers = iter([500, 204])
    (message,) = send(service)
    deliver(lambda request: httpx.Response(next(answers)))
    message.refresh_from_db()
    assert (message.status, message.failure_id) == ("delivered", Failure.objects.get().pk)


def test_a_success_pays_nothing(service: Service, send: Send, deliver: Deliver) -> None:
    send(service, 2)
    with CaptureQueriesContext(connection) as captured:
        deliver(answer(204))
    assert Message.objects.filter(status="delivered").count() == 2
    asked = [query["sql"] for query in captured if "failure" in query["sql"].lower() and "INSERT" in query["sql"]]
    assert not [sql for sql in asked if "integrations_failure" in sql]


def test_a_resolved_group_that_fails_again_is_regressed(service: Service, send: Send, deliver: Deliver) -> None:
    send(service)
    deliver(answer())
    group = decide(Failure.objects.get(), state="resolved")
    assert group.resolved_at is not None
    assert events("failure.resolved") == [group.public_id]

    send(service)
    deliver(answer())
    group.refresh_from_db()
    assert (group.state, group.count, group.messages) == ("regressed", 4, 2)
    assert events("failure.regressed") == [group.public_id]
    assert [entry.action for entry in AuditEntry.objects.filter(target=group.public_id)] == ["failure.resolved"]


def test_a_call_from_before_the_resolution_reopens_nothing(service: Service, send: Send, deliver: Deliver) -> None:
    send(service)
    deliver(answer())
    group = decide(Failure.objects.get(), state="resolved")
    late = _attempt(service, started_at=group.resolved_at - timedelta(seconds=1))
    failure_groups.record([late], [None], database_now())
    group.refresh_from_db()
    assert (group.state, group.count) == ("resolved", 3)
    assert events("failure.regressed") == []


def test_ignoring_ends_by_itself_without_another_failed_call(service: Service, send: Send, deliver: Deliver) -> None:
    send(service)
    deliver(answer())
    group = decide(Failure.objects.get(), state="ignored", ignored_until="2040-01-01T00:00:00Z")
    housekeeping.sweep()
    group.refresh_from_db()
    assert group.state == "ignored"
    Failure.objects.update(ignored_until=database_now() - timedelta(seconds=1))
    for _ in range(2):
        housekeeping.sweep()
    group.refresh_from_db()
    assert (group.state, group.ignored_until) == ("open", None)
    assert events("failure.opened") == [group.public_id] * 2
    entry = AuditEntry.objects.get(action="failure.open")
    assert (entry.actor, entry.before["state"], entry.after["state"]) == ("switchboard", "ignored", "open")


def test_an_ignored_group_is_quiet_until_its_time(service: Service, send: Send, deliver: Deliver) -> None:
    send(service)
    deliver(answer())
    group = decide(Failure.objects.get(), state="ignored", ignored_until="2040-01-01T00:00:00Z")
    failure_groups.record([_attempt(service)], [None], database_now())
    group.refresh_from_db()
    assert (group.state, group.count) == ("ignored", 3)

    Failure.objects.update(ignored_until=database_now() - timedelta(seconds=1))
    failure_groups.record([_attempt(service)], [None], database_now())
    group.refresh_from_db()
    assert (group.state, group.ignored_until) == ("open", None)
    assert events("failure.opened") == [group.public_id] * 2

    decide(group, state="ignored")  # forever
    failure_groups.record([_attempt(service)], [None], database_now())
    group.refresh_from_db()
    assert group.state == "ignored"


def test_random_answers_do_not_fill_the_list(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_groups, "MAX_GROUPS", 3)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    for batch in (words[:4], words[4:], words[:1]):
        failure_groups.record(
            [_attempt(service, body=word.encode()) for word in batch], [None] * len(batch), database_now()
        )
    failure_groups.record([_attempt(service, body=b"eta", status_code=404)], [None], database_now())

    counts = dict(Failure.objects.values_list("title", "count"))
    error = "500 Internal Server Error"
    assert counts == {
        f"{error}: alpha": 2,
        f"{error}: beta": 1,
        f"{error}: gamma": 1,
        f"{error}: other answers": 3,
        "404 Not Found: other answers": 1,  # different status codes never meet
    }
    other = Failure.objects.get(title=f"{error}: other answers")
    assert "more kinds" in other.because["other"]


def test_what_cannot_be_grouped_is_delivered_all_the_same(
    service: Service, send: Send, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT no_such_column FROM integrations_failure")  # a transaction is aborted by it

    monkeypatch.setattr(FailureQuerySet, "add", broken)
    (message,) = send(service)
    deliver(answer())
    message.refresh_from_db()
    assert (message.status, message.calls, message.failure_id) == ("dead", 2, None)
    assert message.attempt_rows.count() == 2


def test_two_that_write_the_same_groups_do_not_block_each_other(service: Service) -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    rounds, errors = 12, []
    barrier = threading.Barrier(2)

    def write(order: list[str]) -> None:
        try:
            barrier.wait(30)
            for _ in range(rounds):
                attempts = [_attempt(service, body=word.encode()) for word in order]
                if len(failure_groups.record(attempts, [None] * len(order), database_now())) != len(order):
                    errors.append("not all were grouped")
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(order,)) for order in (words, words[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert set(Failure.objects.values_list("count", flat=True)) == {2 * rounds}
    assert Failure.objects.count() == len(words)
    assert len(events("failure.opened")) == len(words)


def test_counts_by_hour_are_taken_away_after_a_day(service: Service) -> None:
    now = database_now()
    failure_groups.record([_attempt(service)], [None], now - timedelta(hours=30))
    failure_groups.record([_attempt(service)], [None], now)
    assert failure_groups.prune(now) == 1
    assert FailureHour.objects.count() == 1


def test_a_decision_is_kept_with_who_made_it(service: Service) -> None:
    failure_groups.record([_attempt(service)], [None], database_now())
    group = decide(Failure.objects.get(), note="see https://wiki.example/stock")
    entry = AuditEntry.objects.get(target=group.public_id)
    assert (entry.action, entry.actor, entry.after) == (
        "failure.changed",
        "person ada",
        {"note": "see https://wiki.example/stock"},
    )
    decide(group, note="see https://wiki.example/stock")  # nothing new
    assert AuditEntry.objects.filter(target=group.public_id).count() == 1
    with pytest.raises(Invalid):
        decide(group, assignee="nobody-of-that-name")
    with pytest.raises(Invalid):
        decide(group, state="resolved", ignored_until="2040-01-01T00:00:00Z")
    with pytest.raises(Invalid):
        decide(group, state="ignored", ignored_until="2020-01-01T00:00:00Z")


def test_what_needs_attention_begins_with_what_came_back(service: Service) -> None:
    words = {"open-few": 1, "open-many": 3, "regressed": 1, "resolved": 9, "ignored": 9}
    for title, messages in words.items():
        failure_groups.record([_attempt(service, body=title.encode())], [None], database_now())
        Failure.objects.filter(title__endswith=title).update(state=title.split("-")[0], messages=messages)
    wanted = ["regressed", "open-many", "open-few"]
    assert [group.because["text"] for group in failures.needing_attention(database_now())] == wanted


def test_a_group_goes_with_its_service(service: Service, send: Send, deliver: Deliver) -> None:
    send(service)
    deliver(answer())
    service.delete()
    assert not Failure.objects.exists()
    assert not FailureHour.objects.exists()


def _attempt(service: Service, *, body: bytes = b"no stock for 17", **changes: Any) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "id": 1,
        "message_id": None,
        "service_id": service.pk,
        "endpoint_id": None,
        "outcome": Result.FAILED,
        "fault": "status",
        "status_code": 500,
        "detail": "",
        "response_body": body,
        "timings": {"first_byte": 0.1},
        "started_at": database_now(),
    }
    _numbers.append(1)
    return {**columns, "id": len(_numbers), **changes}


_numbers: list[int] = []
