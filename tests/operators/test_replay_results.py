"""The result of a bulk replay: counted on request, and kept once it is final."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from integrations.models import Event, Message, Operation, Status
from integrations.models.operation import Kind, State
from integrations.models.retention import delete_messages
from integrations.operators import bulk_operations, replay_results
from integrations.operators.replay_results import ReplayResult, results_of
from tests.support.records import work
from tests.support.signed_in import a_service, messages_of, with_content

pytestmark = pytest.mark.django_db


def a_replay(count: int = 3) -> Operation:
    with_content(messages_of(a_service(), Status.DEAD, count))
    return work(bulk_operations.plan(Kind.REPLAY, "status:dead", by="person ada", reason="They are back", rate=1e6))


def end(operation: Operation, *statuses: Status) -> None:
    """End the first messages that it made."""
    made = Message.objects.filter(operation_id=operation.pk).order_by("pk")
    for message, status in zip(made, statuses, strict=False):
        Message.objects.filter(pk=message.pk).update(status=status, finished_at=timezone.now(), due_at=None)


def kept(operation: Operation) -> Any:
    operation.refresh_from_db()
    return operation.estimate.get("result")


def test_a_result_is_kept_once_all_its_messages_are_finished_and_outlives_them() -> None:
    operation = a_replay()
    end(operation, Status.DELIVERED, Status.DEAD)
    assert results_of([operation])[operation.pk] == ReplayResult(delivered=1, dead=1, unfinished=1)
    assert replay_results.keep(timezone.now()) == 0
    assert kept(operation) is None
    end(operation, Status.DELIVERED, Status.DEAD, Status.CANCELLED)
    before = Event.objects.count()
    assert replay_results.keep(timezone.now()) == 1
    assert Event.objects.count() == before + 1, "pages learn of it"
    assert replay_results.keep(timezone.now()) == 0
    final = ReplayResult(delivered=1, dead=1, cancelled=1)
    delete_messages(list(Message.objects.filter(operation_id=operation.pk).values_list("pk", flat=True)))
    assert kept(operation)
    assert results_of([operation], count=False) == {operation.pk: final}


def test_what_retention_has_deleted_before_is_in_no_count() -> None:
    operation = a_replay()
    end(operation, Status.DELIVERED, Status.DELIVERED, Status.DELIVERED)
    newest = Message.objects.filter(operation_id=operation.pk).order_by("-pk").values_list("pk", flat=True)[0]
    delete_messages([newest])
    assert results_of([operation])[operation.pk].total == 2


def test_a_page_counts_small_operations_only_and_workers_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = a_replay(3)
    end(operation, Status.DELIVERED, Status.DELIVERED, Status.DELIVERED)
    monkeypatch.setattr(replay_results, "COUNTED_AT_ONCE", 2)
    assert results_of([operation]) == {}
    assert replay_results.keep(timezone.now()) == 1
    assert kept(operation)
    assert results_of([operation])[operation.pk].delivered == 3


def test_operations_take_turns_so_that_one_with_a_held_message_keeps_none_from_its_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay_results, "LOOKED_AT", 1)
    waiting = a_replay(1)
    with_content(messages_of(a_service("crm"), Status.DEAD, 1))
    done = work(bulk_operations.plan(Kind.REPLAY, "service:crm", by="person ada", reason="They are back", rate=1e6))
    end(done, Status.DELIVERED)
    now = timezone.now()
    for second in range(2):
        replay_results.keep(now + timedelta(seconds=second))
    assert kept(done)
    assert not kept(waiting)


def test_only_ended_replays_have_a_result() -> None:
    messages_of(a_service(), Status.PENDING, 1)
    cancelled = work(bulk_operations.plan(Kind.CANCEL, "status:pending", by="person ada", reason="Wrong customer"))
    running = Operation.objects.create(kind=Kind.REPLAY, filter="x", rate=1, state=State.RUNNING, created_by="a")
    assert results_of([cancelled, running]) == {}
    assert replay_results.keep(timezone.now()) == 0
