"""One grammar finds messages for pages, API, exports and operations."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import ValidationError

from integrations.models import Draft, Failure, FieldValue, Message, Operation, Service, Status
from integrations.models.field_value import VALUES_LIMIT
from integrations.schemas.service import ServiceIn
from integrations.search.grammar import parse
from integrations.search.pages import SearchResults
from tests.support.searching import found_by

pytestmark = pytest.mark.django_db


def a_message(service: Service, **fields: Any) -> Message:
    (message,) = Message.objects.accept([Draft(service, "POST", fields.pop("path", "/orders"), b"{}", "")])
    Message.objects.filter(pk=message.pk).update(**fields)
    message.refresh_from_db()
    return message


def test_every_qualifier_finds_its_messages_and_its_negation_the_others(billing: Service) -> None:
    now = timezone.now()
    times = dict.fromkeys(("first_seen", "last_seen", "opened_at"), now)
    group = Failure.objects.create(key="k", service=billing, fault="status", version=1, attempt_id=1, **times)
    operation = Operation.objects.create(kind="replay", filter="x", created_by="me", planned_until=0, rate=1)
    other = a_message(billing, path="/other")
    wanted = a_message(
        billing,
        path="/wanted",
        method="PUT",
        status=Status.DEAD,
        finished_at=timezone.now(),
        due_at=None,
        dead_reason="attempts",
        last_fault="timeout",
        last_status_code=504,
        ordering_key="acme eu",
        attempts=5,
        calls=6,
        tags={"customer": "acme"},
        failure=group,
        operation_id=operation.pk,
        replay_of=other,
    )
    for text in (
        "status:dead", "reason:attempts", "fault:timeout", "code:504", "code:>500", "code:500..599", "code:>=504",
        "'key:acme eu'", "method:put", "attempts:>4", "calls:6", "is:replay", "tag:customer=acme", "tag:customer",
        f"id:{wanted.public_id}", wanted.public_id, f"failure:{group.public_id}", f"operation:{operation.public_id}",
        f"replay_of:{other.public_id}", "/wanted", "put", "status_code:504", "'/wanted'",
    ):  # fmt: skip
        assert found_by(text) == {wanted.pk}, text
        quoted = text.startswith("'")
        assert found_by(f"'-{text[1:]}" if quoted else f"-{text}") == {other.pk}, text
    assert found_by("status:pending") == found_by("-status:dead") == {other.pk}
    assert found_by("service:billing") == {other.pk, wanted.pk}
    assert found_by("service:billing status:dead /wanted code:504") == {wanted.pk}
    assert found_by("service:crm") == found_by("service:billing service:crm") == set()
    assert found_by(f"failure:{group.public_id} status:pending") == set()
    assert found_by(f"replay_of:msg_{other.pk}_00000000") == found_by(f"operation:op_{operation.pk}_00000000") == set()


def test_ages_and_times_bound_the_acceptance(billing: Service) -> None:
    now = timezone.now()
    old, new = (a_message(billing, created_at=now - timedelta(hours=hours)) for hours in (5, 1))
    assert found_by("older:3h") == {old.pk}
    assert found_by("newer:180m") == {new.pk}
    assert found_by("older:30m newer:6h") == {old.pk, new.pk}
    assert found_by(f"before:{(now - timedelta(hours=3)):%Y-%m-%dT%H:%M}") == {old.pk}
    assert found_by("after:2020-01-01 after:2019-01-01") == {old.pk, new.pk}
    assert parse("after:2026-01-31T09:30").values["created_after"] == datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    assert parse("older:1h", now).values["created_before"] == now - timedelta(hours=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("servcie:billing", "the nearest one is “service:”"),
        ("statuscode:503", "the nearest one is “status_code:”"),
        ("colour:red", "tag:colour=… for a tag"),
        ("status:ded", "has an unknown value; use pending, delivering, delivered, dead, cancelled"),
        ("code:many", "takes a number"),
        ("code:99999", "takes a number"),
        ("code:500..400", "write 400..500"),
        ("method:CONNECT", "use one of GET"),
        ("id:7", "ids of messages, such as msg_42_"),
        ("failure:7", "such as fail_42_9f3a7c21"),
        ("older:soon", "such as 90s, 15m"),
        ("older:999999w", ""),
        ("after:tomorrow", "such as 2026-01-31"),
        ("-after:2026-01-01", "cannot be negated"),
        ("key:", "needs a value"),
        ("a 'quote", "A quote is not closed"),
        ("\\", "Nothing follows the backslash"),
        ("a\0b", "NUL"),
        ("a " * 60, "up to 50 words"),
    ],
)
def test_what_cannot_be_understood_is_said(text: str, words: str) -> None:
    problems = parse(text).problems
    if words:
        assert len(problems) == 1
        assert words in problems[0]
    else:
        assert problems == []


def test_what_is_obvious_to_try_is_understood(billing: Service) -> None:
    sent = {status: a_message(billing, last_status_code=status) for status in (404, 500, 599)}
    assert found_by("code:5xx") == {sent[500].pk, sent[599].pk}
    assert found_by("Service:billing METHOD:post") == {message.pk for message in sent.values()}
    assert found_by(sent[404].public_id.upper()) == {sent[404].pk}


@pytest.mark.parametrize("text", ["", "https://example.com/a", "12:30", "/a:b", "-", ":", "::", "a b", "\udc80", "é:x"])
def test_what_looks_like_a_qualifier_and_is_none_is_looked_for(text: str) -> None:
    assert parse(text).problems == []


def test_a_search_goes_through_history_in_steps_both_ways(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 3)
    wanted = [a_message(billing, path="/wanted").pk]
    for _ in range(7):
        a_message(billing)
    wanted.append(a_message(billing, path="/wanted").pk)
    for text in ("/wanted", "service:billing /wanted"):
        found = SearchResults(parse(text))
        down, up, place, steps = [], [], None, 0
        while place != 0:
            rows, place, is_cut = found.older(place, 5)
            down += [row.pk for row in rows]
            assert is_cut == bool(place)
            steps += 1
        assert (down, steps) == (wanted[::-1], 3)
        rows, place, _ = found.newer(wanted[0] - 1, 5)
        while place:
            up += [row.pk for row in rows]
            rows, place, _ = found.newer(place, 5)
        up += [row.pk for row in rows]
        assert up == wanted


def test_a_page_that_is_full_goes_on_behind_its_last_row(billing: Service) -> None:
    made = [a_message(billing, path="/wanted").pk for _ in range(5)]
    rows, place, is_cut = SearchResults(parse("/wanted")).older(None, 2)
    assert [row.pk for row in rows] == made[:2:-1]
    assert (place, is_cut) == (made[3], False)
    rows, place, is_cut = SearchResults(parse("/wanted")).older(made[2], 2)
    assert ([row.pk for row in rows], place, is_cut) == (made[1::-1], 0, False)


def test_what_an_index_answers_is_asked_of_all_of_history(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 2)
    old = a_message(billing, status=Status.DEAD, finished_at=timezone.now(), due_at=None)
    waiting = a_message(billing)
    for _ in range(5):
        a_message(billing, status=Status.DELIVERED, finished_at=timezone.now(), due_at=None)
    for text, pk in {
        "status:dead": old.pk,
        "service:billing status:dead": old.pk,
        "status:pending": waiting.pk,
        "service:billing status:pending": waiting.pk,
        old.public_id: old.pk,
    }.items():
        found = SearchResults(parse(text)).older(None, 50)
        assert ([row.pk for row in found.rows], found.next_id) == ([pk], 0), text


# ---- fields of the body -------------------------------------------------------------------------------------------
def with_body(service: Service, body: Any) -> int:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Message.objects.accept([Draft(service, "POST", "/orders", raw, "application/json")])[0].pk


def test_a_declared_field_finds_its_messages(billing: Service) -> None:
    billing.search_fields = ["order.id", "items.*.sku", "items.0.sku", "total", "paid", "note"]
    billing.save()
    one = with_body(billing, {"order": {"id": 42}, "items": [{"sku": "a"}, {"sku": "b"}], "total": 10.5, "paid": True})
    two = with_body(billing, {"order": {"id": "42"}, "items": [{"sku": "b"}], "total": 99, "paid": None})
    other = with_body(billing, {"order": {"id": 43, "more": {}}, "items": {"*": {"sku": "c"}}, "note": "x" * 300})
    for text, found in {
        "body.order.id:42": {one, two},
        "-body.order.id:42": {other},
        "body.order.id:>42": {other},  # a text is no number
        "body.items.*.sku:b": {one, two},
        "body.items.0.sku:b": {two},
        "body.items.*.sku:c": {other},  # a name like any other
        "body.total:10..100": {one, two},
        "body.total:>=99": {two},
        "-body.total:<50": {two, other},
        "body.total:10.5": {one},
        "body.paid:true": {one},
        "body.paid:null": {two},
        f"body.note:{'x' * 250}": {other},
        "body.order.id:42 body.items.*.sku:a": {one},
        "service:billing body.order.id:42 -body.paid:true": {two},
        "service:crm body.order.id:42": set(),
    }.items():
        assert found_by(text) == found, text


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"{", b"[" * 100_000, b'{"a": ' * 50_000,
     b'{"a": NaN}', b'{"a": 1e999}', b"1", b"null", b'{"a": "\\u0000"}',
     b'{"a": "\\ud800"}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": ' + b"9" * 400 + b"}", b'{"a": [1, 2]}'],
)  # fmt: skip
def test_no_body_keeps_a_message_from_being_accepted(billing: Service, body: bytes) -> None:
    billing.search_fields = ["a"]
    billing.save()
    assert Message.objects.filter(pk=with_body(billing, body)).exists()


def test_a_long_array_gives_so_many_values_and_no_more(billing: Service) -> None:
    billing.search_fields = ["*"]
    billing.save()
    with_body(billing, list(range(1000)))
    assert FieldValue.objects.count() == VALUES_LIMIT


def test_a_service_that_declares_nothing_pays_nothing(billing: Service) -> None:
    with CaptureQueriesContext(connection) as queries:
        with_body(billing, {"a": 1})
    assert not [query for query in queries if "fieldvalue" in query["sql"]]


def test_a_replay_is_found_by_its_fields_too(billing: Service) -> None:
    billing.search_fields = ["a"]
    billing.save()
    first = Message.objects.get(pk=with_body(billing, {"a": 1}))
    Message.objects.filter(pk=first.pk).update(status=Status.DEAD, due_at=None, finished_at=timezone.now())
    replay, _ = Message.objects.get(pk=first.pk).replay()
    edited, _ = Message.objects.get(pk=first.pk).replay(body=b'{"a": 2}')
    assert edited == replay  # one is under way
    assert found_by("body.a:1") == {first.pk, replay.pk}
    first.delete()
    assert found_by("body.a:1") == {replay.pk}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("body.b:1", "add b to its service's fields of the body"),
        ("body.a.b.c.d.e.f.g.h.i:1", "at most 8 levels deep"),
        ("body.:1", "names joined by dots"),
        ("body.$.a:1", "without $"),
        ("body.a:>x", "takes a number"),
        ("body.a:", "needs a value"),
    ],
)
def test_a_field_that_cannot_be_asked_for_is_said(billing: Service, text: str, words: str) -> None:
    billing.search_fields = ["a"]
    billing.save()
    (problem,) = parse(text).problems
    assert words in problem


def test_a_field_that_many_messages_share_is_looked_for_in_steps(
    billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    billing.search_fields = ["a", "b"]
    billing.save()
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 2)
    wanted = with_body(billing, {"a": 1, "b": 1})
    for _ in range(3):
        with_body(billing, {"a": 1})
        with_body(billing, {"a": 2})
    found = SearchResults(parse("body.a:1 body.b:1"))
    rows, place, is_cut = found.older(None, 5)
    assert (rows, is_cut) == ([], True)
    assert [row.pk for row in found.older(place, 5).rows] == [wanted]
    assert [row.pk for row in found.newer(0, 5).rows] == [wanted]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["$.order.id"], "without $"),
        (["a.b.c.d.e.f.g.h.i"], "at most 8 levels deep"),
        (["a..b"], "names joined by dots"),
        ([""], "names joined by dots"),
        (["a b"], "names joined by dots"),
        (["a:b"], "names joined by dots"),
        ([f"a{number}" for number in range(11)], "at most 10 items"),
        (["x" * 201], "200 characters"),
    ],
)
def test_a_field_that_cannot_be_declared_is_refused_in_words(fields: list[str], words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ServiceIn(name="billing", base_url="https://billing.example.com", search_fields=fields)
    assert words in str(refusal.value)


def test_a_field_is_declared_once() -> None:
    service = ServiceIn(
        name="billing", base_url="https://billing.example.com", search_fields=["a.b", " a.b ", "items.*.0"]
    )
    assert service.search_fields == ["a.b", "items.*.0"]


def test_a_custom_method_is_found(billing: Service) -> None:
    message = a_message(billing, method="PURGE")
    a_message(billing, method="POST")
    assert found_by("method:purge") == {message.pk}
