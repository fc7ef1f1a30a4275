"""Bodies in a browser: in colour and readable in both themes, folded, and large without freezing the page."""

from __future__ import annotations

import json
from base64 import b64encode

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import EVERY_LOOK, Look, expect_clean
from tests.support.receiver import Receiver

XML = '<?xml version="1.0"?>\n<order id="9010"><!-- first --><note>Cable &amp; plug</note></order>\n'
FORM = "grant_type=client_credentials&scope=read%20write"
FROZEN = 500  # milliseconds in which the page draws nothing, on a machine that others share
# Unfold, and wait for the frame that shows it.
UNFOLDED = """() => new Promise((resolve) => {
    const began = performance.now();
    document.querySelector("#rest-message-body summary").click();
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now() - began)));
})"""


@pytest.fixture
def service(api: httpx.Client, sink: Receiver) -> str:
    if api.get("services/bodies").status_code == 404:
        assert api.post("services", json={"name": "bodies", "base_url": sink.url}).status_code == 201
    return "bodies"


@pytest.mark.parametrize("look", EVERY_LOOK, indirect=True, ids=str)
def test_every_kind_of_body_is_in_colour_and_readable(
    look: Look, signed_in: Page, api: httpx.Client, service: str
) -> None:
    kinds = (("application/xml", XML, "<order id="), ("application/x-www-form-urlencoded", FORM, "client_credentials"))
    for content_type, body, words in kinds:
        sent = {
            "service": service,
            "path": "/",
            "body_base64": b64encode(body.encode()).decode(),
            "content_type": content_type,
        }
        answer = api.post("messages", json=sent)
        assert answer.status_code < 300, answer.text
        signed_in.goto(f"/messages/{answer.json()['id']}/")
        body_shown = signed_in.locator("#body-message-body")
        expect(body_shown).to_contain_text(words)
        expect(body_shown.locator(".h-name").first).to_be_visible()
        expect_clean(signed_in)


def test_one_mebibyte_of_json_does_not_freeze_the_page(signed_in: Page, api: httpx.Client, service: str) -> None:
    rows = [{"id": number, "customer": "acme", "total": 12.5, "paid": True} for number in range(16_000)]
    body = json.dumps(rows)
    assert 900_000 < len(body) < 1024 * 1024
    sent = api.post("messages", json={"service": service, "path": "/", "body": rows}).json()["id"]
    signed_in.context.grant_permissions(["clipboard-read", "clipboard-write"])
    signed_in.goto(f"/messages/{sent}/")
    shown = signed_in.locator("#body-message-body")
    expect(shown.locator("pre").first).to_contain_text('[\n  {\n    "id": 0,')
    expect(signed_in.locator("#content")).to_contain_text("Showing the first")
    assert signed_in.evaluate(UNFOLDED) < FROZEN
    expect(shown.locator("pre").last).to_contain_text('"id": 100,')
    signed_in.locator("#content").get_by_role("button", name="Copy").click()
    expect(signed_in.locator("#content").get_by_role("button", name="Copied")).to_be_visible()
    copied = signed_in.evaluate("navigator.clipboard.readText()")
    assert copied.startswith('[\n  {\n    "id": 0,')
    assert '"id": 100,' in copied
