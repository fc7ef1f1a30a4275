"""Rows older than their retention are pruned, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.test.utils import CaptureQueriesContext

from integrations.errors import Conflict
from integrations.history import event_stream, retention
from integrations.models import (
    Attempt,
    AuditEntry,
    Draft,
    Event,
    FieldValue,
    Item,
    Message,
    MessageContent,
    Operation,
    Retention,
    Service,
    Status,
    Tally,
    Worker,
    database_now,
)
from integrations.models.retention import delete_messages
from integrations.registration import deletion
from integrations.workers import housekeeping

pytestmark = pytest.mark.django_db(transaction=True)

DAY = timedelta(days=1)
MOMENT = timedelta(minutes=1)  # no test takes as long
OF_A_MESSAGE = (Message, MessageContent, FieldValue, Attempt)

History = Callable[..., list[Message]]


@pytest.fixture
def service() -> Service:
    return Service.objects.create(name="sink", base_url="https://api.example.com", search_fields=["order"])


@pytest.fixture
def history(service: Service) -> History:
    """Finished messages with their calls: `history(3, age=91 * DAY)`."""

    def some(count: int = 1, *, age: timedelta = 91 * DAY, **fields: Any) -> list[Message]:
        draft = Draft(service, "POST", "/hook", b'{"order": 7}', "application/json")
        at = database_now() - age
        made = Message.objects.accept([draft] * count)
        ids = [message.pk for message in made]
        Message.objects.filter(pk__in=ids).update(
            **{"status": Status.DELIVERED, "created_at": at - MOMENT, "finished_at": at, "due_at": None, **fields}
        )
        Attempt.objects.bulk_create(_call(service, at, message_id=pk, number=1) for pk in ids)
        return made

    return some


def _call(service: Service, at: datetime, **fields: Any) -> Attempt:
    return Attempt(service=service, started_at=at, outcome="succeeded", **{"trigger": "first", **fields})


def prune(slices: int = 200) -> None:
    """Run slices until it rests; a restart is a pass of its own."""
    Retention.objects.current()
    Retention.objects.update(rests_until=database_now() - MOMENT)
    for _ in range(slices):
        retention.advance()
        if Retention.objects.get().rests_until > database_now():
            return
    pytest.fail("it does not come to an end")


def left(found: models.Manager[Any] | models.QuerySet[Any] = Message.objects) -> set[int]:
    return set(found.values_list("pk", flat=True))


# ---- pruned -------------------------------------------------------------------------------------------------------
def test_a_message_goes_with_all_that_is_its_own_when_its_days_are_over(history: History) -> None:
    history(2, age=90 * DAY + MOMENT)
    (kept,) = history(age=90 * DAY - MOMENT)
    prune()
    assert left() == {kept.pk}
    for model in (FieldValue, Attempt):
        assert set(model.objects.values_list("message_id", flat=True)) == {kept.pk}
    assert left(MessageContent.objects) == {kept.pk}


@pytest.mark.parametrize("status", [Status.DEAD, Status.CANCELLED])
def test_the_dead_and_the_cancelled_go_too(history: History, status: Status) -> None:
    history(status=status)
    prune()
    assert not left()


@pytest.mark.parametrize("status", [Status.PENDING, Status.DELIVERING])
def test_what_is_not_finished_stays_however_old_it_is(history: History, status: Status) -> None:
    waiting = history(3, age=2000 * DAY, status=status, finished_at=None)
    history(2)
    prune()
    assert left() == {message.pk for message in waiting}
    assert Attempt.objects.count() == 3


def test_what_was_accepted_long_ago_counts_from_its_end(history: History) -> None:
    history()
    (late,) = history(age=91 * DAY, finished_at=database_now() - DAY)
    history()
    prune()
    assert left() == {late.pk}


def test_what_has_to_stay_is_passed_over_and_looked_at_again(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 3)
    waiting = history(7, status=Status.PENDING, finished_at=None)
    history(8)
    (young,) = history(age=DAY)
    prune()
    assert left() == {young.pk, *(message.pk for message in waiting)}
    Message.objects.filter(status=Status.PENDING).update(
        status=Status.DELIVERED, finished_at=young.created_at - 90 * DAY
    )
    prune()
    assert left() == {young.pk}


def test_for_ever_is_for_ever(history: History, service: Service) -> None:
    history(age=3000 * DAY)
    Event.objects.create(type="service.created", at=database_now() - 3000 * DAY, service=service)
    retention.change({"messages_days": None}, actor="person ada")
    prune()
    assert Message.objects.count() == Event.objects.count() == 1


def test_calls_without_a_message_go_by_the_same_days(service: Service) -> None:
    other = Service.objects.create(name="other", base_url="https://other.example.com")
    now = database_now()
    for one in (service, other):
        Attempt.objects.bulk_create(_call(one, now - 91 * DAY, trigger="process") for _ in range(3))
        _call(one, now - 89 * DAY, trigger="lab").save()
    prune()
    assert set(Attempt.objects.values_list("trigger", "service__name")) == {("lab", "sink"), ("lab", "other")}
    assert Attempt.objects.count() == 2


def test_audit_entries_stay_unless_an_admin_says_how_long() -> None:
    now = database_now()
    old = AuditEntry.objects.create(at=now - 401 * DAY, actor="person ada", action="service.paused", target="sink")
    young = AuditEntry.objects.create(at=now - 399 * DAY, actor="person ada", action="service.paused", target="sink")
    prune()
    assert left(AuditEntry.objects) == {old.pk, young.pk}
    retention.change({"audit_days": 400}, actor="person ada")
    prune()
    actions = AuditEntry.objects.order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["service.paused", "retention.changed"]


def test_workers_that_stopped_a_month_ago_go() -> None:
    now = database_now()
    facts = {"cluster": "test", "host": "test", "pid": 1, "started_at": now, "heartbeat_at": now, "lease_until": now}
    Worker.objects.create(**facts, stopped_at=now - 31 * DAY)
    stay = [Worker.objects.create(**facts, stopped_at=stopped).pk for stopped in (now - 29 * DAY, None)]
    prune()
    assert left(Worker.objects) == set(stay)


def test_counters_stay_for_ever(history: History, service: Service) -> None:
    Tally.objects.create(service=service, start=database_now() - 2 * MOMENT, calls=3, delivered=3)
    history(3)
    prune()
    assert Tally.objects.get().delivered == 3


# ---- what points at it ----------------------------------------------------------------------------------------------
def test_a_replay_outlives_its_original(history: History) -> None:
    (original,) = history()
    (replay,) = history(age=DAY, replay_of=original, webhook_id=original.public_id)
    prune()
    replay.refresh_from_db()
    assert left() == {replay.pk}
    assert replay.replay_of is None
    assert replay.wire_id == original.public_id


def test_an_original_stays_until_its_replay_has_ended(history: History) -> None:
    (original,) = history()
    (replay,) = history(age=DAY, replay_of=original, status=Status.DELIVERING, finished_at=None)
    prune()
    assert left() == {original.pk, replay.pk}


def test_who_replays_what_has_just_gone_is_told(history: History) -> None:
    (message,) = history()
    prune()
    with pytest.raises(Conflict, match="no longer kept"):
        message.replay()


@pytest.mark.parametrize("state", ["planning", "running", "paused"])
def test_what_an_open_operation_names_stays(history: History, state: str) -> None:
    named, _ = history(2)
    operation = _operation(named, state=state, finished_at=None)
    prune()
    assert left() == {named.pk}
    assert operation.items.count() == 1
    Operation.objects.update(state="finished", finished_at=database_now())
    prune()
    assert not left()
    assert Operation.objects.count() == 1  # it has just ended


def test_an_operation_goes_after_the_last_message_that_it_names(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ITEMS_READ", 2)
    monkeypatch.setattr(retention, "STEP", 2)
    (late,) = history(age=DAY)
    gone = history(5)
    _operation(*gone)
    stays = _operation(late, *gone)
    prune()
    assert left(Operation.objects) == {stays.pk}
    assert set(Item.objects.values_list("operation_id", flat=True)) == {stays.pk}
    assert stays.items.count() == 6
    Message.objects.update(finished_at=database_now() - 91 * DAY)
    prune()
    assert not Operation.objects.exists()
    assert not Item.objects.exists()


def test_a_dry_run_that_is_going_cannot_be_started(history: History) -> None:
    operation = _operation(*history(2), dry_run=True)
    prune()
    assert not Operation.objects.filter(pk=operation.pk).exists()
    going = _operation(*history(2), dry_run=True)
    Message.objects.all().delete()
    assert retention._operations(Retention.objects.current(), database_now())
    going.refresh_from_db()
    assert not going.may_start


def _operation(*messages: Message, **fields: Any) -> Operation:
    ended = database_now() - 91 * DAY
    given = {"kind": "replay", "filter": "is:dead", "rate": 50, "state": "finished", "finished_at": ended}
    operation = Operation.objects.create(**{**given, "created_by": "person ada", "total": len(messages), **fields})
    Item.objects.bulk_create(Item(operation=operation, message_id=message.pk) for message in messages)
    return operation


def test_events_go_and_who_resumes_from_before_them_is_told_so(service: Service) -> None:
    now = database_now()
    event_stream.advance()
    for age in (100, 95, 91, 89, 1):
        Event.objects.create(type="breaker.opened", at=now - age * DAY, service=service, position=None)
    numbered = event_stream.advance()
    positions = list(Event.objects.order_by("pk").values_list("position", flat=True))
    prune()
    assert list(Event.objects.order_by("pk").values_list("position", flat=True)) == positions[3:]
    stands = type(numbered).objects.get()
    assert stands.floor == positions[2] > 0
    assert stands.position == numbered.position


def test_an_ordering_key_goes_on_behind_what_has_gone(history: History, service: Service) -> None:
    history(3, ordering_key="a")
    draft = Draft(service, "POST", "/hook", b"{}", "application/json", ordering_key="a")
    ahead, behind = Message.objects.accept([draft, draft])
    Message.objects.filter(pk=behind.pk).update(parked=True, due_at=None)
    prune()
    housekeeping.unpark_stuck()
    assert left() == {ahead.pk, behind.pk}
    assert Message.objects.get(pk=behind.pk).parked
    Message.objects.filter(pk=ahead.pk).update(
        status=Status.DELIVERED, due_at=None, finished_at=database_now() - 91 * DAY
    )
    prune()
    housekeeping.unpark_stuck()
    assert left() == {behind.pk}
    assert not Message.objects.get(pk=behind.pk).parked


# ---- how it goes ----------------------------------------------------------------------------------------------------
def test_a_step_is_bounded_and_a_stop_in_the_middle_leaves_whole_messages(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 4)
    history(10)
    assert retention._messages(Retention.objects.current(), database_now())
    for model in OF_A_MESSAGE:
        assert model._default_manager.count() == 6, model

    def killed(ids: list[int]) -> None:
        whole(ids)
        raise KeyboardInterrupt

    whole = delete_messages
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(retention, "delete_messages", killed)
        retention.advance()
    for model in OF_A_MESSAGE:
        assert model._default_manager.count() == 6, model
    prune()
    assert not left()


def test_it_rests_when_nothing_is_left_and_a_decision_wakes_it(history: History) -> None:
    prune()
    history()
    with CaptureQueriesContext(connection) as captured:
        retention.advance()
    assert len(captured) <= 3, "the two rows, and the database's clock"
    assert left()
    retention.change({"messages_days": 60}, actor="person ada")
    retention.advance()
    assert not left()


def test_nothing_goes_by_a_bound_that_was_changed_meanwhile(history: History) -> None:
    history()
    as_decided = Retention.objects.current()
    retention.change({"messages_days": None}, actor="person ada")
    with pytest.raises(retention.Busy):
        retention._messages(as_decided, database_now())
    assert left()


def test_a_fault_of_ours_does_not_keep_the_workers_from_their_messages(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(kept: Retention, now: datetime) -> bool:
        raise LookupError("a bug")

    monkeypatch.setattr(retention, "STEPS", (broken,))
    housekeeping.sweep()
    assert Retention.objects.get().rests_until > database_now(), "the log is not filled every second"


def test_two_at_once_delete_everything_once(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "STEP", 5)
    history(60)
    waiting = history(20, status=Status.PENDING, finished_at=None)
    Retention.objects.current()
    start = Barrier(2)

    def work() -> None:
        try:
            start.wait(10)
            for _ in range(20):
                retention.advance()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work), pool.submit(work)]:
            done.result()
    prune()
    assert left() == {message.pk for message in waiting}
    assert left(MessageContent.objects) == left()


@pytest.mark.servers_only
def test_what_somebody_holds_is_passed_over(history: History) -> None:
    held, _ = history(2)
    with ThreadPoolExecutor(1) as elsewhere, transaction.atomic():
        Message.objects.select_for_update().get(pk=held.pk)

        def work() -> None:
            try:
                prune()
            finally:
                connection.close()

        elsewhere.submit(work).result(30)
        assert left() == {held.pk}
    prune()
    assert not left()


# ---- a whole service ------------------------------------------------------------------------------------------------
def test_a_service_goes_with_its_history_in_small_steps(
    history: History, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 4)
    other = Service.objects.create(name="other", base_url="https://other.example.com")
    history(9, age=DAY)
    history(2, age=DAY, replay_of=Message.objects.earliest("pk"))
    Attempt.objects.bulk_create(_call(one, database_now(), trigger="process") for one in [service] * 5 + [other])
    with CaptureQueriesContext(connection) as captured:
        deletion.delete(service, force=False, actor="person ada")
    assert not Message.objects.exists()
    assert not MessageContent.objects.exists()
    assert Attempt.objects.get().service == other
    assert not Service.objects.filter(name="sink").exists()
    rows = [query["sql"] for query in captured if query["sql"].startswith("DELETE FROM integrations_message WHERE")]
    assert len(rows) == 3, "eleven messages, four at a time"


def test_a_service_that_has_to_stay_keeps_its_history(history: History, service: Service) -> None:
    history(3)
    history(1, status=Status.DELIVERING, finished_at=None)
    with pytest.raises(Conflict):
        deletion.delete(service, force=False, actor="person ada")
    assert Message.objects.count() == Attempt.objects.count() == 4


# ---- how it is found ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_no_statement_reads_a_table_from_end_to_end(history: History, service: Service) -> None:
    """Each statement of a pass is explained among history that stays; small tables are looked at as a whole."""
    history(2000, age=DAY)
    history(20, age=DAY, replay_of=Message.objects.earliest("pk"))
    now = database_now()
    Attempt.objects.bulk_create(_call(service, now, trigger="process") for _ in range(500))
    Event.objects.bulk_create(Event(type="breaker.opened", service=service) for _ in range(500))
    AuditEntry.objects.bulk_create(AuditEntry(actor="person ada", action="a", target="b") for _ in range(500))
    _operation(*Message.objects.all()[:1000])
    going = history(5, age=3 * DAY)  # behind the younger ones, so that the walk has to come by
    Message.objects.filter(pk__in=[message.pk for message in going]).update(finished_at=now - 91 * DAY)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    some = list(Message.objects.values_list("pk", flat=True)[:5])
    with CaptureQueriesContext(connection) as captured:
        prune()
        with transaction.atomic():
            retention._free(some)
    big = "message|messagecontent|attempt|fieldvalue|item|event|auditentry"
    for statement in {query["sql"] for query in captured}:
        if not statement.startswith(("SELECT", "UPDATE", "DELETE")):
            continue
        with connection.cursor() as cursor:
            explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
            cursor.execute(f"{explain} {statement.replace('%', '%%')}")
            plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
        # Along the primary key as far as a step goes, SQLite calls it a scan as well.
        is_a_step = "LIMIT" in statement and "TEMP B-TREE" not in plan
        for line in plan.splitlines():
            assert not re.search(rf"Seq Scan on integrations_({big})\b", line), f"{statement}\n{plan}"
            assert is_a_step or not re.fullmatch(rf"SCAN integrations_({big})", line.strip()), f"{statement}\n{plan}"
