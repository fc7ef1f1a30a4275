"""A failure for the person on call: find, look, test, replay its group at a rate, watch, resolve."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from playwright.sync_api import Page, expect

from tests.browser.conftest import WORKERS, Look, Person, expect_clean
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

SENT = 15  # more than any other group of this installation, so that it is the first in the overview


def test_find_the_failing_service_read_why_replay_the_group_and_see_it_drain(
    look: Look, page: Page, ruth: Person, api: httpx.Client, sink: Receiver, shot: Callable[..., None]
) -> None:
    service = f"stock-{look}"
    sink.decide(lambda call: Answer(status=422, body={"code": "no_stock", "message": "none left"}))
    made = api.post("services", json={"name": service, "base_url": sink.url, "limits": {"concurrency": 2}})
    assert made.status_code == 201, made.text
    for number in range(SENT):
        sent = api.post("messages", json={"service": service, "path": "/orders", "body": {"order": number}})
        assert sent.status_code == 202, sent.text
    until(lambda: dead(api, service) == SENT, WORKERS / 1000, lambda: "they are not dead")

    # Find it: the overview names it and links to it.
    ruth.sign_in(page)
    page.goto("/")
    attention = page.locator("ul.attention")
    row = attention.get_by_role("listitem").filter(has=page.get_by_role("link", name=service, exact=True))
    expect(row).to_contain_text(f"{SENT} dead")
    expect(row).to_contain_text("1 new failure")
    shot(f"act-overview-{look}")
    row.get_by_role("link", name="Investigate").click()

    # Read why.
    panel = page.locator("#failure")
    expect(panel).to_contain_text("Error code")
    expect(panel).to_contain_text("none left")
    expect(panel).to_contain_text(f"{SENT} dead")
    expect(page.locator("#failing .count")).to_be_visible()
    shot(f"act-failure-{look}")
    expect_clean(page)
    where = page.url

    # Test: the other side takes it now.
    sink.decide(lambda call: Answer(status=204))
    page.get_by_role("link", name="Open the sample in the lab").click()
    expect(page).to_have_url(re.compile(r"/lab/\?message=msg_"))
    page.get_by_role("button", name="Send").click()
    expect(page.locator("main")).to_contain_text("204")
    shot(f"act-lab-{look}")

    # Replay the group: the plan first, then one message, then the rest.
    page.goto(where)
    page.get_by_role("button", name="Plan the replay").click()
    operation = page.locator("#operation")
    expect(operation).to_contain_text(f"{service} {SENT}", timeout=WORKERS)
    page.get_by_label("Reason").fill("They have stock again")
    page.get_by_label("Messages per second").fill("0.01")  # one at once, the next in 100 s
    page.get_by_role("button", name=f"Replay: {SENT} messages").click()
    expect(page.locator(".toasts")).to_contain_text("Started.")
    with staying_on(page):
        expect(operation).to_contain_text(f"1 of {SENT} done", timeout=WORKERS)
    shot(f"act-draining-{look}")
    page.get_by_label("Messages per second").fill("50")
    page.get_by_role("button", name="Change").click()

    # See it drain.
    expect(page.locator(".toasts")).to_contain_text("Rate changed.")
    with staying_on(page):
        expect(operation).to_contain_text(f"{SENT} of {SENT} done", timeout=WORKERS)
        expect(operation.locator("tbody .badge.delivered")).to_have_count(SENT, timeout=WORKERS)
    page.goto(where)
    expect(panel).to_contain_text("all replayed")
    expect(panel).to_contain_text(f"{SENT} replayed: {SENT} delivered")
    shot(f"act-drained-{look}")

    # Resolve it, and say what was learnt.
    page.get_by_role("button", name="Resolve").click()
    expect(page.locator("#failure .badge.resolved")).to_be_visible()
    page.get_by_text("Add a note or an assignee").click()
    page.locator("#id_note").fill("See https://wiki.example/stock")
    page.get_by_label("Assignee").select_option("ruth")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("link", name="https://wiki.example/stock")).to_be_visible()
    expect(page.locator("#note")).to_contain_text("Assigned to ruth")
    expect_clean(page)
    page.goto(f"/failures/?service={service}")
    expect(page.locator("#failures")).to_contain_text(f"Nothing is open for {service}")
    page.goto("/")
    expect(page.locator("#overview")).not_to_contain_text(f"{SENT} dead")


@contextmanager
def staying_on(page: Page) -> Iterator[None]:
    """The page updates itself: the test never reloads it."""
    page.evaluate("window.isTheSame = true")
    yield
    assert page.evaluate("window.isTheSame"), "the page was reloaded"


def dead(api: httpx.Client, service: str) -> int:
    return len(api.get("messages", params={"service": service, "status": "dead"}).json()["items"])
