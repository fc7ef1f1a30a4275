"""Impact, on the pages of messages, of a failure group and of a service."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.models import Role, Status
from tests.support.signed_in import a_service, browser, messages_of, words

pytestmark = pytest.mark.django_db


def test_each_value_leads_to_its_messages_among_those_of_the_search() -> None:
    service = a_service()
    messages_of(service, Status.DEAD, 2, tags={"customer": "acme"})
    messages_of(service, Status.DELIVERED, 1, tags={"customer": "bolt"})
    client = browser(Role.VIEWER)
    page = client.get("/messages/breakdown/", {"service": "billing", "q": "tag:customer"})
    assert "3 messages, 2 customers, most: acme 2" in words(page)
    assert 'href="/messages/?q=tag%3Acustomer+tag%3Acustomer%3Dacme&amp;service=billing"' in page.content.decode()
    found = client.get("/messages/", {"q": "tag:customer tag:customer=acme", "service": "billing"})
    assert len(found.context["rows"]) == 2
    assert words(client.get("/_p/messages/breakdown/", {"service": "billing", "q": "tag:customer"})) in words(page)


def test_pages_fetch_it_once_they_are_shown_and_link_to_it_without_scripts() -> None:
    service = a_service()
    messages_of(service, Status.DEAD)
    client = browser()
    for path in ("/services/billing/", "/messages/?service=billing"):
        page = client.get(path).content.decode()
        assert 'hx-get="/_p/messages/breakdown/?service=billing"' in page
        assert 'href="/messages/breakdown/?service=billing"' in page


def test_a_search_that_is_not_understood_is_not_broken_down() -> None:
    messages_of(a_service(), Status.DEAD)
    page = words(browser().get("/messages/breakdown/", {"q": "staus:dead"}))
    assert "is not a known qualifier" in page
    assert "most:" not in page
    assert "1 message" not in page


def test_it_stays_within_its_queries(django_assert_max_num_queries: Any) -> None:
    messages_of(a_service(search_fields=["order.id"]), Status.DEAD, 30, tags={"customer": "acme"})
    client = browser()
    for path in ("/messages/breakdown/", "/_p/messages/breakdown/"):
        with django_assert_max_num_queries(12):
            client.get(path, {"q": "tag:customer=acme", "service": "billing", "status": "dead"})
