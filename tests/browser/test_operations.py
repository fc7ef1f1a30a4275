"""Bulk work for the person on call: select all matches, review, give a reason, watch the progress."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SIGNALLED, WORKERS, Look, Person, expect_clean
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

DEAD = 12
_numbers = count(1)


@pytest.fixture
def service(page: Page, look: Look, ruth: Person, api: httpx.Client, sink: Receiver) -> str:
    """The name of a service with dead messages, that would accept them now; an operator is signed in."""
    name = f"bulk-{look}-{next(_numbers)}"
    sink.decide(lambda call: Answer(status=400))
    made = api.post("services", json={"name": name, "base_url": sink.url})
    assert made.status_code == 201, made.text
    for number in range(DEAD):
        sent = api.post("messages", json={"service": name, "path": f"/orders/{number}", "body": {}})
        assert sent.status_code == 202, sent.text

    def all_dead() -> bool:
        return len(api.get("messages", params={"service": name, "status": "dead"}).json()["items"]) == DEAD

    until(all_dead, WORKERS / 1000, lambda: f"the messages of {name} are not dead")
    sink.decide(lambda call: Answer(status=204))
    ruth.sign_in(page)
    return name


def test_replay_all_that_match_and_watch_it(
    look: Look, page: Page, service: str, sink: Receiver, shot: Callable[..., None]
) -> None:
    before = len(sink.calls)
    page.goto(f"/messages/?service={service}&status=dead")
    page.get_by_label("all that match").check()
    shot(f"operations-select-{look}")
    expect_clean(page)
    page.get_by_role("button", name="Replay…").click()

    # The selection, before anything happens.
    expect(page.locator("h1")).to_contain_text("Replay")
    begin = page.get_by_role("button", name=f"Replay: {DEAD} messages")
    expect(begin).to_be_visible(timeout=WORKERS)
    expect(page.locator("#operation")).to_contain_text(f"{service} {DEAD}")
    shot(f"operations-planned-{look}")
    expect_clean(page)
    assert len(sink.calls) == before
    page.get_by_label("Reason").fill("They take them again")
    begin.click()

    # It is watched until it is done.
    operation = page.locator("#operation")
    expect(operation).to_contain_text(f"{DEAD} of {DEAD} done", timeout=SIGNALLED)
    expect(operation.locator(".badge.delivered").first).to_be_visible(timeout=WORKERS)
    shot(f"operations-done-{look}")
    expect_clean(page)
    sink.wait_until(lambda: len(sink.calls) == before + DEAD, timeout=30)
    page.get_by_role("link", name=re.compile("^Skipped")).click()
    expect(operation).to_contain_text("None.")

    page.goto("/operations/")
    expect(page.locator("#operations tbody tr").first).to_contain_text("finished")
    shot(f"operations-list-{look}")
    expect_clean(page)


def test_replay_a_few_pause_it_and_cancel_it(look: Look, page: Page, service: str, shot: Callable[..., None]) -> None:
    page.goto(f"/messages/?service={service}&status=dead")
    for box in page.locator("input[name=id]").all()[:3]:
        box.check()
    shot(f"operations-picked-{look}", full_page=False)
    page.get_by_role("button", name="Replay…").click()
    begin = page.get_by_role("button", name="Replay: 3 messages")
    expect(begin).to_be_visible(timeout=WORKERS)
    page.get_by_label("Reason").fill("Only these")
    page.get_by_label("Messages per second").fill("0.01")  # one at once, the next in 100 s
    begin.click()
    operation = page.locator("#operation")
    expect(operation).to_contain_text("1 of 3 done", timeout=SIGNALLED)
    operation.get_by_role("button", name="Pause").click()
    expect(operation.locator(".badge.paused")).to_be_visible()
    shot(f"operations-paused-{look}")
    expect_clean(page)
    operation.get_by_role("button", name="Cancel").click()
    page.locator("dialog[open]").get_by_role("button", name=re.compile("Cancel|Yes|Go on|Confirm")).last.click()
    expect(operation.locator(".badge.cancelled").first).to_be_visible()


def test_a_backlog_is_cancelled_and_its_service_deleted(
    look: Look, page: Page, mary: Person, api: httpx.Client, sink: Receiver, shot: Callable[..., None]
) -> None:
    name = f"backlog-{look}-{next(_numbers)}"
    assert api.post("services", json={"name": name, "base_url": sink.url}).status_code == 201
    assert api.post(f"services/{name}/pause", json={"reason": "full"}).status_code == 200
    message = {"service": name, "path": "/orders", "body": {}}
    for _ in range(3):
        assert api.post("messages/batch", json={"messages": [message] * 500}).status_code == 200
    mary.sign_in(page)
    page.goto(f"/services/{name}/")
    expect_clean(page)
    shot(f"service-backlog-{look}")
    page.get_by_role("button", name="Cancel all waiting messages").click()
    shot(f"service-cancel-waiting-{look}")
    page.get_by_role("button", name="Cancel messages").click()
    operation = page.locator("#operation")
    expect(operation).to_contain_text("1,500 of 1,500 done", timeout=SIGNALLED)
    shot(f"operation-cancelled-waiting-{look}")
    expect_clean(page)

    page.goto(f"/services/{name}/delete/")
    page.locator("#id_name").fill(name)
    page.get_by_role("button", name=f"Delete {name}").click()
    expect(page.locator("h1")).to_contain_text("Delete service")
    deletion = f"operations/{page.url.rstrip('/').rpartition('/')[2]}"
    assert api.post(f"{deletion}/pause").status_code == 200
    expect(operation.locator(".badge.paused")).to_be_visible(timeout=SIGNALLED)
    shot(f"operation-deletion-{look}")
    expect_clean(page)
    page.goto(f"/services/{name}/")
    expect(page.locator("#service")).to_contain_text("Being deleted", timeout=WORKERS)
    shot(f"service-deleting-{look}")
    expect_clean(page)
    page.goto("/services/")
    expect(page.get_by_role("row", name=name)).to_contain_text("deleting")
    assert api.post(f"{deletion}/resume").status_code == 200
    expect(page.get_by_role("row", name=name)).to_have_count(0, timeout=SIGNALLED)
    assert api.get(f"services/{name}").status_code == 404
