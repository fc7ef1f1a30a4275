"""How the console looks and feels everywhere: its font, its themes, and rows that open where they are clicked."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Look
from tests.support.installation import Installation
from tests.support.receiver import Receiver

NIGHT = "rgb(16, 17, 20)"  # --bg of the dark theme
SERVICE = "rows-shop"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture
def rows(signed_in: Page, api: httpx.Client, sink: Receiver) -> Page:
    """The list of messages, with two of a paused service, which stay as they are."""
    if api.get(f"services/{SERVICE}").status_code == 404:
        api.post("services", json={"name": SERVICE, "base_url": sink.url}).raise_for_status()
        api.post(f"services/{SERVICE}/pause", json={"reason": "to be looked at"}).raise_for_status()
        for number in range(2):
            api.post("messages", json={"service": SERVICE, "path": f"/rows/{number}"}).raise_for_status()
    signed_in.goto(f"/messages/?service={SERVICE}")
    return signed_in


def test_the_font_comes_with_the_console_and_its_digits_are_of_one_width(signed_in: Page) -> None:
    signed_in.goto("/")
    signed_in.evaluate("document.fonts.ready")
    assert signed_in.evaluate("[...document.fonts].some(font => font.family === 'Inter' && font.status === 'loaded')")
    widths = signed_in.evaluate(
        """() => ["1111111111", "8888888888"].map((digits) => {
             const span = document.body.appendChild(document.createElement("span"));
             span.className = "num";
             span.textContent = digits;
             return span.getBoundingClientRect().width;
           })"""
    )
    assert widths[0] == widths[1]


def test_a_chosen_theme_is_in_the_page_before_any_script(signed_in: Page) -> None:
    Look("light", 1280).put_on(signed_in)
    signed_in.goto("/services/")
    signed_in.locator("[popovertarget=person]:visible").click()
    signed_in.get_by_role("button", name="Dark").click()
    assert signed_in.evaluate(BACKGROUND) == NIGHT  # at once
    expect(signed_in.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    answer = signed_in.goto("/messages/")
    assert answer is not None
    assert ' data-theme="dark">' in answer.text().partition("<head>")[0]
    assert signed_in.evaluate(BACKGROUND) == NIGHT
    signed_in.locator("[popovertarget=person]:visible").click()
    signed_in.get_by_role("button", name="System").click()
    assert signed_in.evaluate(BACKGROUND) != NIGHT
    answer = signed_in.goto("/messages/")
    assert answer is not None
    assert "data-theme" not in answer.text()


def test_a_theme_is_chosen_without_javascript(browser: Browser, signed_in: Page, installation: Installation) -> None:
    context = browser.new_context(
        base_url=installation.url,
        java_script_enabled=False,
        storage_state=signed_in.context.storage_state(),
        color_scheme="light",
    )
    try:
        page = context.new_page()
        page.goto("/messages/?status=dead")
        page.locator("[popovertarget=person]:visible").click()
        page.get_by_role("button", name="Dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        assert page.url.endswith("/messages/?status=dead")
    finally:
        context.close()


def test_a_row_opens_where_it_is_clicked(rows: Page) -> None:
    row = rows.locator(".message-rows tbody tr").first
    target = row.locator("td.mono a").get_attribute("href") or "none"
    status = row.locator("td", has=rows.locator(".badge")).first
    for how in ({"modifiers": ["Control"]}, {"button": "middle"}):
        with rows.context.expect_page() as opened:
            status.click(**how)
        opened.value.wait_for_url(f"**{target}")
        opened.value.close()
    row.locator("input[type=checkbox]").check()
    assert rows.url.endswith(f"?service={SERVICE}"), "a checkbox is no link"
    status.click()
    rows.wait_for_url(f"**{target}")


def test_the_text_of_a_row_can_be_selected(rows: Page) -> None:
    cell = rows.locator(".message-rows td.request .mono").first
    box = cell.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    rows.mouse.move(box["x"] + 1, middle)
    rows.mouse.down()
    rows.mouse.move(box["x"] + box["width"] - 1, middle, steps=5)
    rows.mouse.up()
    assert "/rows/" in rows.evaluate("getSelection().toString()")
    rows.wait_for_timeout(300)  # a click would have led away by now
    assert rows.url.endswith(f"?service={SERVICE}")
