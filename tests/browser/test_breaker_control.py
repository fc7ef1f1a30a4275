"""The breaker as somebody on call meets it: why it opened, what is tried next, other settings tried, steering."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.installation import Installation
from tests.receiver import Answer, Receiver

SENT = 6


@pytest.fixture(scope="module")
def grace(installation: Installation) -> dict[str, Any]:
    """An account, a token and, once she has signed in, the cookies for this file's tests."""
    return {"password": installation.operator("grace", "admin"), "token": installation.token(name="breaker-page")}


@pytest.fixture
def tripped(
    page: Page,
    installation: Installation,
    grace: dict[str, Any],
    sink: Receiver,
    request: pytest.FixtureRequest,
) -> str:
    """A service whose breaker has just opened for an hour, on the page of somebody who is signed in."""
    name = re.sub(r"[^a-z]+", "-", request.node.name)[-40:].strip("-")
    sink.decide(lambda call: Answer(status=503))
    with installation.api(grace["token"]) as api:
        breaker = {"consecutive_failures": 3, "open_for": 3600}
        made = api.post("services", json={"name": name, "base_url": sink.url, "breaker": breaker})
        assert made.status_code == 201, made.text
        for number in range(SENT):
            sent = api.post("messages", json={"service": name, "path": "/orders", "body": {"order": number}})
            assert sent.status_code == 202, sent.text
        sink.wait_until(lambda: api.get(f"services/{name}/breaker").json()["state"] == "open", timeout=30)
    if "cookies" in grace:
        page.context.add_cookies(grace["cookies"])
        return name
    page.goto("/login/")
    page.get_by_label("User name").fill("grace")
    page.locator("input[type=password]").fill(grace["password"])
    page.locator("main button.primary").click()
    expect(page.locator("h1")).to_contain_text("Overview")
    grace["cookies"] = page.context.cookies()
    return name


def test_the_cause_leads_to_the_calls_that_tripped_it(page: Page, tripped: str, shot: Callable[..., Path]) -> None:
    page.goto(f"/services/{tripped}/")
    tile = page.locator("#breaker")
    expect(tile).to_contain_text("3 failures in a row")
    expect(tile).to_contain_text("Retry budget")
    # It is counted down, by the second.
    countdown = tile.locator("time[data-countdown]")
    expect(countdown).to_have_text(re.compile(r"in 59 min \d+ s"))
    seen = countdown.inner_text()
    expect(countdown).not_to_have_text(seen, timeout=3000)
    shot("breaker-service")
    no_accessibility_violations(page)
    tile.get_by_role("link", name=re.compile("^503 at")).first.click()
    expect(page.locator("h1")).to_contain_text("msg_")
    attempt = page.locator("details.attempt:target")
    expect(attempt).to_have_attribute("open", "")
    expect(attempt).to_contain_text("503")


def test_it_is_opened_for_an_hour_and_closed_by_hand(
    page: Page, tripped: str, installation: Installation, shot: Callable[..., Path]
) -> None:
    page.goto(f"/services/{tripped}/")
    page.get_by_role("link", name="Steer by hand").click()
    dialog = page.locator("dialog[open]")
    expect(dialog.get_by_label("Action", exact=True)).to_have_value("half_open")  # what is mostly wanted of an open one
    expect(dialog.get_by_label("Ends")).to_be_hidden()
    dialog.get_by_label("Action", exact=True).select_option("open")
    expect(dialog.get_by_label("At this time")).to_be_hidden()
    dialog.get_by_label("Reason").fill("Maintenance of theirs")
    dialog.get_by_label("Ends").select_option("in 1 hour")
    shot("breaker-steer", full_page=False)
    dialog.get_by_role("button", name="Steer").click()
    tile = page.locator("#breaker")
    expect(tile).to_contain_text("Maintenance of theirs. Nothing is sent.")
    expect(tile.locator(".badge.forced_open")).to_be_visible()
    expect(tile.locator("time[data-countdown]")).to_have_text(re.compile(r"in (1 h|59 min)"))

    page.goto("/breakers/")
    page.get_by_role("link", name=f"Steer {tripped} by hand").click()
    page.get_by_label("Action", exact=True).select_option("close")
    page.get_by_label("Reason").fill("They are back")
    page.get_by_role("button", name="Steer").click()
    expect(page).to_have_url(re.compile("/breakers/$"))
    expect(page.locator(".toasts")).to_contain_text("is closed now (automatic)")

    page.goto(f"/audit/?target={tripped}")
    rows = page.locator("table.audit-rows tbody")
    expect(rows).to_contain_text("They are back")
    expect(rows).to_contain_text("Maintenance of theirs")
    expect(rows).to_contain_text("person grace")


def test_settings_are_told_while_they_are_typed_and_tried_on_the_last_day(
    page: Page, tripped: str, shot: Callable[..., Path]
) -> None:
    page.goto(f"/services/{tripped}/edit/")
    page.locator("#retries > summary").click()
    preview = page.locator("#retries .preview")
    expect(preview).to_contain_text("after 10 calls")
    page.get_by_label("Calls at most").fill("3")
    expect(preview).to_contain_text("then gives up, at the earliest")
    page.get_by_label("Calls at most").fill("none")
    expect(preview).to_contain_text(re.compile("No retry times yet: Calls at most: .*whole number"))
    page.get_by_label("Waits one by one, seconds").fill("7, 70")
    page.get_by_label("Calls at most").fill("9")
    expect(preview).to_contain_text("Waits 7 s, 1 min 10 s")
    page.locator("#breaker > summary").click()
    page.get_by_label("Consecutive failures").fill("1")
    expect(page.locator("#breaker .preview")).to_contain_text("Opens when a call failed")
    page.get_by_role("button", name="Try on the last 24 hours").click()
    trial = page.locator("#trial")
    expect(trial).to_contain_text("the breaker would have opened once; in reality it opened once")
    expect(trial).to_contain_text("1 failure")
    shot("breaker-form")
    no_accessibility_violations(page)
    # Nothing was saved by any of that.
    page.goto(f"/services/{tripped}/edit/")
    expect(page.locator('[name="breaker.consecutive_failures"]')).to_have_value("3")


def test_without_javascript_the_same_is_a_page(page: Page, tripped: str, installation: Installation) -> None:
    browser = page.context.browser
    assert browser is not None
    state = page.context.storage_state()
    context = browser.new_context(base_url=installation.url, java_script_enabled=False, storage_state=state)
    try:
        plain = context.new_page()
        plain.goto(f"/services/{tripped}/edit/")
        plain.locator("#breaker > summary").click()
        plain.locator('[name="breaker.consecutive_failures"]').fill("0")
        with context.expect_page() as opened:
            plain.get_by_role("button", name="Try on the last 24 hours").click()
        expect(opened.value.locator("h1")).to_contain_text("Tried on the last 24 hours")
        expect(opened.value.locator("main")).to_contain_text("would never have opened; in reality it opened once")
        plain.goto(f"/services/{tripped}/breaker/")
        plain.get_by_label("Action", exact=True).select_option("observe")
        plain.get_by_label("Reason").fill("Looking")
        plain.get_by_label("Ends").select_option("in 15 minutes")
        plain.get_by_role("button", name="Steer").click()
        expect(plain.locator("#breaker .badge.observe")).to_be_visible()
    finally:
        context.close()


def test_the_pages_are_clean_on_a_phone_in_the_dark(page: Page, tripped: str, shot: Callable[..., Path]) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    addresses = {
        "service": f"/services/{tripped}/",
        "breakers": "/breakers/",
        "steer": f"/services/{tripped}/breaker/",
        "try": f"/services/{tripped}/try/",
        "edit": f"/services/{tripped}/edit/#retries",
    }
    for name, address in addresses.items():
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways"
        shot(f"phone-breaker-{name}")
        if name in ("service", "breakers", "try"):
            no_accessibility_violations(page)


def no_accessibility_violations(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
