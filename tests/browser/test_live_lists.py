"""Lists that refresh themselves: each row stays the same element, and no row moves while the operator uses the list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import WORKERS
from tests.support.installation import Installation
from tests.support.receiver import Answer, Call, Receiver
from tests.support.waiting import until

LISTS = {  # a page, and the selector of its list
    "overview": ("/", "ul.attention"),
    "services": ("/services/?q=lists-", "tbody"),
    "service": ("/services/lists-a/", "[aria-labelledby=events] ul.lines"),
    "messages": ("/messages/?q=service:lists-a", "tbody"),
    "failures": ("/failures/?service=lists-a", "tbody"),
    "failure": ("/failures/{failure}/", ".failure-operations"),
    "operations": ("/operations/", "tbody"),
    "operation": ("/operations/{operation}/", "tbody"),
    "breakers": ("/breakers/", "[data-rows]"),
    "trips": ("/breakers/", ".trip-rows tbody"),
    "workers": ("/workers/", "tbody"),
    "status": ("/status/", "tbody"),
}
SOON = 20_000  # ms: before the slow poll, which would refresh the panel anyway

NEXT_VERSION = """([selector, change]) => {
    const panel = document.querySelector(`main [data-live] ${selector}`).closest("[data-live]").cloneNode(true);
    for (const plot of panel.querySelectorAll(".plot")) plot.replaceChildren(); // drawn by the browser
    const list = panel.querySelector(selector);
    if (change === "reversed") list.append(...[...list.children].reverse());
    if (change === "one more") {
        const row = list.firstElementChild.cloneNode(true);
        for (const inner of row.querySelectorAll("[id]")) inner.removeAttribute("id");
        row.id = "row-new";
        list.prepend(row);
        list.children[2].lastElementChild.textContent = "changed";
    }
    return panel.outerHTML;
}"""


@dataclass
class LiveList:
    """A list on a page that the event stream keeps up to date."""

    page: Page
    selector: str

    @classmethod
    def at(cls, page: Page, address: str, selector: str) -> LiveList:
        page.goto(address)
        page.locator("html[data-stream=up]").wait_for(state="attached", timeout=SOON)
        return cls(page, selector)

    @property
    def element(self) -> Locator:
        return self.page.locator(f"main [data-live] {self.selector}").first

    @property
    def rows(self) -> Locator:
        return self.element.locator(":scope > *")

    @property
    def ids(self) -> list[str]:
        found: list[str] = self.rows.evaluate_all("rows => rows.map(row => row.id)")
        return found

    def next_is(self, change: str) -> None:
        """Answer the panel's requests with its present content, where the list is changed in this way."""
        html = self.page.evaluate(NEXT_VERSION, [self.selector, change])
        panel = re.compile("/_p/(?!failing|trouble)")  # the other two panels are in the rail of every page
        self.page.unroute_all()
        self.page.route(panel, lambda route: route.fulfill(body=html, content_type="text/html"))

    def refresh(self, change: str) -> None:
        self.next_is(change)
        self.element.evaluate("list => htmx.trigger(list.closest('[data-live]'), 'refresh')")

    def expect_ids(self, ids: list[str]) -> None:
        expect(self.rows.first).to_have_id(ids[0])
        assert self.ids == ids


@pytest.fixture(scope="module")
def places(installation: Installation, token: str) -> Iterator[dict[str, str]]:
    """At least two rows for each list, and the ids that addresses need."""
    with Receiver() as sink, installation.api(token) as api:
        sink.decide(_refuse)
        for name in ("lists-a", "lists-b"):
            fields = {"retry": {"max_attempts": 1}, "breaker": {"consecutive_failures": 3, "open_for": 3600}}
            _made(api.post("services", json={"name": name, "base_url": sink.url, **fields}))
            for status in (500, 503, 500):
                sent = _made(api.post("messages", json={"service": name, "path": f"/{status}"}))["id"]
                _wait_until(api, f"messages/{sent}", "status", "dead")
            _wait_until(api, f"services/{name}/breaker", "state", "open")
        failure = api.get("failures", params={"service": "lists-a"}).json()["items"][0]["id"]
        planned = [_plan(api, query) for query in (f"failure:{failure}", f"failure:{failure}", "service:lists-a")]
        yield {"failure": failure, "operation": planned[-1]}


def _refuse(call: Call) -> Answer:
    return Answer(status=int(call.path[1:]), body={"message": "Come back later."})


def _made(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json()


def _plan(api: httpx.Client, query: str, **more: object) -> str:
    given = {"kind": "replay", "reason": "Test", "filter": query, "dry_run": True, **more}
    operation = str(_made(api.post("operations", json=given))["id"])
    _wait_until(api, f"operations/{operation}", "state", "running" if more else "finished")
    return operation


def _wait_until(api: httpx.Client, address: str, field: str, value: str) -> None:
    until(lambda: _made(api.get(address))[field] == value, WORKERS / 1000, lambda: f"{field} of {address}")


# ---- every list -----------------------------------------------------------------------------------------------------
@pytest.fixture
def live_list(request: pytest.FixtureRequest, signed_in: Page, places: dict[str, str]) -> LiveList:
    """With the pointer elsewhere."""
    address, selector = LISTS[request.param]
    return LiveList.at(signed_in, address.format_map(places), selector)


@pytest.mark.parametrize("live_list", LISTS, indirect=True)
def test_every_row_has_an_id_and_stays_the_same_element(live_list: LiveList) -> None:
    page = live_list.page
    rows = page.locator("main [data-live] :is(tbody tr, li):not(.plot *), [data-rows] > *")
    assert rows.evaluate_all("rows => rows.every(row => row.id)")
    ids = page.locator("[id]").evaluate_all("found => found.map(each => each.getAttribute('id'))")
    assert sorted(ids) == sorted(set(ids))

    before = live_list.ids
    assert len(before) > 1
    elements = live_list.element.evaluate_handle("list => [...list.children].reverse()")
    live_list.refresh("one more")  # with the links of another row
    live_list.expect_ids(["row-new", *before])
    live_list.refresh("reversed")
    live_list.expect_ids([*before[::-1], "row-new"])
    assert live_list.element.evaluate("(list, rows) => rows.every((row, at) => row === list.children[at])", elements)


@pytest.mark.parametrize("live_list", LISTS, indirect=True)
def test_rows_wait_while_the_list_has_the_pointer_or_the_focus(live_list: LiveList) -> None:
    page, before = live_list.page, live_list.ids
    live_list.rows.nth(1).hover()
    live_list.refresh("one more")
    expect(page.locator("#held")).to_have_text("1 new")
    expect(live_list.rows.nth(1)).to_contain_text("changed")  # a row that stays is up to date
    assert live_list.ids == before
    page.mouse.move(0, 0)
    live_list.expect_ids(["row-new", *before])
    expect(page.locator("#held")).to_be_hidden()

    links = live_list.element.locator("a[href]")
    if not links.count():
        return
    links.first.focus()
    focused = page.evaluate_handle("document.activeElement")
    live_list.refresh("reversed")
    expect(page.locator("#held")).to_have_text("Changed")
    assert live_list.ids == ["row-new", *before]
    page.keyboard.press("n")
    live_list.expect_ids([*before[::-1], "row-new"])
    assert page.evaluate("focused => focused === document.activeElement", focused)


# ---- the rest of a panel --------------------------------------------------------------------------------------------
def test_open_details_move_with_their_row(signed_in: Page, places: dict[str, str]) -> None:
    tiles = LiveList.at(signed_in, "/breakers/", "[data-rows]")
    before = tiles.ids
    tiles.rows.first.locator("summary").click()
    signed_in.mouse.move(0, 0)
    signed_in.evaluate("document.activeElement.blur()")
    tiles.refresh("reversed")
    tiles.expect_ids(before[::-1])
    expect(tiles.element.locator("details[open]")).to_have_count(1)
    expect(tiles.rows.last.locator("details")).to_have_attribute("open", "")


def test_a_panel_with_selected_text_does_not_refresh(signed_in: Page, places: dict[str, str]) -> None:
    tiles = LiveList.at(signed_in, "/breakers/", "[data-rows]")
    tiles.element.evaluate("tiles => getSelection().selectAllChildren(tiles.firstElementChild)")
    asked: list[str] = []
    signed_in.on("request", lambda request: asked.append(request.url))
    tiles.next_is("one more")
    signed_in.evaluate("new BroadcastChannel('switchboard-live').postMessage({changed: [{topics: ['breakers']}]})")
    signed_in.wait_for_timeout(2_000)  # a panel asks within 1.3 s
    assert not [url for url in asked if "/_p/breakers/" in url]
    signed_in.evaluate("getSelection().removeAllRanges()")
    expect(signed_in.locator("#row-new")).to_be_attached(timeout=SOON)


def test_a_typed_value_and_its_focus_stay(signed_in: Page, places: dict[str, str], api: httpx.Client) -> None:
    running = _plan(api, "service:lists-a", dry_run=False, rate=0.01)
    items = LiveList.at(signed_in, f"/operations/{running}/", "tbody")
    before = items.ids
    rate = signed_in.get_by_label("Messages per second")
    rate.fill("7")
    items.refresh("reversed")
    items.expect_ids(before[::-1])
    expect(rate).to_have_value("7")
    expect(rate).to_be_focused()
    api.post(f"operations/{running}/cancel")


def test_the_overview_keeps_all_reasons_of_a_service(
    signed_in: Page, places: dict[str, str], api: httpx.Client
) -> None:
    lines = LiveList.at(signed_in, "/", "ul.attention")
    row = lines.rows.filter(has=signed_in.get_by_role("link", name="lists-b", exact=True))
    expect(row).to_have_count(1)
    _made(api.post("services/lists-a/pause", json={"reason": "A reason to refresh"}))
    try:
        expect(lines.element).to_contain_text("A reason to refresh", timeout=SOON)
        for reason in ("down since", "dead", "new failure"):
            expect(row).to_contain_text(reason)
        expect(signed_in.locator("#attention + span")).to_have_text(str(lines.rows.count()))
    finally:
        api.post("services/lists-a/resume", json={})
