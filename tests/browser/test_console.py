"""The console as a whole: keyboard, no JavaScript, accessibility, and page weight."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Page, Response, Route, expect

from tests.browser.conftest import AT_NIGHT_BY_PHONE, EVERY_LOOK, PATIENCE, Look, expect_clean
from tests.support.installation import Installation
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

HEAVIEST = 120 * 1024  # bytes of page, styles, scripts, font and icon, as they travel
WITH_CHARTS = 220 * 1024
SERVICE = "keyboard-shop"
PATIENT = 60  # seconds for a worker to make a call


@pytest.fixture
def dead(api: httpx.Client, sink: Receiver) -> str:
    """A message that died of its first call; the other side is well again."""
    sink.decide(lambda call: Answer(status=500))
    made = api.patch(f"services/{SERVICE}", json={"base_url": sink.url})
    if made.status_code == 404:
        made = api.post("services", json={"name": SERVICE, "base_url": sink.url, "retry": {"max_attempts": 1}})
    assert made.status_code < 300, made.text
    sent = api.post("messages", json={"service": SERVICE, "path": "/orders", "body": {"order": 1}}).json()["id"]
    until(lambda: api.get(f"messages/{sent}").json()["status"] == "dead", PATIENT, "it did not die")
    sink.decide(lambda call: Answer(status=200))
    return str(sent)


def test_from_something_red_to_replayed_without_a_mouse(signed_in: Page, dead: str, sink: Receiver) -> None:
    keys = signed_in.keyboard
    signed_in.goto("/")
    expect(signed_in.locator("main")).to_contain_text(SERVICE)
    keys.press("g")
    keys.press("m")
    signed_in.wait_for_url("**/messages/")
    keys.press("/")
    keys.type(f"service:{SERVICE} status:dead")  # letters are letters in a field
    keys.press("Enter")
    signed_in.wait_for_url(re.compile("status(=|%3A)dead"))
    keys.press("j")
    expect(signed_in.locator("tr:focus-within")).to_contain_text(dead)
    keys.press("r")
    dialog = signed_in.locator("dialog[open]")
    expect(dialog).to_contain_text("Replay")
    keys.press("Tab")
    keys.press("Enter")
    expect(signed_in.locator("main .badge.delivered").first).to_be_visible(timeout=3 * PATIENCE)
    assert sink.last.header("webhook-id") == dead


@pytest.mark.parametrize("look", [AT_NIGHT_BY_PHONE], indirect=True, ids=str)
def test_more_filters_made_the_list_scroll_sideways(look: Look, signed_in: Page, dead: str) -> None:
    signed_in.goto("/messages/")
    signed_in.get_by_text("More filters").click()
    expect_clean(signed_in)


@pytest.mark.parametrize("look", EVERY_LOOK, indirect=True, ids=str)
def test_pause_and_resume(look: Look, signed_in: Page, dead: str, api: httpx.Client, sink: Receiver) -> None:
    signed_in.goto(f"/services/{SERVICE}/")
    signed_in.get_by_role("link", name="Pause").click()
    dialog = signed_in.get_by_role("dialog")
    expect(dialog).to_contain_text(f"No messages are waiting for {SERVICE}.")
    dialog.get_by_label("Reason").fill("their maintenance")
    dialog.get_by_role("button", name="Pause").click()
    expect(signed_in.locator("main")).to_contain_text("Paused: their maintenance")
    sent = api.post("messages", json={"service": SERVICE, "path": "/held"}).json()["id"]
    expect(signed_in.locator("h1")).to_contain_text("paused")
    signed_in.reload()
    signed_in.get_by_role("link", name="Resume").click()
    dialog = signed_in.get_by_role("dialog")
    expect(dialog).to_contain_text(f"1 message is waiting for {SERVICE}.")
    assert sent not in sink.ids()
    dialog.get_by_role("button", name="Resume").click()
    expect(signed_in.locator("h1")).not_to_contain_text("paused")
    sink.wait_until(lambda: sent in sink.ids(), PATIENT, "the held message")


def test_back_forward_and_reload_keep_the_place(signed_in: Page, dead: str) -> None:
    search = f"service:{SERVICE} status:dead"
    signed_in.goto("/messages/")
    box = signed_in.locator("main input[type=search]")
    box.fill(search)
    box.press("Enter")
    row = signed_in.get_by_role("link", name=dead).first
    expect(row).to_be_visible()
    place = signed_in.url
    row.click()
    signed_in.wait_for_url(f"**/messages/{dead}/")
    signed_in.go_back()
    assert signed_in.url == place
    expect(row).to_be_visible()
    signed_in.go_forward()
    signed_in.wait_for_url(f"**/messages/{dead}/")
    signed_in.go_back()
    signed_in.reload()
    assert signed_in.url == place
    expect(row).to_be_visible()
    signed_in.goto("/?span=month")
    signed_in.get_by_role("link", name="Day", exact=True).click()
    expect(signed_in.locator("main")).to_contain_text("Calls in the last day")
    signed_in.go_back()
    expect(signed_in.locator("main")).to_contain_text("Calls in the last 30 days")


def test_the_palette_finds_pages_actions_and_services(signed_in: Page, dead: str) -> None:
    signed_in.goto("/services/")
    palette = signed_in.locator("#palette")
    signed_in.keyboard.press("Control+k")
    expect(palette).to_be_visible()
    expect(palette.get_by_role("option", name=re.compile("Register a service"))).to_be_visible()
    expect_clean(signed_in)
    signed_in.keyboard.type("keyboard")
    expect(palette.get_by_role("option").first).to_contain_text(SERVICE)
    signed_in.keyboard.press("Escape")
    expect(palette).to_be_hidden()
    signed_in.locator("#palette-button").click()
    palette.locator("input").fill("breakers")
    expect(palette.get_by_role("option", selected=True)).to_contain_text("Breakers")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url("**/breakers/")
    signed_in.keyboard.press("Control+k")
    signed_in.keyboard.type("pause keyboard")
    expect(palette.get_by_role("option", selected=True)).to_contain_text(f"Pause {SERVICE}Action")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url(f"**/services/{SERVICE}/pause/")
    signed_in.keyboard.press("Control+k")
    signed_in.keyboard.type(SERVICE)
    expect(palette.get_by_role("option", selected=True)).to_contain_text(f"{SERVICE}Service")
    signed_in.keyboard.press("Enter")
    signed_in.wait_for_url(f"**/services/{SERVICE}/")


def test_what_is_typed_before_the_palette_has_come_is_not_lost(signed_in: Page, dead: str) -> None:
    signed_in.goto("/workers/")
    kept_back: list[Route] = []
    signed_in.route("**/palette.js", lambda route: kept_back.append(route))
    with signed_in.expect_request("**/palette.js"):
        signed_in.keyboard.press("Control+k")
    signed_in.keyboard.type("pause keyboard")
    kept_back[0].continue_()
    expect(signed_in.get_by_role("option", selected=True)).to_contain_text(f"Pause {SERVICE}Action")
    expect(signed_in.locator("#live .word")).to_have_text("Live")  # no letter was taken for a shortcut


def test_keys_can_be_switched_off(signed_in: Page) -> None:
    signed_in.goto("/")
    signed_in.keyboard.press("?")
    signed_in.get_by_label("Enable shortcuts in this browser").uncheck()
    signed_in.keyboard.press("Escape")
    signed_in.goto("/services/")  # it is kept
    for key in ("?", "Control+k", "p"):
        signed_in.keyboard.press(key)
    expect(signed_in.locator("dialog[open]")).to_have_count(0)
    expect(signed_in.locator("#live .word")).to_have_text("Live")


def test_no_page_is_heavy(signed_in: Page, dead: str) -> None:
    heard: list[Response] = []
    pages = addresses(signed_in, dead)
    network = signed_in.context.new_cdp_session(signed_in)
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    signed_in.on("response", lambda response: heard.append(response))
    for address in pages:
        signed_in.goto("about:blank")  # what the last page still asked for has no body any more
        heard.clear()
        signed_in.goto(address)
        is_part = ("document", "stylesheet", "script", "font", "image", "other")
        parts = {each.url: each for each in heard if each.request.resource_type in is_part}
        weights = {url: each.request.sizes()["responseBodySize"] for url, each in parts.items()}
        assert min(weights.values()) > 0, (address, weights)
        assert any("htmx" in url for url in weights), "it was not weighed"
        limit = WITH_CHARTS if any("uPlot" in url for url in weights) else HEAVIEST
        assert sum(weights.values()) <= limit, (address, sum(weights.values()), weights)


def test_from_a_search_to_replayed_without_javascript(signed_in: Page, dead: str, installation: Installation) -> None:
    browser = signed_in.context.browser
    assert browser is not None
    context = browser.new_context(
        base_url=installation.url, java_script_enabled=False, storage_state=signed_in.context.storage_state()
    )
    try:
        plain = context.new_page()
        plain.goto("/")
        plain.get_by_role("link", name="Messages", exact=True).click()
        plain.locator("main input[type=search]").fill(f"service:{SERVICE} status:dead")
        plain.locator("main input[type=search]").press("Enter")
        plain.get_by_role("link", name=dead).first.click()
        plain.get_by_role("button", name="Replay").first.click()
        expect(plain).not_to_have_url(re.compile(dead))
        expect(plain.locator("main").get_by_role("link", name=dead)).to_be_visible()
    finally:
        context.close()


def addresses(page: Page, dead: str) -> list[str]:
    """The pages of the rail, and one page of each kind below them."""
    page.goto("/")
    found = [link.get_attribute("href") or "" for link in page.locator(".rail > ul > li > a").all()]
    service, message = f"/services/{SERVICE}/", f"/messages/{dead}/"
    kinds = [service + part for part in ("", "edit/", "try/", "pause/", "resume/", "breaker/", "delete/", "calls/")]
    kinds += [service + "endpoints/new/", message, message + "replay/", "/messages/new/", "/?span=month"]
    kinds += ["/settings/people/new/", "/settings/tokens/new/", "/settings/password/"]
    page.goto("/failures/")
    group = page.locator("main tbody a").first.get_attribute("href") or ""
    return [*found, *kinds, group]
