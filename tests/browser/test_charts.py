"""Charts in a browser: drawn from the table, read by pointing, narrowed by dragging, and kept through refreshes."""

from __future__ import annotations

import re
import time
from itertools import count

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import EVERY_LOOK, PATIENCE, Look, expect_clean
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

DELIVERED = 60  # seconds for the workers
_numbers = count(1)


@pytest.fixture
def service(api: httpx.Client, sink: Receiver) -> str:
    """A service with three calls, just made, all within a minute."""
    if (second := time.time() % 60) > 50:
        time.sleep(60 - second)
    sink.decide(lambda call: Answer(status=200))
    name = f"charted-{next(_numbers)}"
    assert api.post("services", json={"name": name, "base_url": sink.url}).status_code == 201
    send(api, name, 3)
    return name


def send(api: httpx.Client, service: str, messages: int) -> None:
    ids = [api.post("messages", json={"service": service, "path": "/"}).json()["id"] for _ in range(messages)]
    is_delivered = lambda: all(api.get(f"messages/{each}").json()["status"] == "delivered" for each in ids)  # noqa: E731
    until(is_delivered, DELIVERED, "the messages were not delivered")


def the_plot(page: Page) -> Locator:
    plot = page.locator('.plot[data-plot="calls"] .u-over')
    expect(plot).to_be_visible()
    return plot


def point(page: Page, x: float) -> None:
    """Put the pointer over the chart, at a share of its width."""
    box = the_plot(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)


def point_at_calls(page: Page) -> int:
    """Put the pointer over the newest bar with calls; returns how many the table has there."""
    x, calls = page.evaluate(
        """() => { const { from, step, bars } = document.querySelector("[data-from]").dataset;
        const [start, calls] = document.querySelector("[data-bar]").dataset.bar.split(" ").map(Number);
        return [((start - from) / step + 0.5) / bars, calls] }"""
    )
    point(page, x)
    return int(calls)


def shown(page: Page, series: str) -> Locator:
    return page.locator(f".u-legend .{series} .u-value")


@pytest.mark.parametrize("look", EVERY_LOOK, indirect=True, ids=str)
def test_pointing_at_a_bar_says_its_values_in_both_charts(look: Look, signed_in: Page, service: str) -> None:
    signed_in.goto(f"/services/{service}/")
    the_plot(signed_in).scroll_into_view_if_needed()
    expect_clean(signed_in)
    expect(shown(signed_in, "calls")).to_have_text(str(point_at_calls(signed_in)))
    expect(shown(signed_in, "p95")).to_have_text(re.compile(r"\d ms|\d s"))


def test_a_refresh_takes_new_values_and_loses_neither_pointer_nor_drawing(
    signed_in: Page, service: str, api: httpx.Client
) -> None:
    signed_in.goto(f"/services/{service}/")
    the_plot(signed_in).scroll_into_view_if_needed()
    signed_in.evaluate("document.querySelector('.plot canvas').dataset.mark = 'the same'")
    point(signed_in, 59.5 / 60)
    send(api, service, 2)
    expect(signed_in.locator("figcaption").first).to_contain_text("5 calls", timeout=6 * PATIENCE)
    expect(signed_in.locator(".plot canvas").first).to_have_attribute("data-mark", "the same")
    expect(shown(signed_in, "calls")).to_have_text(re.compile(r"^\d$"))  # the pointer still points at a minute


def test_dragging_chooses_a_range_that_is_in_the_address(signed_in: Page, service: str) -> None:
    signed_in.goto(f"/services/{service}/")
    the_plot(signed_in).scroll_into_view_if_needed()
    point(signed_in, 0.5)
    signed_in.mouse.down()
    point(signed_in, 0.75)
    signed_in.mouse.up()
    signed_in.wait_for_url(re.compile(r"\?from=[^&]+Z&until=[^&]+Z$"))
    expect(signed_in.locator("#traffic")).to_contain_text(re.compile("Calls from .* to"))
    expect(signed_in.locator("figcaption").first).to_contain_text("0 calls")
    expect(signed_in.locator("[data-from]")).to_have_attribute("data-bars", re.compile("^1[5-7]$"))
    chosen = signed_in.url
    signed_in.reload()
    expect(signed_in.locator("#traffic")).to_contain_text(re.compile("Calls from .* to"))
    signed_in.go_back()
    expect(signed_in.locator("#traffic")).to_have_text("Calls in the last hour")
    signed_in.go_forward()
    assert signed_in.url == chosen
    expect(signed_in.locator("#traffic")).to_contain_text(re.compile("Calls from .* to"))


def test_a_range_can_be_typed_instead_of_dragged(signed_in: Page, service: str) -> None:
    signed_in.goto(f"/services/{service}/")
    signed_in.get_by_text("Custom", exact=True).click()
    expect_clean(signed_in)
    signed_in.get_by_label("From", exact=True).fill("2026-01-05T10:00")
    signed_in.get_by_label("To", exact=True).fill("2026-01-09T10:00")
    signed_in.get_by_role("button", name="Show").click()
    expect(signed_in.locator("#traffic")).to_contain_text("Calls from 5 Jan")
    assert "from=2026-01-0" in signed_in.url


def test_a_click_leads_to_the_messages_of_that_minute(signed_in: Page, service: str) -> None:
    signed_in.goto(f"/services/{service}/")
    the_plot(signed_in).scroll_into_view_if_needed()
    calls = point_at_calls(signed_in)
    signed_in.mouse.down()
    signed_in.mouse.up()
    signed_in.wait_for_url("**/messages/?**")
    rows = signed_in.locator("main tbody tr")
    expect(rows).to_have_count(calls)
    expect(rows.first).to_contain_text(service)


def test_a_change_is_a_line_that_says_what_changed(signed_in: Page, service: str, api: httpx.Client) -> None:
    assert api.post(f"services/{service}/pause", json={"reason": "their maintenance"}).status_code == 200
    signed_in.goto(f"/services/{service}/")
    the_plot(signed_in).scroll_into_view_if_needed()
    at = signed_in.evaluate(
        """() => { const box = document.querySelector("[data-from]").dataset;
        const mark = [...document.querySelectorAll("[data-mark]")].find((row) => row.textContent.includes("Paused"));
        return (Number(mark.dataset.mark) - box.from) / (box.step * box.bars) }"""
    )
    point(signed_in, at)
    expect(signed_in.locator(".chart-note").first).to_contain_text("Paused by")
