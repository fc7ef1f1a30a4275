"""A breakdown shows the impact: the newest messages of a search by tag, declared field, endpoint and status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from dashboard.presenters.breakdowns import plural, sentence
from integrations.models import Draft, Endpoint, Message, Service
from integrations.search import breakdown, pages
from integrations.search.breakdown import Breakdown, break_down
from integrations.search.grammar import parse
from integrations.search.pages import SearchResults

pytestmark = pytest.mark.django_db


def made(service: Service, count: int = 1, body: Any = None, **fields: Any) -> None:
    body = json.dumps(body or {}).encode()
    draft = Draft(service, "POST", "/orders", body, "application/json", tags=fields.pop("tags", {}))
    messages = Message.objects.accept([draft] * count)
    Message.objects.filter(pk__in=[message.pk for message in messages]).update(**fields)


def broken_down(text: str) -> Breakdown:
    return break_down(SearchResults(parse(text)))


def part(found: Breakdown, name: str) -> list[tuple[str, int]]:
    return next(([(share.value, share.count) for share in one.shares] for one in found.parts if one.name == name), [])


def test_messages_are_counted_by_each_thing_they_have_in_common(billing: Service) -> None:
    endpoint = Endpoint.objects.create(service=billing, name="create-order")
    made(billing, 3, tags={"customer": "acme", "region": "eu"}, status="dead", last_status_code=503)
    made(billing, 2, tags={"customer": "bolt"}, endpoint=endpoint)
    made(billing)
    found = broken_down("service:billing")
    assert (found.messages, found.is_cut) == (6, False)
    assert part(found, "customer") == [("acme", 3), ("bolt", 2)]
    assert part(found, "region") == [("eu", 3)]
    assert part(found, "endpoint") == [("create-order", 2)]
    assert part(found, "status") == [("dead", 3), ("pending", 3)]
    assert part(found, "last status code") == [("503", 3)]
    assert sentence(found) == "6 messages, 2 customers, most: acme 3"
    assert part(broken_down("service:billing status:dead"), "customer") == [("acme", 3)]


def test_every_value_has_the_word_that_finds_its_messages(billing: Service) -> None:
    Service.objects.filter(pk=billing.pk).update(search_fields=["order.id", "note"])
    billing.refresh_from_db()
    endpoint = Endpoint.objects.create(service=billing, name="create-order")
    tags = {"customer name": 'a "quoted" one', "region": "eu=west"}
    body = {"order": {"id": "9 010"}, "note": "7..9"}
    made(billing, 2, body, tags=tags, endpoint=endpoint, last_status_code=503, status="dead")
    made(billing, 3, {"order": {"id": 1}})
    shares = [share for one in broken_down("").parts for share in one.shares]
    assert {share.value for share in shares if not share.word} == {"7..9"}  # it would compare numbers
    for share in shares:
        if share.word:
            asked = parse(share.word)
            assert asked.problems == []
            assert len(SearchResults(asked).older(None, 50).rows) == share.count, share.word


def test_a_field_with_several_values_counts_for_each_and_its_messages_once(billing: Service) -> None:
    Service.objects.filter(pk=billing.pk).update(search_fields=["items.*.sku"])
    billing.refresh_from_db()
    made(billing, 2, {"items": [{"sku": "a"}, {"sku": "b"}]})
    made(billing, 1, {"items": [{"sku": "a"}]})
    [field] = [one for one in broken_down("").parts if one.kind == "field"]
    assert [(share.value, share.count) for share in field.shares] == [("a", 3), ("b", 2)]
    assert field.messages == 3


def test_only_the_newest_are_read_and_the_largest_shown(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakdown, "READ", 15)
    for number in range(20):
        made(billing, tags={"customer": f"c{number:02}"})
    found = broken_down("service:billing")
    assert (found.messages, found.is_cut) == (15, True)
    [customers] = [one for one in found.parts if one.name == "customer"]
    assert [share.value for share in customers.shares] == [f"c{number:02}" for number in range(5, 15)]
    assert customers.rest == 5
    assert sentence(found).startswith("Newest 15 messages, 15 customers")


def test_a_scan_that_ends_at_its_limit_says_that_there_may_be_more(
    billing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "SCAN_LIMIT", 5)
    for number in range(8):
        made(billing, tags={"customer": f"c{number}"})
    assert broken_down("tag:customer=c7").is_cut
    assert broken_down("tag:customer=c7").messages == 1


def test_a_breakdown_takes_few_queries_however_many_messages(billing: Service) -> None:
    Service.objects.filter(pk=billing.pk).update(search_fields=["n"])
    billing.refresh_from_db()
    endpoint = Endpoint.objects.create(service=billing, name="create-order")
    made(billing, 200, {"n": 1}, tags={"customer": "acme"}, endpoint=endpoint)
    with CaptureQueriesContext(connection) as asked:
        broken_down("service:billing tag:customer=acme")
    assert len(asked) <= 8


def test_nothing_found_has_no_parts(billing: Service) -> None:
    found = broken_down("status:dead")
    assert (found.messages, found.parts, sentence(found)) == (0, [], "0 messages")


def test_names_of_tags_read_as_several() -> None:
    names = {"customer": "customers", "country": "countries", "key": "keys", "address": "addresses", "y": "ys"}
    assert {name: plural(name) for name in names} == names
    assert plural("order.id") == "values of order.id"
