"""A refused message: what its page tells, and the correction that is looked at before it is sent."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
from playwright.sync_api import Page, expect

from tests.browser.conftest import WORKERS, Look, Person, expect_clean
from tests.support.receiver import Answer, Call, Receiver
from tests.support.waiting import until

BODY = {"order": 12345678901234567890, "currency": "EURO", "lines": [{"sku": "a"}, {"sku": "b"}, {"sku": "c"}]}


def judged(call: Call) -> Answer:
    if call.json()["currency"] == "EUR":
        return Answer(status=201)
    return Answer(
        status=422, headers=[("Set-Cookie", "session=abc")], body=b'{"error":"currency: must be three letters"}'
    )


def test_edit_a_refused_message_and_resend_it(
    look: Look, page: Page, ruth: Person, api: httpx.Client, sink: Receiver, shot: Callable[..., None]
) -> None:
    service = f"ledger-{look}"
    sink.decide(judged)
    assert api.post("services", json={"name": service, "base_url": sink.url}).status_code == 201
    endpoint = {"name": "book", "method": "POST", "path": "/orders"}
    assert api.post(f"services/{service}/endpoints", json=endpoint).status_code == 201
    sent = {"service": service, "endpoint": "book", "body": BODY, "headers": {"X-Source": "shop"}}
    message = api.post("messages", json=sent).json()["id"]
    until(lambda: api.get(f"messages/{message}").json()["status"] == "dead", WORKERS / 1000, lambda: "it did not die")
    ruth.sign_in(page)

    # The first screen: what happened, why, and what to do.
    page.goto(f"/messages/{message}/")
    verdict = page.locator(".verdict")
    expect(verdict).to_contain_text("Rejected with 422 (not retryable)")
    expect(verdict).to_contain_text("edit and replay")
    attempt = page.locator("#attempt-1")
    expect(attempt).to_have_attribute("open", "")
    expect(attempt).to_contain_text("must be three letters")
    expect(attempt).to_contain_text("12345678901234567890")
    expect(attempt.get_by_text("masked").first).to_be_visible()
    shot(f"message-refused-{look}")
    expect_clean(page)
    page.get_by_role("link", name="Hex").click()
    expect(page.locator("#body-message-body")).to_contain_text("000000  7b 22")

    # Edited, looked at, edited once more, sent.
    page.get_by_role("link", name="Edit and replay").click()
    body = page.get_by_label("Body")
    body.fill(body.input_value().replace("EURO", "EUD"))
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("ins")).to_have_text(re.compile('"currency": "EUD"'))
    page.get_by_role("button", name="Edit again").click()
    body.fill(body.input_value().replace("EUD", "EUR"))
    page.get_by_role("button", name="Review changes").click()
    expect(page.locator("del")).to_have_text(re.compile('"currency": "EURO"'))
    expect(page.locator("ins")).to_have_text(re.compile('"currency": "EUR"'))
    expect(page.locator("main")).to_contain_text("of its own")
    shot(f"message-review-{look}")
    expect_clean(page)
    page.get_by_role("button", name="Replay").click()
    expect(page.locator("main .badge.delivered").first).to_be_visible(timeout=WORKERS)
    assert (
        sink.last.body
        == b'{"order":12345678901234567890,"currency":"EUR","lines":[{"sku":"a"},{"sku":"b"},{"sku":"c"}]}'
    )
    shot(f"message-replay-delivered-{look}")

    # The original and its replay know each other.
    page.get_by_role("link", name=message).first.click()
    expect(page.locator(".verdict.replayed")).to_contain_text("replayed → delivered")
    expect(page.locator(".verdict")).to_contain_text("Another replay may reach the receiver twice")
    page.get_by_role("button", name="Replay", exact=True).click()
    expect(page.locator("dialog[open]")).to_contain_text("was delivered")
    page.locator("dialog[open]").get_by_role("button", name="Cancel").click()
    expect(page.locator("#timeline")).to_contain_text("Replayed by ruth")
