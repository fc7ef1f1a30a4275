"""A bare word finds what people have in hand: an id, a customer, an account, a number of an order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integrations.models import Draft, Message, Service
from integrations.search import alternatives as looks
from integrations.search import pages
from integrations.search.alternatives import Alternatives, alternatives
from integrations.search.grammar import parse
from integrations.search.pages import SearchResults
from tests.support.searching import found_by

pytestmark = pytest.mark.django_db


def sent(service: Service, body: Any = None, path: str = "/orders", **fields: Any) -> int:
    draft = Draft(service, "POST", path, json.dumps(body or {}).encode(), "application/json", **fields)
    return Message.objects.accept([draft])[0].pk


@pytest.fixture
def declared(billing: Service) -> Service:
    billing.search_fields = ["order.id", "name"]
    billing.save()
    return billing


def test_a_word_looks_at_path_key_tags_and_declared_fields(declared: Service) -> None:
    by_path = sent(declared, path="/customers/acme/orders")
    by_key = sent(declared, ordering_key="acme eu")
    by_tag = sent(declared, tags={"customer": "Acme Corp"})
    by_name = sent(declared, tags={"acme": "yes"})
    by_field = sent(declared, {"order": {"id": "acme"}})
    other = sent(declared, {"order": {"id": "no-acme", "note": "acme"}}, tags={"customer": "the acme"})
    assert found_by("acme") == {by_path, by_key, by_tag, by_name, by_field}
    assert found_by("-acme") == {other}
    assert found_by("acme eu") == {by_key}
    assert found_by("acme service:crm") == set()


def test_a_number_looks_at_ids_and_declared_fields(declared: Service) -> None:
    first = sent(declared, {"order": {"id": 9010}})
    message = Message.objects.get(pk=first)
    other = sent(declared, {"order": {"id": 90101}})
    assert found_by("9010") == {first}
    for text in (str(first), f"msg_{first}", f"msg_{first}_", f"{message.nonce:08x}", f"{message.nonce:08X}"):
        assert first in found_by(text), text
        assert other not in found_by(text), text


@pytest.mark.parametrize("value", ["Müller", 'a "quoted" name', "100%", "a_b", "back\\slash", "日本"])
def test_a_word_is_found_as_it_is_written(declared: Service, value: str) -> None:
    by_tag = sent(declared, tags={"customer": value})
    by_field = sent(declared, {"name": value})
    sent(declared, {"name": "other"}, tags={"customer": "other"})
    word = json.dumps(value, ensure_ascii=False)
    assert found_by(word) == {by_tag, by_field}


def test_a_word_is_looked_for_in_steps(declared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "SCAN_LIMIT", 3)
    wanted = sent(declared, {"order": {"id": 9010}})
    for _ in range(5):
        sent(declared)
    found = SearchResults(parse("9010"))
    rows, place, is_cut = found.older(None, 5)
    assert (rows, is_cut) == ([], True)
    assert [row.pk for row in found.older(place, 5).rows] == [wanted]


# ---- alternatives -------------------------------------------------------------------------------------------------
def offered(text: str) -> Alternatives:
    return alternatives(SearchResults(parse(text)))


def texts(text: str) -> list[str]:
    return [one.text for one in offered(text).searches]


def test_an_empty_result_offers_where_the_text_is(declared: Service) -> None:
    sent(declared, {"order": {"id": 9010}}, tags={"customer": "acme", "big name": "acme ltd"}, ordering_key="acme-7")
    assert texts("acme status:dead") == ["key:acme-7", "'tag:big name=acme ltd'", "tag:customer=acme"]
    for asked in ("order.id:9010", "tag:order=9010", "body.name:9010", "9010 status:dead", "key:9010"):
        assert texts(asked) == ["body.order.id:9010"], asked
    assert "tag:customer=acme" in texts("customer:acme")
    for text in texts("customer:acme") + texts("order.id:9010"):
        assert len(found_by(text)) == 1


def test_an_old_message_is_offered_by_its_number(declared: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    message = Message.objects.get(pk=sent(declared))
    assert message.public_id in texts(f"{message.pk} status:dead")


def test_a_field_that_is_not_declared_is_offered_for_declaration(billing: Service) -> None:
    sent(billing, {"order": {"id": 9010}, "items": [{"sku": "b-1"}, {"sku": "b-2"}]})
    sent(billing, {"order": {"id": 9010}})
    sent(billing, {"order": {"id": 9011, "some name": "b-3"}})
    [one] = offered("9010 status:dead").undeclared
    assert (one.service, one.path, one.value, one.count) == ("billing", "order.id", "9010", 2)
    assert [one.path for one in offered("b-2 status:dead").undeclared] == ["items.*.sku"]
    assert offered("b-3 status:dead").undeclared == []  # its name cannot be declared
    assert offered("nothing-like-this status:dead") == Alternatives()
    assert offered("status:dead") == Alternatives()


def test_each_look_is_bounded(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NEWEST": 2, "BODIES": 2, "LARGEST_BODY": 50}.items():
        monkeypatch.setattr(looks, name, value)
    sent(billing, {"id": "old"}, tags={"customer": "old"})
    sent(billing, {"id": "new", "filling": "x" * 50}, tags={"customer": "new"})
    sent(billing)
    assert texts("old status:dead") == []
    assert offered("old status:dead").undeclared == []
    assert texts("new status:dead") == ["tag:customer=new"]
    Message.objects.update(tags={})
    assert offered("new status:dead").undeclared == []
