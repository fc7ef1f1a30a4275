"""Pages that keep themselves current: for all tabs by one stream, without it, and never under the pointer or focus."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, Request, expect

from tests.browser.conftest import Complaints, Person
from tests.support.installation import Installation

EVENTS = "/api/v1/events"
BEFORE_THE_POLL = 20_000  # milliseconds: less than the slow poll that would heal a lost signal
STARTS_ANEW = 60_000
TABS = 10
_numbers = count(1)


@pytest.fixture
def service(api: httpx.Client) -> str:
    return register(api, f"live-{next(_numbers)}")


def test_ten_tabs_in_one_browser_stay_live_by_one_stream(signed_in: Page, service: str, api: httpx.Client) -> None:
    streams = open_streams(signed_in.context)
    tabs = [signed_in, *(signed_in.context.new_page() for _ in range(TABS - 1))]
    for tab in tabs:
        tab.goto(f"/services/?q={service}")
    for tab in tabs:
        is_live(tab)
    pause(api, service)
    for tab in tabs:
        expect(tab.locator(".badge.paused")).to_be_visible(timeout=BEFORE_THE_POLL)
    assert len(streams) == 1
    # The tab that reads it closes, and another one takes over.
    leader = streams.pop().frame.page
    leader.close()
    others = [tab for tab in tabs if tab is not leader]
    api.post(f"services/{service}/resume", json={})
    for tab in others:
        expect(tab.locator(".badge.paused")).to_be_hidden(timeout=BEFORE_THE_POLL)
    for tab in others:
        is_live(tab)
    assert len(streams) == 1


def test_without_streams_the_same_is_polled_until_they_are_back(
    signed_in: Page, service: str, api: httpx.Client, complaints: Complaints
) -> None:
    complaints.allow("Failed to load resource")
    signed_in.route(f"**{EVENTS}", lambda route: route.fulfill(status=503))
    signed_in.goto(f"/services/?q={service}")
    expect(signed_in.locator("#live .word")).to_have_text("Polling")
    pause(api, service)
    expect(signed_in.locator(".badge.paused")).to_be_visible(timeout=BEFORE_THE_POLL)
    signed_in.unroute(f"**{EVENTS}")
    is_live(signed_in, within=STARTS_ANEW)


def test_a_server_that_goes_away_is_said_and_healed(
    page: Page, start_installation: Callable[..., Installation], complaints: Complaints
) -> None:
    complaints.allow("Failed to load resource|ERR_|htmx:(afterRequest|sendError)")
    own = start_installation("--no-workers")
    joan = Person("joan", own.operator("joan", "admin"), at=own.url)
    with own.api() as api:
        service = register(api, "away")
        joan.sign_in(page)
        page.goto(f"{own.url}/services/")
        is_live(page)
        own.stop()
        expect(page.locator("#disconnected")).to_be_visible(timeout=STARTS_ANEW)
        expect(page.locator("#live .word")).to_have_text("Disconnected")
        expect(page.locator("#favicon")).to_have_attribute("href", re.compile("amber"))
        own.start()
        pause(api, service)
    expect(page.locator(".badge.paused")).to_be_visible(timeout=STARTS_ANEW)
    expect(page.locator("#disconnected")).to_be_hidden()
    is_live(page, within=STARTS_ANEW)


def test_a_hidden_tab_asks_for_nothing_and_is_refreshed_when_it_is_shown(
    signed_in: Page, service: str, api: httpx.Client
) -> None:
    seen = signed_in.context.new_page()
    for tab in (signed_in, seen):
        tab.goto(f"/services/?q={service}")
        is_live(tab)
    hide(signed_in, True)
    asked: list[str] = []
    signed_in.on("request", lambda request: asked.append(request.url))
    pause(api, service)
    expect(seen.locator(".badge.paused")).to_be_visible(timeout=BEFORE_THE_POLL)
    is_live(seen)
    assert asked == []
    hide(signed_in, False)
    expect(signed_in.locator(".badge.paused")).to_be_visible(timeout=BEFORE_THE_POLL)


def test_paused_is_paused_until_it_goes_on(signed_in: Page, service: str, api: httpx.Client) -> None:
    seen = signed_in.context.new_page()
    signed_in.goto(f"/services/?q={service}")
    is_live(signed_in)
    seen.goto(f"/services/?q={service}")
    signed_in.keyboard.press("p")
    expect(signed_in.locator("#live .word")).to_have_text("Paused")
    pause(api, service)
    expect(seen.locator(".badge.paused")).to_be_visible(timeout=BEFORE_THE_POLL)
    expect(signed_in.locator(".badge.paused")).to_be_hidden()
    signed_in.locator("#live").click()
    expect(signed_in.locator(".badge.paused")).to_be_visible(timeout=BEFORE_THE_POLL)


def test_focus_and_what_is_unfolded_survive_a_refresh(signed_in: Page, service: str, api: httpx.Client) -> None:
    steer(api, service, "open")  # only those in trouble have a tile
    signed_in.goto("/breakers/")
    is_live(signed_in)
    details = signed_in.locator(f"#rules-{service}")
    details.locator("> summary").click()
    expect(details).to_have_attribute("open", "")
    summary = signed_in.evaluate_handle("document.activeElement")
    steer(api, service, "half_open")
    expect(signed_in.locator(f"#tile-{service}")).to_contain_text("half-open", timeout=BEFORE_THE_POLL)
    expect(details).to_have_attribute("open", "")
    assert signed_in.evaluate("before => before === document.activeElement", summary)
    steer(api, service, "close")


def test_ticks_and_focus_survive_a_refresh_of_the_messages(signed_in: Page, service: str, api: httpx.Client) -> None:
    pause(api, service)
    oldest, middle, newest = (
        api.post("messages", json={"service": service, "path": f"/{number}"}).json()["id"] for number in range(3)
    )
    signed_in.goto(f"/messages/?service={service}")
    is_live(signed_in)
    rows = signed_in.locator("table.rows tbody tr")
    expect(rows).to_have_count(3)
    keys = signed_in.keyboard
    for key in "jjxj":
        keys.press(key)
    for cancelled, shown in ((oldest, 2), (newest, 0)):
        api.post(f"messages/{cancelled}/cancel", json={}).raise_for_status()
        expect(rows.nth(shown)).to_contain_text("cancelled", timeout=BEFORE_THE_POLL)
        expect(signed_in.locator("tbody :checked")).to_have_attribute("value", middle)
        assert oldest in signed_in.locator("tr:focus-within").inner_text()
    expect(signed_in.locator(".bulk")).to_contain_text("With the 1 selected")
    signed_in.evaluate("document.activeElement.blur()")
    api.post("messages", json={"service": service, "path": "/new"}).raise_for_status()
    expect(signed_in.locator(".new-rows")).to_have_text("1 new", timeout=BEFORE_THE_POLL)
    expect(rows).to_have_count(3)
    keys.press("r")  # replays the ticked rows
    signed_in.wait_for_url(re.compile("/operations/op_"))
    expect(signed_in.locator("main")).to_contain_text("1", timeout=BEFORE_THE_POLL)
    signed_in.go_back()
    signed_in.get_by_label("Select all on this page").check()
    expect(signed_in.locator(".bulk")).to_contain_text(re.compile("With the [34] selected"))
    # Of no row at all, it is of nothing.
    signed_in.goto(f"/messages/?service={service}&status=cancelled")
    expect(rows).to_have_count(2)
    keys.press("r")
    expect(signed_in.locator("dialog[open]")).to_have_count(0)
    keys.press("j")
    keys.press("r")
    expect(signed_in.locator("dialog[open]")).to_contain_text(newest)


def test_rows_do_not_move_under_the_pointer(signed_in: Page, api: httpx.Client) -> None:
    number = next(_numbers)
    register(api, f"rows-{number}-b")
    signed_in.goto(f"/services/?q=rows-{number}")
    is_live(signed_in)
    rows = signed_in.locator("table.rows tbody tr")
    rows.first.hover()
    register(api, f"rows-{number}-a")
    expect(signed_in.locator("#held")).to_have_text("1 new", timeout=BEFORE_THE_POLL)
    expect(rows).to_have_count(1)
    signed_in.mouse.move(0, 0)
    expect(rows).to_have_count(2)
    expect(signed_in.locator("#held")).to_be_hidden()
    # The same when the keyboard moves through the rows.
    signed_in.keyboard.press("j")
    focused = signed_in.evaluate("document.activeElement.textContent")
    register(api, f"rows-{number}-0")
    expect(signed_in.locator("#held")).to_have_text("1 new", timeout=BEFORE_THE_POLL)
    expect(rows).to_have_count(2)
    signed_in.keyboard.press("n")
    expect(rows).to_have_count(3)
    assert signed_in.evaluate("document.activeElement.textContent") == focused


def test_title_and_icon_tell_on_a_page_without_panels(signed_in: Page, service: str, api: httpx.Client) -> None:
    signed_in.goto("/settings/password/")
    is_live(signed_in)
    before = signed_in.title()
    steer(api, service, "open")
    expect(signed_in).not_to_have_title(before, timeout=BEFORE_THE_POLL)  # others may be down from before
    expect(signed_in).to_have_title(re.compile(r"^\d+ down · "))
    expect(signed_in.locator("#favicon")).to_have_attribute("href", re.compile("red"))
    opened = signed_in.title()
    steer(api, service, "close")
    expect(signed_in).not_to_have_title(opened, timeout=BEFORE_THE_POLL)


# ---- how it is arranged ---------------------------------------------------------------------------------------------
def register(api: httpx.Client, name: str) -> str:
    made = api.post("services", json={"name": name, "base_url": "http://127.0.0.1:9"})
    assert made.status_code == 201, made.text
    return name


def pause(api: httpx.Client, service: str) -> None:
    answer = api.post(f"services/{service}/pause", json={"reason": "maintenance"})
    assert answer.status_code == 200, answer.text


def steer(api: httpx.Client, service: str, action: str) -> None:
    answer = api.post(f"services/{service}/breaker", json={"action": action, "reason": "a move of theirs"})
    assert answer.status_code == 200, answer.text


def is_live(page: Page, within: float = BEFORE_THE_POLL) -> None:
    """By the stream, not by the patience before a page says that there is none."""
    page.locator("html[data-stream=up]").wait_for(state="attached", timeout=within)
    expect(page.locator("#live .word")).to_have_text("Live")


def hide(page: Page, is_hidden: bool) -> None:
    page.evaluate(
        """is_hidden => {
            Object.defineProperty(document, "hidden", { value: is_hidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        is_hidden,
    )


def open_streams(context: BrowserContext) -> set[Request]:
    """The event streams that this browser holds, kept current."""
    streams: set[Request] = set()
    context.on("request", lambda request: streams.add(request) if request.url.endswith(EVENTS) else None)
    context.on("requestfinished", lambda request: streams.discard(request))
    context.on("requestfailed", lambda request: streams.discard(request))
    return streams
