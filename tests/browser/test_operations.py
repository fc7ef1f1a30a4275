"""Bulk work as somebody on call does it: all that match, what is in it, the reason, and watching it being done."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.engine.conftest import until
from tests.installation import Installation
from tests.receiver import Answer, Receiver

DEAD = 12
WITHIN = 30_000  # milliseconds for workers that share two cores with others


@pytest.fixture(scope="module")
def ruth(installation: Installation) -> dict[str, Any]:
    return {"password": installation.operator("ruth", "operator"), "token": installation.token(name="operations-page")}


@pytest.fixture
def dead(
    page: Page, installation: Installation, ruth: dict[str, Any], sink: Receiver, request: pytest.FixtureRequest
) -> str:
    """The name of a service with dead messages, which would take them now; somebody is signed in."""
    name = re.sub(r"[^a-z]+", "-", request.node.name)[-40:].strip("-")
    sink.decide(lambda call: Answer(status=400))
    with installation.api(ruth["token"]) as api:
        made = api.post("services", json={"name": name, "base_url": sink.url})
        assert made.status_code == 201, made.text
        for number in range(DEAD):
            sent = api.post("messages", json={"service": name, "path": f"/orders/{number}", "body": {}})
            assert sent.status_code == 202, sent.text

        def all_dead() -> bool:
            found = api.get("messages", params={"service": name, "status": "dead"}).json()["items"]
            return len(found) == DEAD

        until(all_dead, WITHIN / 1000, lambda: f"the messages of {name} are not dead")
    sink.decide(lambda call: Answer(status=204))
    if "cookies" in ruth:
        page.context.add_cookies(ruth["cookies"])
        return name
    page.goto("/login/")
    page.get_by_label("User name").fill("ruth")
    page.locator("input[type=password]").fill(ruth["password"])
    page.locator("main button.primary").click()
    expect(page.locator("h1")).to_contain_text("Overview")
    ruth["cookies"] = page.context.cookies()
    return name


def test_all_that_match_are_replayed(page: Page, dead: str, sink: Receiver, shot: Callable[..., Path]) -> None:
    before = len(sink.calls)
    page.goto(f"/messages/?service={dead}&status=dead")
    page.get_by_label("all that match").check()
    shot("operations-select")
    no_accessibility_violations(page)
    page.get_by_role("button", name="Replay…").click()

    # What is in it, before anything happens.
    expect(page.locator("h1")).to_contain_text("Replay")
    begin = page.get_by_role("button", name=f"Replay: {DEAD} messages")
    expect(begin).to_be_visible(timeout=WITHIN)
    expect(page.locator("#operation")).to_contain_text(f"{dead} {DEAD}")
    shot("operations-dry-run")
    no_accessibility_violations(page)
    assert len(sink.calls) == before
    page.get_by_label("Reason").fill("They take them again")
    begin.click()

    # It is watched until it is done.
    operation = page.locator("#operation")
    expect(operation).to_contain_text(f"{DEAD} of {DEAD} done", timeout=WITHIN)
    expect(operation.locator(".badge.delivered").first).to_be_visible(timeout=WITHIN)
    shot("operations-done")
    no_accessibility_violations(page)
    sink.wait_until(lambda: len(sink.calls) == before + DEAD, timeout=30)
    page.get_by_role("link", name=re.compile("^Skipped")).click()
    expect(operation).to_contain_text("None.")

    page.goto("/operations/")
    expect(page.locator("#operations tbody tr").first).to_contain_text("finished")
    shot("operations-list")
    no_accessibility_violations(page)


def test_rows_are_picked_and_it_is_paused_and_cancelled(page: Page, dead: str, shot: Callable[..., Path]) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    page.goto(f"/messages/?service={dead}&status=dead")
    for box in page.locator("input[name=id]").all()[:3]:
        box.check()
    shot("operations-phone-select", full_page=False)
    page.get_by_role("button", name="Replay…").click()
    begin = page.get_by_role("button", name="Replay: 3 messages")
    expect(begin).to_be_visible(timeout=WITHIN)
    page.get_by_label("Reason").fill("Only these")
    page.get_by_label("Messages a second").fill("0.01")  # one at once, the next in 100 s
    begin.click()
    operation = page.locator("#operation")
    expect(operation).to_contain_text("1 of 3 done", timeout=WITHIN)
    page.get_by_role("button", name="Pause").click()
    expect(operation.locator(".badge.paused")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
    shot("operations-phone-paused")
    no_accessibility_violations(page)
    operation.get_by_role("button", name="Cancel").click()
    page.locator("dialog[open]").get_by_role("button", name=re.compile("Cancel|Yes|Go on|Confirm")).last.click()
    expect(operation.locator(".badge.cancelled").first).to_be_visible()


def no_accessibility_violations(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    assert not found, [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found]
