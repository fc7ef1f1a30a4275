"""A lineage, the first message and all its replays, is one message for bulk replays and for counts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from integrations.delivery import accept
from integrations.models import Draft, Endpoint, Failure, Message, Operation, Service, Status
from integrations.models.operation import Kind
from integrations.models.retention import delete_messages
from integrations.operators import bulk_operations
from integrations.schemas.message import ReplayIn
from integrations.search import grammar, pages
from tests.support.database import locked
from tests.support.records import work

pytestmark = pytest.mark.django_db(transaction=True)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]


def replay_all(q: str = "service:billing status:dead", **fields: Any) -> Operation:
    fields = {"reason": "it is back", "rate": 1_000_000.0, "by": "person ada", **fields}
    return work(bulk_operations.plan(Kind.REPLAY, q, **fields))


def end(message: Message, status: Status = Status.DEAD) -> Message:
    """End a message as its delivery would."""
    Message.objects.filter(pk=message.pk).update(status=status, finished_at=timezone.now(), due_at=None)
    message.refresh_from_db()
    return message


def dead_message(service: Service, path: str = "/orders") -> Message:
    return end(Message.objects.accept([Draft(service, "POST", path, b"{}", "application/json")])[0])


def dead_replay(message: Message) -> Message:
    made, is_new = message.replay()
    assert is_new
    return end(made)


def taken(operation: Operation) -> list[int]:
    return sorted(operation.items.values_list("message_id", flat=True))


def left(q: str = "status:dead") -> list[int]:
    return list(pages.selection(grammar.parse(f"{q} -is:replayed")).order_by("pk").values_list("pk", flat=True))


# ---- what multiplied ------------------------------------------------------------------------------------------------
def test_three_failing_rounds_make_three_calls_each(register: Register, send: Send, deliver: Deliver) -> None:
    service = register(retry={"max_attempts": 1}, breaker={"enabled": False})
    calls: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(500)

    send(service, 3)
    deliver(refuse)
    assert len(calls) == 3
    for _ in range(3):
        calls.clear()
        assert replay_all().total == 3
        deliver(refuse)
        assert len(calls) == 3
    assert Message.objects.dead().count() == 12
    group = Failure.objects.get()
    assert (group.count, group.messages) == (12, 3), "a group counts messages, not their replays"


def test_a_message_that_a_replay_of_its_replay_delivered_is_not_sent_again(billing: Service) -> None:
    first = dead_message(billing)
    end(dead_replay(first).replay()[0], Status.DELIVERED)
    assert left() == []
    assert replay_all().total == 0


def test_a_message_with_an_unfinished_replay_of_its_replay_is_not_sent_again(billing: Service) -> None:
    first = dead_message(billing)
    waiting, _ = dead_replay(first).replay()
    assert left() == []
    assert replay_all().total == 0
    assert first.replay() == (waiting, False)


def test_a_dead_replay_of_a_delivered_message_is_not_sent_again(billing: Service) -> None:
    delivered = end(dead_message(billing), Status.DELIVERED)
    dead_replay(delivered)
    assert replay_all().total == 0
    assert taken(replay_all("status:delivered")) == [delivered.pk], "but on request the delivered one is"


def test_an_edited_replay_belongs_to_the_lineage_of_its_original(billing: Service) -> None:
    Endpoint.objects.create(service=billing, name="other", method="PUT", path="/other")
    first = dead_message(billing)
    edited, _ = accept.replay(first, ReplayIn(endpoint="other", body={"edited": True}))
    end(edited)
    assert taken(replay_all()) == [edited.pk]
    made = Message.objects.get(replay_of=edited)
    assert json.loads(bytes(made.content.body)) == {"edited": True}
    end(made, Status.DELIVERED)
    assert replay_all().total == 0


def test_a_cancelled_replay_leaves_its_original_to_replay(billing: Service) -> None:
    first = dead_message(billing)
    end(first.replay()[0], Status.CANCELLED)
    assert left() == [first.pk]
    assert taken(replay_all("service:billing")) == [first.pk]


def test_two_replays_of_one_message_are_one_lineage(billing: Service) -> None:
    first = dead_message(billing)
    dead_replay(first)
    newest = dead_replay(first)
    assert newest.replay_of == first
    assert taken(replay_all()) == [newest.pk]


def test_the_statuses_have_the_order_that_the_rule_of_lineages_needs() -> None:
    assert sorted(Status.values) == ["cancelled", "dead", "delivered", "delivering", "pending"]


# ---- the parts agree ------------------------------------------------------------------------------------------------
def test_the_page_of_a_group_and_its_operation_count_the_same(register: Register, send: Send, deliver: Deliver) -> None:
    from dashboard.views.failures import _detail_context

    service = register(retry={"max_attempts": 1}, breaker={"enabled": False})
    send(service, 4)
    deliver(lambda request: httpx.Response(500))
    replay_all()
    deliver(lambda request: httpx.Response(500))
    one = Message.objects.dead().latest("pk")
    end(one.replay()[0], Status.DELIVERED)
    context = _detail_context(Failure.objects.get())
    operation = replay_all(context["replay_q"], dry_run=True)
    assert (context["dead"], context["unanswered"]) == (4, 3)
    assert (operation.total, operation.estimate["services"]) == (3, {str(service.pk): 3})
    assert len(left(context["replay_q"])) == 3


def test_a_group_counts_a_message_again_that_failed_in_another_way_before(
    register: Register, send: Send, deliver: Deliver
) -> None:
    service = register(retry={"max_attempts": 1}, breaker={"enabled": False})
    send(service, 1)
    for status in (500, 404, 500):
        deliver(lambda request, status=status: httpx.Response(status))
        replay_all()
    assert dict(Failure.objects.values_list("status_code", "messages")) == {500: 1, 404: 1}


# ---- at the same time -----------------------------------------------------------------------------------------------
def test_an_item_whose_message_got_a_newer_replay_is_skipped(billing: Service) -> None:
    first = dead_message(billing)
    operation = replay_all(dry_run=True)
    dead_replay(first)
    bulk_operations.start(operation, by="person ada")
    work(operation)
    assert (operation.succeeded, operation.skipped) == (0, 1)
    assert "a replay of it is newer" in operation.items.get().detail


def test_two_operations_do_not_both_replay_one_lineage(billing: Service) -> None:
    first = dead_message(billing)
    early = replay_all(dry_run=True)
    newest = dead_replay(first)
    late = replay_all(dry_run=True)
    assert (taken(early), taken(late)) == ([first.pk], [newest.pk])
    for operation in (early, late):
        bulk_operations.start(operation, by="person ada")
    threads = [threading.Thread(target=_work_alone, args=(operation,)) for operation in (early, late)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for operation in (early, late):
        assert work(operation).done == 1, "an item whose lineage was locked waits for a later step"
    assert Message.objects.unfinished().count() == 1
    assert Message.objects.unfinished().get().replay_of == newest


def _work_alone(operation: Operation) -> None:
    try:
        work(operation)
    finally:
        connection.close()


@pytest.mark.servers_only
def test_an_item_waits_while_another_transaction_replays_its_lineage(billing: Service) -> None:
    first = dead_message(billing)
    dead_replay(first)
    operation = replay_all(dry_run=True)
    bulk_operations.start(operation, by="person ada")
    with locked(Message.objects.filter(pk=first.pk)):
        assert work(operation).done == 0
    assert work(operation).succeeded == 1


# ---- history --------------------------------------------------------------------------------------------------------
def test_a_lineage_whose_first_message_was_deleted_is_still_one(billing: Service) -> None:
    first = dead_message(billing)
    second, third = dead_replay(first), dead_replay(first)
    with transaction.atomic():
        delete_messages([first.pk])
    assert left() == [third.pk]
    fourth, _ = second.replay()
    assert third.replay() == (fourth, False)
    end(fourth, Status.DELIVERED)
    assert replay_all().total == 0


def test_replays_that_a_former_version_made_join_their_lineage(billing: Service) -> None:
    first, alone = dead_message(billing), dead_message(billing)
    second = dead_replay(first)
    third = dead_replay(second)
    delivered = end(first.replay()[0], Status.DELIVERED)
    Message.objects.update(lineage_id=None)
    Message.objects.complete_lineages()
    lineages = dict(Message.objects.values_list("pk", "lineage_id"))
    of_first = dict.fromkeys([first.pk, second.pk, third.pk, delivered.pk], first.pk)
    assert lineages == {**of_first, alone.pk: None}
    with CaptureQueriesContext(connection) as captured:
        Message.objects.complete_lineages()
    assert len(captured) == 1


# ---- cost -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_choice_of_a_replay_reads_no_history(billing: Service) -> None:
    """Neither a window of the planning nor the page of a group walks through the messages outside of it."""
    draft = Draft(billing, "POST", "/orders", b"{}", "application/json")
    made = Message.objects.accept([draft] * 3000)
    Message.objects.update(status="delivered", due_at=None, finished_at=timezone.now())
    dead = Message.objects.filter(pk__in=[message.pk for message in made[:30]])
    dead.update(status="dead")
    Message.objects.accept([message.as_replay() for message in dead.select_related("content")])
    Message.objects.accept([draft] * 3000)
    Message.objects.unfinished().update(status="dead", due_at=None, finished_at=timezone.now())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    operation = Operation(kind=Kind.REPLAY, filter="status:dead", created_at=timezone.now())
    for found in (
        bulk_operations._wanted(operation).filter(pk__gt=made[0].pk, pk__lte=made[20].pk).order_by("pk"),
        Message.objects.dead().filter(service=billing).unreplayed().filter(failure=1)[:100],
        Message.objects.lineage_of(made[3].pk).order_by("pk"),
        Message.objects.without_lineage()[:1],
    ):
        plan = found.explain()
        assert not re.search(r"Seq Scan on integrations_message\b|SCAN (integrations_message|U\d)$", plan, re.M), plan
    assert "message_without_lineage" in plan
