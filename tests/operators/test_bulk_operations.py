"""Operations: the same act on many messages, each of them once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from integrations.delivery.claim import claim
from integrations.errors import Conflict, Invalid
from integrations.models import AuditEntry, Draft, Event, Message, Operation, Priority, Runtime, Service, Status
from integrations.models.operation import Kind, State
from integrations.operators import bulk_operations
from integrations.policies import pacing
from tests.support.records import a_worker, in_seconds, work

pytestmark = pytest.mark.django_db(transaction=True)

FAST = 1_000_000.0  # a second: no test waits for a rate


def messages_of(service: Service, count: int, status: Status = Status.DEAD, **fields: Any) -> list[Message]:
    drafts = [Draft(service, "POST", f"/orders/{number}", b"{}", "application/json") for number in range(count)]
    made = Message.objects.accept(drafts)
    changes: dict[str, Any] = {"status": status, **fields}
    if status in (Status.DEAD, Status.DELIVERED, Status.CANCELLED):
        changes |= {"finished_at": timezone.now(), "due_at": None}
    Message.objects.filter(pk__in=[message.pk for message in made]).update(**changes)
    return list(Message.objects.filter(pk__in=[message.pk for message in made]).order_by("pk"))


def plan(kind: Kind = Kind.REPLAY, q: str = "service:billing status:dead", **given: Any) -> Operation:
    given = {"reason": "they are back", "rate": FAST, "by": "person ada", **given}
    return bulk_operations.plan(kind, q, **given)


def outcomes(operation: Operation) -> dict[int, str]:
    return dict(operation.items.values_list("message_id", "outcome"))


# ---- the acts -------------------------------------------------------------------------------------------------------
def test_what_is_dead_is_replayed_behind_everything_else(billing: Service) -> None:
    dead = messages_of(billing, 3)
    operation = work(plan())
    assert (operation.state, operation.total, operation.succeeded) == (State.FINISHED, 3, 3)
    for message in dead:
        (replay,) = message.replays.all()
        assert (replay.priority, replay.operation_id) == (Priority.BULK, operation.pk)
        assert (replay.path, replay.wire_id, bytes(replay.content.body)) == (message.path, message.wire_id, b"{}")
        assert operation.items.get(message_id=message.pk).outcome == "succeeded"
    assert set(Message.objects.filter(pk__in=[one.pk for one in dead]).values_list("status", flat=True)) == {"dead"}


def test_what_waits_is_cancelled(billing: Service) -> None:
    waiting, dead = messages_of(billing, 3, Status.PENDING), messages_of(billing, 1)
    operation = work(plan(Kind.CANCEL, "service:billing"))
    assert outcomes(operation) == dict.fromkeys([message.pk for message in waiting], "succeeded")
    assert {Message.objects.get(pk=message.pk).status for message in waiting} == {Status.CANCELLED}
    assert Message.objects.get(pk=dead[0].pk).status == Status.DEAD


def test_what_is_retried_now_is_due_and_stays_behind_first_tries(billing: Service) -> None:
    later = timezone.now() + timedelta(hours=3)
    (waiting,) = messages_of(billing, 1, Status.PENDING, due_at=later, retry_at=later, priority=Priority.RETRY)
    work(plan(Kind.RETRY_NOW, "status:pending"))
    waiting.refresh_from_db()
    assert waiting.due_at is not None
    assert waiting.due_at <= timezone.now()
    assert (waiting.retry_at, waiting.priority) == (None, Priority.BULK)


def test_replaying_again_finds_nothing_to_do(billing: Service) -> None:
    messages_of(billing, 2)
    work(plan())
    again = work(plan())
    assert (again.state, again.total) == (State.FINISHED, 0)
    assert Message.objects.count() == 4


# ---- the selection --------------------------------------------------------------------------------------------------
def test_the_selection_is_frozen(billing: Service) -> None:
    early = messages_of(billing, 2)
    operation = plan()
    late = messages_of(billing, 2)
    work(operation)
    assert set(outcomes(operation)) == {message.pk for message in early}
    assert not Message.objects.filter(replay_of__in=late).exists()


def test_a_selection_is_planned_window_by_window(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = messages_of(billing, 10)
    monkeypatch.setattr(bulk_operations, "WINDOW", dead[4].pk)  # the first half, then the other one
    operation = plan(dry_run=True)
    assert bulk_operations.step(operation.pk)
    operation.refresh_from_db()
    assert operation.state == State.PLANNING
    work(operation)
    assert (operation.total, operation.estimate["services"]) == (10, {str(billing.pk): 10})
    assert set(outcomes(operation)) == {message.pk for message in dead}


def test_what_finds_too_much_is_stopped_and_says_so(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_operations, "ITEM_LIMIT", 5)
    messages_of(billing, 6)
    operation = work(plan())
    assert (operation.state, operation.done) == (State.STOPPED, 0)
    assert "more than 5 messages" in operation.note
    assert not Message.objects.exclude(replay_of=None).exists()


def test_a_selection_is_a_search(billing: Service) -> None:
    first, second, third = messages_of(billing, 3)
    Message.objects.filter(pk=first.pk).update(last_status_code=503, tags={"customer": "acme"}, ordering_key="a b")
    for q, found in {
        "code:503": [first],
        "tag:customer=acme": [first],
        "'key:a b'": [first],
        "/orders/1": [second],
        f"id:{second.public_id},{third.public_id}": [second, third],
        "service:billing status:dead post": [first, second, third],
        "service:crm": [],
        "failure:fail_1_00000000": [],
    }.items():
        operation = work(plan(q=q, dry_run=True))
        assert set(outcomes(operation)) == {message.pk for message in found}, q


@pytest.mark.parametrize(
    ("q", "words"),
    [(" ", "choose the messages"), ("id:7", "ids of messages"), ("code:many", "code:many"), ("colour:red", "colour")],
)
def test_what_does_not_say_which_messages_is_refused(q: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        plan(q=q)
    assert not Operation.objects.exists()


def test_a_reason_is_needed() -> None:
    with pytest.raises(Invalid, match="a reason is required"):
        plan(reason="")


def test_a_dry_run_says_what_it_would_do_and_then_does_that(billing: Service) -> None:
    dead, delivered = messages_of(billing, 2), messages_of(billing, 1, Status.DELIVERED)
    operation = work(plan(q="service:billing", dry_run=True, reason=""))
    assert (operation.state, operation.total, operation.done) == (State.FINISHED, 3, 0)
    assert operation.estimate["delivered"] == 1
    assert operation.estimate["oldest"] == dead[0].created_at.isoformat()
    assert Message.objects.count() == 3
    messages_of(billing, 1)
    with pytest.raises(Invalid, match="a reason is required"):
        bulk_operations.start(operation, by="person ada")
    bulk_operations.start(operation, by="person ada", reason="yes, these")
    work(operation)
    assert (operation.state, operation.succeeded) == (State.FINISHED, 3)
    assert set(outcomes(operation)) == {message.pk for message in (*dead, *delivered)}
    with pytest.raises(Conflict, match="only a finished dry run"):
        bulk_operations.start(operation, by="person ada")


# ---- item by item ---------------------------------------------------------------------------------------------------
def test_an_item_says_why_it_was_skipped(billing: Service) -> None:
    first, second, *_ = messages_of(billing, 4)
    operation = plan(dry_run=True)
    work(operation)
    first.replay()
    second.delete()
    bulk_operations.start(operation, by="person ada")
    work(operation)
    assert (operation.succeeded, operation.skipped) == (2, 2)
    assert "a replay of it" in operation.items.get(message_id=first.pk).detail
    assert "was deleted" in operation.items.get(outcome="skipped", detail__contains="deleted").detail


def test_what_was_delivered_meanwhile_is_not_cancelled(billing: Service) -> None:
    (waiting,) = messages_of(billing, 1, Status.PENDING)
    operation = work(plan(Kind.CANCEL, "status:pending", dry_run=True))
    Message.objects.filter(pk=waiting.pk).update(status=Status.DELIVERED, finished_at=timezone.now())
    bulk_operations.start(operation, by="person ada")
    work(operation)
    assert operation.items.get().detail == "the message is delivered"
    assert Message.objects.get(pk=waiting.pk).status == Status.DELIVERED


def test_a_bad_item_fails_alone(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = messages_of(billing, 5)
    whole = Message.as_replay

    def but_for_the_third(message: Message, **given: Any) -> Draft:
        if message.pk == dead[2].pk:
            raise ValueError("it cannot be read")
        return whole(message, **given)

    monkeypatch.setattr(Message, "as_replay", but_for_the_third)
    operation = work(plan())
    assert (operation.state, operation.succeeded, operation.failed) == (State.FINISHED, 4, 1)
    assert operation.items.get(outcome="failed").message_id == dead[2].pk
    assert Message.objects.exclude(replay_of=None).count() == 4


def test_a_step_that_cannot_be_done_stops_its_operation_only(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    messages_of(billing, 1)
    broken, sound = plan(), plan(Kind.CANCEL, "status:pending")
    monkeypatch.setattr(Operation, "is_planned", property(lambda operation: {broken.pk: None}[operation.pk]))
    Operation.objects.filter(pk=sound.pk).update(state=State.RUNNING)
    Operation.objects.filter(pk=broken.pk).update(kind="cancel")
    monkeypatch.setattr(bulk_operations, "_freeze", lambda operation, now: 1 / 0)
    bulk_operations.advance()
    broken.refresh_from_db()
    sound.refresh_from_db()
    assert (broken.state, sound.state) == (State.STOPPED, State.FINISHED)
    assert "ZeroDivisionError" in broken.note


# ---- steering -------------------------------------------------------------------------------------------------------
def test_it_is_paused_resumed_and_cancelled(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_operations, "STEP", 2)
    messages_of(billing, 10)
    operation = _planned(plan())
    assert bulk_operations.step(operation.pk)  # the first two
    bulk_operations.pause(operation, by="person ada")
    assert not bulk_operations.step(operation.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.done) == (State.PAUSED, 2)
    with pytest.raises(Conflict, match="the operation is paused"):
        bulk_operations.pause(operation, by="person ada")
    bulk_operations.resume(operation, by="person ada")
    assert bulk_operations.step(operation.pk)
    bulk_operations.cancel(operation, by="person ada")
    assert not bulk_operations.step(operation.pk)
    operation.refresh_from_db()
    assert (operation.state, operation.succeeded) == (State.CANCELLED, 4)
    assert Message.objects.exclude(replay_of=None).count() == 4
    with pytest.raises(Conflict, match="already cancelled"):
        bulk_operations.cancel(operation, by="person ada")


def test_one_that_is_paused_while_it_is_planned_goes_on_with_that(
    billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = messages_of(billing, 3)
    monkeypatch.setattr(bulk_operations, "WINDOW", dead[0].pk)
    operation = plan()
    bulk_operations.step(operation.pk)
    bulk_operations.pause(operation, by="person ada")
    bulk_operations.resume(operation, by="person ada")
    assert operation.state == State.PLANNING
    assert work(operation).succeeded == 3


def test_its_rate_holds_and_can_be_changed(billing: Service) -> None:
    messages_of(billing, 30)
    operation = _planned(plan(rate=10))
    start = timezone.now()
    for seconds, done in ((0, 1), (0, 1), (0.5, 6), (0.6, 7)):
        _at(operation, start + timedelta(seconds=seconds))
        assert operation.done == done
    bulk_operations.change(operation, by="person ada", rate=FAST)
    _at(operation, start + timedelta(seconds=2))
    assert operation.done == 30


@pytest.mark.parametrize("pauses", [False, True])
def test_the_first_second_of_a_rate_sent_two_seconds_worth(billing: Service, pauses: bool) -> None:
    messages_of(billing, 40)
    operation = _planned(plan(rate=10))
    if pauses:  # a resumption is a start, too
        bulk_operations.pause(operation, by="person ada")
        bulk_operations.resume(operation, by="person ada")
    start = timezone.now() + timedelta(minutes=1)
    for tenths in range(10):
        _at(operation, start + timedelta(seconds=tenths / 10))
    assert operation.done == 10
    _at(operation, start + timedelta(seconds=30))  # the workers stood still: half a second is caught up
    assert operation.done == 15


def _at(operation: Operation, now: Any) -> None:
    """One step as if it were that time."""
    operation.refresh_from_db()
    with transaction.atomic():
        bulk_operations._run(operation, now)


def test_it_is_told_and_kept_who_did_what_and_why(billing: Service) -> None:
    messages_of(billing, 2)
    operation = plan()
    bulk_operations.pause(operation, by="token deploy")
    bulk_operations.resume(operation, by="person ada")
    work(operation)
    kept = AuditEntry.objects.filter(target=operation.public_id).order_by("pk").values_list("action", "actor", "reason")
    assert list(kept) == [
        ("operation.planned", "person ada", "they are back"),
        ("operation.paused", "token deploy", "they are back"),
        ("operation.resumed", "person ada", "they are back"),
    ]
    told = list(Event.objects.filter(subject=operation.public_id).order_by("pk"))
    assert told[0].type == "operation.progressed"
    assert told[-1].type == "operation.finished"
    assert told[-1].facts == {
        "kind": "replay",
        "state": "finished",
        "total": 2,
        "done": 2,
        "succeeded": 2,
        "failed": 0,
        "skipped": 0,
    }


# ---- cost -----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_ten_thousand_items_take_few_statements(billing: Service) -> None:
    count = 10_000
    messages_of(billing, count)
    operation = plan()
    with CaptureQueriesContext(connection) as captured:
        work(operation)
    assert operation.succeeded == count
    assert Message.objects.exclude(replay_of=None).count() == count
    # A step's are 15 or so; SQLite's log has an executemany as one.
    assert len(captured) <= 20 * count / bulk_operations.STEP, len(captured)


def test_workers_without_an_operation_ask_once(billing: Service) -> None:
    with CaptureQueriesContext(connection) as captured:
        bulk_operations.advance()
    assert len(captured) == 1


# ---- the calls of an operation --------------------------------------------------------------------------------------
def _called(operation: Operation, *, failed: bool, count: int = 1_000) -> int:
    """Call the messages of an operation that were not called yet, as a lane would; returns how many."""
    now = timezone.now()
    made = Message.objects.filter(operation_id=operation.pk, attempts=0).order_by("pk")[:count]
    for message in made:
        outcome, fault = ("failed", "status") if failed else ("succeeded", "")
        message.attempt_rows.create(
            service_id=message.service_id, trigger="first", started_at=now, duration=0.02, outcome=outcome, fault=fault
        )
        ends = {"status": Status.PENDING} if failed else {"status": Status.DELIVERED, "finished_at": now}
        Message.objects.filter(pk=message.pk).update(attempts=1, calls=1, **ends)
    return len(made)


def test_an_operation_whose_calls_fail_went_on_to_its_end(billing: Service) -> None:
    messages_of(billing, 60)
    operation = _planned(plan(rate=10, stop_at_failure_rate=0.5))
    start = timezone.now() + timedelta(minutes=1)
    for tenths in range(60):
        _at(operation, start + timedelta(seconds=tenths / 10))
        _called(operation, failed=True)
    operation.refresh_from_db()
    assert operation.state == State.STOPPED
    assert operation.note == "5 of its latest 5 calls failed; it was to stop above 50%."
    assert operation.done == Message.objects.exclude(replay_of=None).count() == 5
    assert Event.objects.filter(subject=operation.public_id, type="operation.finished").exists()


def test_an_operation_that_watches_its_calls_ends_with_the_last_of_them(billing: Service) -> None:
    messages_of(billing, 6)
    operation = work(plan(stop_at_failure_rate=0.9))
    assert (operation.state, operation.done) == (State.RUNNING, 6)
    _called(operation, failed=False, count=5)
    assert work(operation).state == State.RUNNING
    _called(operation, failed=True)
    assert work(operation).state == State.FINISHED
    assert operation.pace == operation.pace | {"latest": "000001", "seen": []}


def test_messages_that_cannot_be_acted_on_stop_it_too(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    messages_of(billing, 150)

    def unreadable(message: Message, **given: Any) -> Draft:
        raise ValueError("it cannot be read")

    monkeypatch.setattr(Message, "as_replay", unreadable)
    operation = work(plan(stop_at_failure_rate=0.2))
    assert (operation.state, operation.failed) == (State.STOPPED, bulk_operations.STEP)


def test_a_retry_is_judged_by_the_call_after_it(billing: Service) -> None:
    (waiting,) = messages_of(billing, 1, Status.PENDING, attempts=1, calls=1)
    long_ago = timezone.now() - timedelta(hours=1)
    waiting.attempt_rows.create(service=billing, trigger="first", started_at=long_ago, outcome="failed")
    operation = work(plan(Kind.RETRY_NOW, "status:pending", stop_at_failure_rate=0.5))
    assert (operation.state, operation.done) == (State.RUNNING, 1)
    waiting.attempt_rows.create(
        service=billing, trigger="retry", started_at=timezone.now(), number=2, outcome="succeeded", duration=0.1
    )
    assert work(operation).state == State.FINISHED
    assert (operation.pace or {})["latest"] == "0"


def test_an_adaptive_operation_queues_few_messages_and_halves_when_calls_fail(billing: Service) -> None:
    messages_of(billing, 200)
    operation = _planned(plan(rate="auto"))
    assert (operation.is_adaptive, operation.rate) == (True, pacing.START)
    start, at = timezone.now(), 0.0
    while operation.rate < 16:
        assert at < 60, operation.pace
        at += 0.1
        _at(operation, start + timedelta(seconds=at))
        assert Message.objects.filter(operation_id=operation.pk, attempts=0).count() <= max(4, operation.rate)
        _called(operation, failed=False)
    before = operation.done
    for _ in range(3):
        at += 0.1
        _at(operation, start + timedelta(seconds=at))
        _called(operation, failed=True)
    _at(operation, start + timedelta(seconds=at + 0.1))
    assert operation.rate == 8
    assert "calls failed at 16 a second" in (operation.pace or {})["auto"]["why"]
    assert operation.done - before < 5
    done = operation.done
    _at(operation, start + timedelta(seconds=at + 0.9))
    assert operation.done == done, "it is silent at first"
    bulk_operations.change(operation, by="person ada", rate=20)
    assert (operation.is_adaptive, operation.rate) == (False, 20)


def test_an_adaptive_operation_waits_for_an_open_breaker(billing: Service) -> None:
    messages_of(billing, 3)
    Runtime.objects.filter(pk=billing.pk).update(state="open")
    operation = work(plan(rate="auto"))
    assert (operation.state, operation.done) == (State.RUNNING, 0)


@pytest.mark.parametrize(
    ("consecutive", "careful", "claimed"), [(0, True, 4), (3, True, 1), (4, True, 0), (3, False, 8)]
)
def test_calls_of_an_adaptive_operation_leave_the_breaker_room(
    billing: Service, consecutive: int, careful: bool, claimed: int
) -> None:
    messages_of(billing, 8, Status.PENDING, priority=Priority.BULK)
    Runtime.objects.filter(pk=billing.pk).update(
        consecutive=consecutive, careful_until=in_seconds(3) if careful else None
    )
    claims = claim(a_worker().pk, 100)
    assert len(claims) == claimed
    # Their results are written at once: until then no other is called, and the pace stood below its rate for that.
    assert all(one.blocks_others is careful for one in claims)
    assert not claim(a_worker().pk, 100)


def test_only_calls_set_a_pace(billing: Service) -> None:
    with pytest.raises(Invalid, match="cancelling makes no calls"):
        plan(Kind.CANCEL, "status:pending", rate="auto")


def _planned(operation: Operation) -> Operation:
    """Plan it to the end: earlier tests of a run have used up ids, and each step searches some thousands."""
    while operation.state == State.PLANNING:
        bulk_operations.step(operation.pk)
        operation.refresh_from_db()
    return operation
