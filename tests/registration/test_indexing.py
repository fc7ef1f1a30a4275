"""A field that is declared later is filled in for the messages of the last days, while others go on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from integrations.errors import Invalid
from integrations.models import AuditEntry, Draft, FieldValue, Message, Operation, Service
from integrations.models.operation import Kind, State
from integrations.operators import bulk_operations
from integrations.registration import deletion, indexing
from tests.support.records import work
from tests.support.searching import found_by

pytestmark = pytest.mark.django_db(transaction=True)


def sent(service: Service, *bodies: Any) -> list[int]:
    drafts = [Draft(service, "POST", "/orders", json.dumps(body).encode(), "application/json") for body in bodies]
    return [message.pk for message in Message.objects.accept(drafts)]


def declared(service: Service, path: str = "order.id", days: int = 30) -> Operation:
    """Declare a field, as if it had been declared a while ago."""
    operation = indexing.declare(service, path, days, actor="person ada")
    Operation.objects.filter(pk=operation.pk).update(created_at=timezone.now() - indexing.LAST_ACCEPTED)
    operation.refresh_from_db()
    return operation


def finished(operation: Operation) -> Operation:
    for _ in range(5):
        if work(operation).state == State.FINISHED:
            break
    return operation


def test_old_messages_are_found_by_a_field_that_is_declared_later(billing: Service) -> None:
    other = Service.objects.create(name="other", base_url="https://other.example.com")
    old = sent(billing, {"order": {"id": 9010}}, {"order": {"id": 9011}}, {"no": "order"})
    sent(other, {"order": {"id": 9010}})
    operation = finished(declared(billing))
    assert (operation.state, operation.total, operation.succeeded, operation.skipped) == (State.FINISHED, 3, 2, 1)
    assert found_by("body.order.id:9010") == found_by("9010 -9011") == {old[0]}
    new = sent(Service.objects.get(name="billing"), {"order": {"id": 9010}})
    assert found_by("body.order.id:9010") == {old[0], *new}
    entries = AuditEntry.objects.filter(actor="person ada").values_list("action", flat=True)
    assert {"service.changed", "operation.planned"} <= set(entries)


def test_messages_older_than_the_days_stay_as_they_are(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.registration.indexing.SLACK", 0)
    old, new = sent(billing, {"order": {"id": 1}}, {"order": {"id": 1}})
    # The search for a point in time may leave thousands of messages that are a little older; here it is exact.
    monkeypatch.setattr("integrations.registration.indexing.rows_around", lambda moment, newest: (old, new))
    finished(declared(billing, days=7))
    assert found_by("body.order.id:1") == {new}


def test_a_step_that_runs_again_stores_no_value_twice(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_operations, "FIRST_BODIES", 2)
    monkeypatch.setattr(bulk_operations, "MOST_BODIES", 2)
    sent(billing, *({"order": {"id": number}} for number in range(7)))
    operation = declared(billing)
    while operation.state == State.PLANNING:
        bulk_operations.step(operation.pk)
        operation.refresh_from_db()
    bulk_operations.step(operation.pk)
    assert set(FieldValue.objects.values_list("text", flat=True)) == {"5", "6"}, "the newest first"
    Operation.objects.filter(pk=operation.pk).update(pace=operation.pace, succeeded=0)  # the step was lost
    assert finished(operation).state == State.FINISHED
    assert sorted(FieldValue.objects.values_list("text", flat=True)) == [str(number) for number in range(7)]
    again = finished(declared(billing))
    assert (again.pk != operation.pk, again.succeeded, again.skipped) == (True, 0, 7)
    assert FieldValue.objects.count() == 7


def test_a_message_that_was_accepted_by_the_registration_of_before_is_indexed_at_the_end(billing: Service) -> None:
    sent(billing, {"order": {"id": 1}})
    before = Service.objects.get(pk=billing.pk)
    operation = indexing.declare(billing, "order.id", 30, actor="person ada")
    late = sent(before, {"order": {"id": 2}})  # it knows no field
    work(operation)
    assert operation.state == State.RUNNING, "requests that began before may still store messages"
    Operation.objects.filter(pk=operation.pk).update(created_at=timezone.now() - indexing.LAST_ACCEPTED)
    finished(operation)
    assert (operation.state, operation.total, operation.succeeded) == (State.FINISHED, 2, 2)
    assert found_by("body.order.id:2") == set(late)


def test_a_field_is_declared_once_and_indexed_by_one_operation_at_a_time(billing: Service) -> None:
    first = declared(billing)
    assert declared(billing).pk == first.pk
    assert declared(billing, "customer").pk != first.pk
    assert Service.objects.get(pk=billing.pk).search_fields == ["order.id", "customer"]
    finished(first)
    assert declared(billing).pk != first.pk


@pytest.mark.parametrize(
    ("path", "days", "words"),
    [
        ("a b", 30, "names joined by dots"),
        ("$.a", 30, r"without \$"),
        ("a", 0, "between 1 and"),
        ("a", 9999, "between"),
    ],
)
def test_a_field_that_cannot_be_declared_changes_nothing(billing: Service, path: str, days: int, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        indexing.declare(billing, path, days, actor="person ada")
    assert not Operation.objects.exists()
    assert Service.objects.get(pk=billing.pk).search_fields == []


def test_an_eleventh_field_is_refused(billing: Service) -> None:
    Service.objects.filter(pk=billing.pk).update(search_fields=[f"field{number}" for number in range(10)])
    with pytest.raises(Invalid, match="the most there can be"):
        indexing.declare(billing, "another", 30, actor="person ada")


def test_an_index_can_be_cancelled_and_its_service_deleted(billing: Service) -> None:
    sent(billing, {"order": {"id": 1}})
    first = declared(billing)
    bulk_operations.cancel(first, by="person ada")
    assert first.state == State.CANCELLED
    second = declared(billing)
    bulk_operations.step(second.pk)
    deletion.delete(billing, force=True, actor="person ada")
    assert finished(second).state == State.FINISHED
    assert not FieldValue.objects.exists()


def test_only_a_declaration_makes_such_an_operation(billing: Service) -> None:
    with pytest.raises(Invalid, match="where it is declared"):
        bulk_operations.plan(Kind.INDEX, "service:billing", by="person ada", reason="x")
    operation = declared(billing)
    with pytest.raises(Invalid, match="makes no calls"):
        bulk_operations.change(operation, by="person ada", rate="auto")
