"""Finding messages by keyboard: completions, an empty result that leads on, and the impact."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import WORKERS, expect_clean
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until


@pytest.fixture(scope="module")
def shop(installation: Installation, token: str) -> Iterator[httpx.Client]:
    """Four delivered messages of a service that declares no field."""
    with Receiver() as sink, installation.api(token) as api:
        assert api.post("services", json={"name": "shop", "base_url": sink.url}).is_success
        sent = []
        for number, customer in enumerate(("acme", "acme", "bolt", "acme")):
            given = {"service": "shop", "path": "/orders", "body": {"order": {"id": 9010 + number}}}
            sent.append(api.post("messages", json=given | {"tags": {"customer": customer}}).json()["id"])
        until(lambda: all(api.get(f"messages/{one}").json()["status"] == "delivered" for one in sent), WORKERS / 1000)
        yield api


def test_a_search_is_completed_by_keyboard_and_offered_again(signed_in: Page, shop: httpx.Client) -> None:
    signed_in.goto("/messages/")
    field, options = signed_in.get_by_role("combobox", name="Search"), signed_in.locator("#words [role=option]")
    signed_in.keyboard.press("/")
    field.fill("tag:cust")
    expect(options).to_have_text(["tag:customer="])
    field.press("ArrowDown")
    expect(options.first).to_have_attribute("aria-selected", "true")
    field.press("Tab")
    expect(field).to_have_value("tag:customer=")
    expect(options).to_have_text(["tag:customer=acme", "tag:customer=bolt"])
    field.press("ArrowDown")
    field.press("ArrowDown")
    field.press("Enter")
    expect(field).to_have_value("tag:customer=bolt ")
    expect_clean(signed_in)
    field.press("Escape")
    expect(signed_in.locator("#words")).to_be_hidden()
    field.press("Enter")
    expect(signed_in.locator(".message-rows tbody tr")).to_have_count(1)

    signed_in.goto("/messages/")
    field.focus()
    expect(options.first).to_contain_text("tag:customer=bolt")
    expect(options.first).to_contain_text("recent")
    options.first.click()
    expect(signed_in.locator(".message-rows tbody tr")).to_have_count(1)


def test_an_order_number_is_found_once_its_field_is_declared(signed_in: Page, shop: httpx.Client) -> None:
    signed_in.goto("/messages/?q=9011")
    signed_in.get_by_role("button", name="Declare order.id and index the last 30 days").click()
    expect(signed_in.locator("h1")).to_contain_text("Index field")
    signed_in.get_by_role("link", name="Search by order.id").wait_for(timeout=WORKERS)
    expect_clean(signed_in)
    signed_in.goto("/messages/?q=9011")
    expect(signed_in.locator(".message-rows tbody tr")).to_have_count(1)


def test_the_impact_leads_to_the_messages_of_each_customer(signed_in: Page, shop: httpx.Client) -> None:
    signed_in.goto("/services/shop/")
    impact = signed_in.get_by_role("region", name="Impact")
    expect(impact).to_contain_text("4 messages, 2 customers, most: acme 3")
    impact.get_by_role("link", name="acme", exact=True).click()
    expect(signed_in.locator(".message-rows tbody tr")).to_have_count(3)
    signed_in.locator("#affected > summary").click()
    expect(signed_in.locator("#affected")).to_contain_text("3 messages, 1 customer, acme")
    expect_clean(signed_in)
