"""A newcomer's way from the set-up link to a delivered message, counted in clicks and fields."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import WORKERS, expect_clean
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

PASSWORD = "correct horse battery"
LINK = re.compile(r"http://\S+/setup/\S+")
MOST_CLICKS, MOST_FIELDS = 6, 5


class Hand:
    """Counts what a person does."""

    def __init__(self) -> None:
        self.clicks = self.fields = 0

    def click(self, what: Locator) -> None:
        self.clicks += 1
        what.click()

    def fill(self, what: Locator, text: str) -> None:
        self.fields += 1
        what.fill(text)


def test_a_newcomer_gets_a_message_delivered_without_meeting_an_error(
    start_installation: Callable[..., Installation], page: Page, sink: Receiver, shot: Callable[..., None]
) -> None:
    installation = start_installation(SWITCHBOARD_ALLOW_PRIVATE=None)
    until(lambda: LINK.search(installation.log), 10, lambda: installation.log)
    page.goto(LINK.findall(installation.log)[-1])
    page.get_by_label("Username").fill("ada")
    page.locator("input[type=password]").fill(PASSWORD)
    page.locator("main button.primary").click()

    hand = Hand()
    expect(page.locator("h1")).to_have_text("Get started")
    shot("start-register")
    expect_clean(page)
    hand.fill(page.get_by_label("Name"), "My Orders")
    hand.fill(page.get_by_label("Base URL"), sink.url)
    box = page.get_by_label("Allow 127.0.0.1/32 for this service")
    expect(box).to_be_visible()
    shot("start-allow")
    expect_clean(page)
    hand.click(box)
    hand.click(page.get_by_role("button", name="Register"))
    expect(page.locator(".step.done")).to_contain_text("my-orders")
    shot("start-send")
    hand.click(page.get_by_role("button", name="Send"))
    expect(page.locator("#delivery .badge.delivered")).to_be_visible(timeout=WORKERS)
    shot("start-delivered")
    expect_clean(page)
    assert sink.last.json() == {"hello": "world"}
    assert page.locator(".error:visible, .notice.danger:visible").count() == 0
    assert hand.clicks <= MOST_CLICKS
    assert hand.fields <= MOST_FIELDS


def test_the_sandbox_delivers_a_first_message_and_goes_with_its_service(
    start_installation: Callable[..., Installation], page: Page
) -> None:
    installation = start_installation(SWITCHBOARD_ALLOW_PRIVATE=None)
    installation.operator("ada", "admin", PASSWORD)
    page.goto(f"{installation.url}/login/?next=/start/")
    page.get_by_label("Username").fill("ada")
    page.locator("input[type=password]").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Use the sandbox").click()
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#delivery .badge.delivered")).to_be_visible(timeout=WORKERS)
    assert "child=sandbox" in installation.log
    with installation.api(installation.token()) as api:
        address = urlsplit(api.get("services/sandbox-healthy").json()["base_url"])
        assert not is_refused(address)
        assert api.delete("services/sandbox-healthy", params={"force": "true"}).is_success
    until(lambda: is_refused(address), 20, lambda: installation.log)


def is_refused(address: SplitResult) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname or "", address.port or 0)) != 0


@pytest.mark.any_database
def test_the_set_up_link_is_the_last_that_a_start_prints(
    start_installation: Callable[..., Installation],
) -> None:
    installation = start_installation("--no-workers")
    until(lambda: LINK.search(installation.log), 10, lambda: installation.log)
    before = installation.log.partition("/setup/")[0]
    assert "child=web-1" in before  # after the lines of the start, which would push it out of sight
