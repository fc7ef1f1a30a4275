"""The breaker for the person on call: cause, next probe, backtest of other settings, manual override."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import AT_NIGHT_BY_PHONE, WORKERS, Person, expect_clean
from tests.support.installation import Installation
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

SENT = 6


@pytest.fixture
def tripped(page: Page, mary: Person, api: httpx.Client, sink: Receiver, request: pytest.FixtureRequest) -> str:
    """A service whose breaker has just opened for an hour; an operator is signed in."""
    name = re.sub(r"[^a-z]+", "-", request.node.name)[-40:].strip("-")
    sink.decide(lambda call: Answer(status=503))
    breaker = {"consecutive_failures": 3, "open_for": 3600}
    made = api.post("services", json={"name": name, "base_url": sink.url, "breaker": breaker})
    assert made.status_code == 201, made.text
    for number in range(SENT):
        sent = api.post("messages", json={"service": name, "path": "/orders", "body": {"order": number}})
        assert sent.status_code == 202, sent.text

    def is_open() -> bool:
        return bool(api.get(f"services/{name}/breaker").json()["state"] == "open")

    until(is_open, WORKERS / 1000, lambda: f"the breaker of {name} has not opened")
    mary.sign_in(page)
    return name


def test_the_cause_leads_to_the_calls_that_tripped_it(page: Page, tripped: str, shot: Callable[..., None]) -> None:
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
    expect_clean(page)
    tile.get_by_role("link", name=re.compile("^503 at")).first.click()
    expect(page.locator("h1")).to_contain_text("msg_")
    attempt = page.locator("details.attempt:target")
    expect(attempt).to_have_attribute("open", "")
    expect(attempt).to_contain_text("503")


def test_it_is_opened_for_an_hour_and_closed_by_hand(
    page: Page, tripped: str, installation: Installation, shot: Callable[..., None]
) -> None:
    page.goto(f"/services/{tripped}/")
    page.get_by_role("link", name="Override breaker").click()
    dialog = page.locator("dialog[open]")
    expect(dialog.get_by_label("Action", exact=True)).to_have_value("half_open")  # the usual choice for an open breaker
    expect(dialog.get_by_label("Ends")).to_be_hidden()
    dialog.get_by_label("Action", exact=True).select_option("open")
    expect(dialog.get_by_label("End time")).to_be_hidden()
    dialog.get_by_label("Reason").fill("Maintenance of theirs")
    dialog.get_by_label("Ends").select_option("In 1 hour")
    shot("breaker-override", full_page=False)
    dialog.get_by_role("button", name="Override breaker").click()
    tile = page.locator("#breaker")
    expect(tile).to_contain_text("Maintenance of theirs. Nothing is sent.")
    expect(tile.locator(".badge.forced_open")).to_be_visible()
    expect(tile.locator("time[data-countdown]")).to_have_text(re.compile(r"in (1 h|59 min)"))

    page.goto("/breakers/")
    page.get_by_role("link", name=f"Override the breaker of {tripped}").click()
    page.get_by_label("Action", exact=True).select_option("close")
    page.get_by_label("Reason").fill("They are back")
    page.get_by_role("button", name="Override breaker").click()
    expect(page).to_have_url(re.compile("/breakers/$"))
    expect(page.locator(".toasts")).to_contain_text("closed (automatic)")

    page.goto(f"/audit/?target={tripped}")
    rows = page.locator("table.audit-rows tbody")
    expect(rows).to_contain_text("They are back")
    expect(rows).to_contain_text("Maintenance of theirs")
    expect(rows).to_contain_text("person mary")


def test_settings_are_told_while_they_are_typed_and_tried_on_the_last_day(
    page: Page, tripped: str, shot: Callable[..., None]
) -> None:
    page.goto(f"/services/{tripped}/edit/")
    unfold(page, "retries")
    preview = page.locator("#retries .preview")
    expect(preview).to_contain_text("10 attempts, at the earliest at")
    page.get_by_label("Max attempts").fill("3")
    expect(preview).to_contain_text("Then the message is dead.")
    page.get_by_label("Max attempts").fill("none")
    expect(preview).to_contain_text(re.compile("No retry times yet: Max attempts: .*whole number"))
    page.get_by_label("Custom retry schedule").fill("7, 70")
    page.get_by_label("Max attempts").fill("9")
    expect(preview).to_contain_text("Backoff 7 s, 1 min 10 s")
    unfold(page, "breaker")
    page.get_by_label("Consecutive failures").fill("1")
    expect(page.locator("#breaker .preview")).to_contain_text("Opens when a call fails")
    page.get_by_role("button", name="Test against the last 24 hours").click()
    trial = page.locator("#trial")
    expect(trial).to_contain_text("the breaker would have opened once; it actually opened once")
    expect(trial).to_contain_text("1 failure")
    shot("breaker-form")
    expect_clean(page)
    # Nothing was saved by any of that.
    page.goto("about:blank")
    page.goto(f"/services/{tripped}/edit/#breaker")
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
        plain.locator("#breaker").get_by_role("link", name="Show all settings").click()
        plain.locator('[name="breaker.consecutive_failures"]').fill("0")
        with context.expect_page() as opened:
            plain.get_by_role("button", name="Test against the last 24 hours").click()
        expect(opened.value.locator("h1")).to_contain_text("Tested against the last 24 hours")
        expect(opened.value.locator("main")).to_contain_text("would never have opened; it actually opened once")
        plain.goto(f"/services/{tripped}/breaker/")
        plain.get_by_label("Action", exact=True).select_option("observe")
        plain.get_by_label("Reason").fill("Looking")
        plain.get_by_label("Ends").select_option("In 15 minutes")
        plain.get_by_role("button", name="Override breaker").click()
        expect(plain.locator("#breaker .badge.observe")).to_be_visible()
    finally:
        context.close()


def test_the_pages_are_clean_on_a_phone_in_the_dark(page: Page, tripped: str, shot: Callable[..., None]) -> None:
    AT_NIGHT_BY_PHONE.put_on(page)
    addresses = {
        "service": f"/services/{tripped}/",
        "breakers": "/breakers/",
        "steer": f"/services/{tripped}/breaker/",
        "try": f"/services/{tripped}/try/",
        "edit": f"/services/{tripped}/edit/#retries",
    }
    for name, address in addresses.items():
        page.goto(address)
        shot(f"phone-breaker-{name}")
        expect_clean(page)


def unfold(page: Page, group: str) -> None:
    """Unfolds a group of the form and waits until its preview follows the typing."""
    page.locator(f"#{group} > summary").click()
    expect(page.locator(f"#{group} .preview")).to_be_visible()
    expect(page.locator(f"#{group} .htmx-added")).to_have_count(0)
