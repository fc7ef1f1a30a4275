"""A failure group as somebody on call walks out of it: look, test, replay at a rate, watch, resolve."""

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

SENT = 5


@pytest.fixture
def hedy(page: Page, installation: Installation) -> str:
    """Somebody who is signed in, and the token of a program."""
    password = installation.operator("hedy", "operator")
    page.goto("/login/")
    page.get_by_label("User name").fill("hedy")
    page.locator("input[type=password]").fill(password)
    page.locator("main button.primary").click()
    expect(page.locator("h1")).to_contain_text("Overview")
    return installation.token(name="failures-page")


def test_the_way_out_of_a_failure(
    page: Page, installation: Installation, hedy: str, sink: Receiver, shot: Callable[..., Path]
) -> None:
    sink.decide(lambda call: Answer(status=422, body={"code": "no_stock", "message": "none left"}))
    with installation.api(hedy) as api:
        made = api.post("services", json={"name": "stock", "base_url": sink.url, "limits": {"concurrency": 2}})
        assert made.status_code == 201, made.text
        for number in range(SENT):
            sent = api.post("messages", json={"service": "stock", "path": "/orders", "body": {"order": number}})
            assert sent.status_code == 202, sent.text
        sink.wait_until(lambda: _dead(api) == SENT, timeout=30)

    page.goto("/failures/?service=stock")
    row = page.locator("#failures tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("no_stock")
    expect(page.locator("#failing .count")).to_be_visible()
    shot("failures")
    no_accessibility_violations(page)
    row.get_by_role("link").click()

    # Look.
    panel = page.locator("#failure")
    expect(panel).to_contain_text("Error code")
    expect(panel).to_contain_text("none left")
    expect(panel).to_contain_text(f"{SENT} dead")
    shot("failure")
    no_accessibility_violations(page)
    page.set_viewport_size({"width": 360, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shot("failure-small")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="dark")
    shot("failure-dark")
    page.emulate_media(color_scheme="light")
    where = page.url

    # Test: the other side takes it now.
    sink.decide(lambda call: Answer(status=204))
    page.get_by_role("link", name="Open the sample in the lab").click()
    expect(page).to_have_url(re.compile(r"/lab/\?message=msg_"))

    # Replay the group at a rate, and watch.
    page.goto(where)
    page.get_by_role("button", name="Plan the replay").click()
    expect(page).to_have_url(re.compile(r"/operations/op_"))
    planned = page.url
    page.goto(where)
    expect(panel.locator(".failure-operations li")).to_have_count(1)
    expect(panel.locator(".failure-operations li")).to_contain_text("planned", timeout=30_000)
    page.goto(planned)
    page.get_by_label("Reason").fill("They have stock again")
    page.get_by_label("Messages a second").fill("50")
    page.locator("main form button.primary").first.click()
    page.goto(where)
    expect(panel).to_contain_text(f"{SENT} of {SENT}", timeout=30_000)
    expect(panel).to_contain_text("0 without a replay that is under way or delivered", timeout=30_000)

    # Resolve.
    page.get_by_role("button", name="Resolve").click()
    expect(page.locator("#failure .badge.resolved")).to_be_visible()
    page.get_by_text("Write a note, or say who sees to it").click()
    page.locator("#id_note").fill("See https://wiki.example/stock")
    page.get_by_label("Assignee").select_option("hedy")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("link", name="https://wiki.example/stock")).to_be_visible()
    expect(page.locator("#note")).to_contain_text("hedy sees to it")
    page.goto("/failures/?service=stock")
    expect(page.locator("#failures")).to_contain_text("Nothing is open for stock")


def _dead(api: Any) -> int:
    return len(api.get("messages", params={"service": "stock", "status": "dead"}).json()["items"])


def no_accessibility_violations(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
