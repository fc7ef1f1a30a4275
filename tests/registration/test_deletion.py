"""The deletion of a service with many messages: in steps, while others go on."""

from __future__ import annotations

import time
import tracemalloc
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from integrations.errors import Conflict, Invalid
from integrations.models import (
    Attempt,
    AuditEntry,
    Draft,
    Event,
    Message,
    Operation,
    Runtime,
    Service,
    Status,
    database_now,
)
from integrations.models.operation import Kind, State
from integrations.operators import bulk_operations, traffic
from integrations.policies import pacing
from integrations.registration import deletion, registry
from integrations.schemas.actions import ResumeIn
from integrations.schemas.service import ServiceIn
from tests.support.records import work

pytestmark = pytest.mark.django_db(transaction=True)


def fill(service: Service, count: int, **changes: Any) -> None:
    for start in range(0, count, 1_000):
        drafts = [
            Draft(service, "POST", "/orders", b"{}", "application/json", ordering_key=f"k{number}")
            for number in range(start, min(count, start + 1_000))
        ]
        made = [message.pk for message in Message.objects.accept(drafts)]
        if changes:
            Message.objects.filter(pk__any=made).update(**changes)


def delete(service: Service) -> Operation:
    """Begin a deletion, as if it had begun a while ago."""
    operation = deletion.delete(service, force=True, actor="person ada")
    assert operation is not None
    Operation.objects.filter(pk=operation.pk).update(created_at=timezone.now() - deletion.LAST_ACCEPTED)
    operation.refresh_from_db()
    return operation


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two messages are many."""
    monkeypatch.setattr(deletion, "AT_ONCE", 1)


# ---- many messages --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_deleting_thousands_of_waiting_messages_read_them_all_at_once(billing: Service) -> None:
    """It took 2.9 GiB for 300,000, and PostgreSQL ended the transaction, which idled while Python read them."""
    count = 5_000
    fill(billing, count)
    other = Service.objects.create(name="other", base_url="https://other.example.com")
    with CaptureQueriesContext(connection) as captured:
        operation = delete(billing)
    assert len(captured) < 25
    assert Message.objects.count() == count, "the request deletes nothing"
    statements, steps, peak = 0, 0, 0
    may_follow = True
    while may_follow:
        tracemalloc.start()
        with CaptureQueriesContext(connection) as captured:
            may_follow = bulk_operations.step(operation.pk)
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        statements, steps = max(statements, len(captured)), steps + 1
        fill(other, 1)  # others are accepted between any two steps
    assert statements < 30
    assert peak < 2_000_000, "bytes; a batch of ids, not rows"
    assert steps >= count / pacing.LARGEST_STEP
    work(operation)
    while Operation.objects.get(pk=operation.pk).state == State.RUNNING:
        bulk_operations.step(operation.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.total, operation.succeeded) == (State.FINISHED, count, count)
    assert not Service.objects.filter(name="billing").exists()
    assert Message.objects.count() == steps
    assert AuditEntry.objects.filter(action="service.deleted", target="billing", actor="person ada").exists()


@pytest.mark.slow
def test_cancelling_all_waiting_messages_of_a_service_took_over_an_hour(billing: Service) -> None:
    """200,000 at the pace of replays, 50 a second. Now in steps as large as the database does in some 20 ms."""
    count = 5_000
    fill(billing, count)
    operation = bulk_operations.cancel_waiting(billing, by="person ada")
    with CaptureQueriesContext(connection) as captured:
        work(operation)
    assert (operation.state, operation.succeeded) == (State.FINISHED, count)
    assert set(Message.objects.values_list("status", flat=True)) == {Status.CANCELLED}
    assert len(captured) < 20 * count / pacing.FIRST_STEP
    kept = AuditEntry.objects.get(action="operation.planned")
    assert (kept.actor, kept.reason) == ("person ada", "all waiting messages of billing cancelled")


def test_many_lanes_leave_the_database_to_others_as_one_does(billing: Service) -> None:
    fill(billing, 3 * pacing.FIRST_STEP)
    operation = bulk_operations.cancel_waiting(billing, by="person ada")
    while Operation.objects.get().state == State.PLANNING:
        Operation.objects.update(paced_at=None)
        bulk_operations.advance()
    Operation.objects.update(paced_at=None)
    bulk_operations.advance()
    operation.refresh_from_db()
    done = operation.done
    assert done == pacing.FIRST_STEP
    Operation.objects.update(paced_at=timezone.now() + timedelta(seconds=2))  # as after a long step
    for _ in range(3):  # other lanes
        assert 0 < bulk_operations.advance() <= bulk_operations.ROUND
    operation.refresh_from_db()
    assert operation.done == done
    Operation.objects.update(paced_at=timezone.now() + timedelta(days=1))  # the clock moved back
    bulk_operations.advance()
    operation.refresh_from_db()
    assert operation.done > done


def test_an_operation_rests_while_others_accept_or_call(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took 8 to 33 % of the time, whether others were at work or not: their p95 was up to 1.7 times as long."""
    monkeypatch.setattr(bulk_operations, "SHORTEST_REST", 0.0)
    monkeypatch.setattr(bulk_operations, "_step_takes", lambda: 0.0)  # small ones
    fill(billing, 7 * pacing.FIRST_STEP)
    other = Service.objects.create(name="other", base_url="https://other.example.com")
    operation = bulk_operations.cancel_waiting(billing, by="person ada")

    steps: list[tuple[datetime, float]] = []
    rest = bulk_operations._rest

    def noted(operation: Operation, now: datetime, took: float) -> None:
        steps.append((now, took))
        rest(operation, now, took)

    monkeypatch.setattr(bulk_operations, "_rest", noted)

    def share() -> float:
        """The steps' share of the time, after one step, by its own clock: others may stop this process around it."""
        Operation.objects.update(paced_at=None)
        bulk_operations.step(operation.pk)
        operation.refresh_from_db()
        began, took = steps[-1]
        assert operation.paced_at is not None
        return took / (operation.paced_at - began).total_seconds()

    share()
    assert share() > 0.3, "no other work was done"
    Message.objects.accept([Draft(other, "POST", "/", b"{}", "application/json")])
    assert share() < 0.08
    assert share() > 0.3
    Attempt.objects.create(service=other, started_at=database_now(), outcome="succeeded", trigger="first")
    assert share() < 0.08


def test_the_rest_counts_what_the_commit_took(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for it as for the step: SQLite writes its log back then."""
    monkeypatch.setattr(bulk_operations, "_step_takes", lambda: 0.0)  # small steps
    fill(billing, 3 * pacing.FIRST_STEP)
    operation = bulk_operations.cancel_waiting(billing, by="person ada")
    rest = bulk_operations._rest

    def slow_commit(*arguments: Any) -> None:
        transaction.on_commit(lambda: time.sleep(0.2))
        rest(*arguments)

    bulk_operations.step(operation.pk)
    monkeypatch.setattr(bulk_operations, "_rest", slow_commit)
    for _ in range(2):
        bulk_operations.step(operation.pk)
    operation.refresh_from_db()
    assert operation.paced_at is not None
    assert (operation.paced_at - database_now()).total_seconds() > 0.1, "it rests for as long as the commit took"


# ---- the service until then -----------------------------------------------------------------------------------------
def test_a_service_that_is_deleted_makes_and_accepts_no_call(billing: Service, large: None) -> None:
    fill(billing, 3)
    dead = Message.objects.earliest("pk")
    Message.objects.filter(pk=dead.pk).update(status=Status.DEAD, finished_at=timezone.now(), due_at=None)
    delete(billing)
    billing.refresh_from_db()
    assert billing.status == "deleting"
    assert not Runtime.objects.serving(timezone.now()).exists()
    with pytest.raises(Conflict, match="is being deleted"):
        Message.objects.get(pk=dead.pk).replay()
    with pytest.raises(Conflict, match="not paused"):
        traffic.resume(billing, ResumeIn(), actor="person ada")
    with pytest.raises(Invalid, match="is being deleted"):
        data = ServiceIn(name="billing", base_url="https://billing.example.com", description="new")
        registry.change(billing, data, {"description"}, actor="person ada")
    replay = bulk_operations.plan(Kind.REPLAY, "status:dead", by="person ada", reason="they are back", rate=1_000)
    Operation.objects.filter(pk=replay.pk).update(paced_at=timezone.now() - timedelta(seconds=1))
    work(replay)
    assert (replay.skipped, replay.items.get().detail) == (1, "its service is being deleted")


def test_a_call_in_flight_ends_before_its_service_goes(billing: Service) -> None:
    fill(billing, 2)
    sent = Message.objects.latest("pk")
    Message.objects.filter(pk=sent.pk).update(status=Status.DELIVERING, worker_id=1)
    operation = work(delete(billing))
    assert (operation.state, operation.total, operation.done) == (State.RUNNING, 2, 1)
    assert Message.objects.get() == sent
    Message.objects.filter(pk=sent.pk).update(status=Status.PENDING, worker_id=None)  # it failed and would be retried
    assert work(operation).state == State.FINISHED
    assert not Service.objects.exists()


def test_a_message_that_was_checked_before_the_deletion_began_is_deleted_with_the_others(
    billing: Service, large: None
) -> None:
    fill(billing, 2)
    operation = deletion.delete(billing, force=True, actor="person ada")
    assert operation is not None
    assert work(operation).state == State.RUNNING, "it waits for messages that are being stored"
    fill(billing, 1)
    Operation.objects.update(created_at=timezone.now() - deletion.LAST_ACCEPTED)
    assert work(operation).state == State.FINISHED
    assert (operation.total, operation.succeeded) == (3, 3)


def test_calls_and_events_of_the_service_go_too(billing: Service, large: None) -> None:
    now = timezone.now()
    other = Service.objects.create(name="other", base_url="https://other.example.com")
    for service in (billing, other):
        Attempt.objects.bulk_create(
            Attempt(service=service, trigger="process", started_at=now, outcome="succeeded") for _ in range(3)
        )
        Event.objects.create(type="service.changed", service=service)
    work(delete(billing))
    assert set(Attempt.objects.values_list("service_id", flat=True)) == {other.pk}
    assert set(Event.objects.exclude(service=None).values_list("service_id", flat=True)) == {other.pk}


# ---- its end --------------------------------------------------------------------------------------------------------
def test_a_cancelled_deletion_leaves_the_service_paused(billing: Service, large: None) -> None:
    fill(billing, 3)
    operation = delete(billing)
    bulk_operations.cancel(operation, by="person ada")
    billing.refresh_from_db()
    assert (billing.status, billing.paused_reason) == ("paused", "its deletion was cancelled by person ada")
    again = delete(billing)
    assert again.pk != operation.pk
    assert work(again).state == State.FINISHED


def test_a_deletion_that_stopped_is_begun_again(billing: Service, large: None) -> None:
    fill(billing, 3)
    first = delete(billing)
    Operation.objects.filter(pk=first.pk).update(state=State.STOPPED)
    fill(billing, 1)
    second = delete(billing)
    assert second.pk != first.pk
    assert work(second).state == State.FINISHED


def test_a_step_that_is_killed_is_done_again(billing: Service, large: None) -> None:
    fill(billing, 3)
    operation = delete(billing)
    bulk_operations.step(operation.pk)  # counted
    with pytest.raises(KeyboardInterrupt), transaction.atomic():
        deletion.delete_some(operation, 2, timezone.now())
        raise KeyboardInterrupt
    assert Message.objects.count() == 3
    assert work(operation).succeeded == 3


def test_only_the_deletion_of_a_service_makes_such_an_operation(billing: Service) -> None:
    with pytest.raises(Invalid, match="DELETE /services"):
        bulk_operations.plan(Kind.DELETE, "service:billing", by="person ada", reason="away with it")
