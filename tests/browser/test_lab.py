"""The lab in a browser: request and response side by side, sent by key, cancelled, compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import AT_NIGHT_BY_PHONE, WORKERS, Complaints, expect_clean
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

_numbers = count(1)


@pytest.fixture
def receiver(api: httpx.Client) -> Iterator[tuple[str, Receiver]]:
    with Receiver() as sink:
        name = f"lab-{next(_numbers)}"
        assert api.post("services", json={"name": name, "base_url": sink.url}).is_success
        yield name, sink


def test_a_key_sends_and_the_response_comes_next_to_what_was_typed(
    signed_in: Page, receiver: tuple[str, Receiver], shot: Callable[..., None]
) -> None:
    name, sink = receiver
    sink.decide(lambda call: Answer(status=201, body={"made": {"id": 7, "lines": [1, 2, 3]}}))
    signed_in.set_viewport_size({"width": 1440, "height": 900})
    signed_in.goto(f"/lab/?service={name}")
    signed_in.locator("[name=method]").select_option("POST")
    signed_in.locator("[name=path]").fill("orders")
    signed_in.locator("#lab-body > summary").click()
    body = signed_in.locator("[name=body]")
    body.fill('{"order":1}')
    body.press("Control+Enter")
    result = signed_in.locator("#result")
    expect(result).to_contain_text("201")
    expect(result).to_contain_text('"made"')
    expect(body).to_have_value('{"order":1}')  # as typed, and still there to be changed
    assert re.search(r"/lab/att_\d+_", signed_in.url)
    expect(signed_in.locator("#history")).to_contain_text("/orders")
    left, right = signed_in.locator("#lab-form").bounding_box(), result.bounding_box()
    assert left is not None
    assert right is not None
    assert right["x"] >= left["x"] + left["width"]
    fold = result.get_by_label("Fold 3 lines")
    fold.click()
    expect(fold).to_have_attribute("aria-expanded", "false")
    expect(result.get_by_text("3", exact=True)).to_be_hidden()
    expect(result.locator(".payload pre.code").first).to_contain_text('"lines": [\n      1,')  # a copy has all of it
    fold.click()
    body.fill('{"order":2}')
    body.press("Control+Enter")
    until(lambda: len(sink.calls) == 2, 10, lambda: "the second call was not made")
    assert sink.last.json() == {"order": 2}
    shot("lab-side-by-side")
    expect_clean(signed_in)
    AT_NIGHT_BY_PHONE.put_on(signed_in)
    shot("lab-phone")
    expect_clean(signed_in)


def test_cancel_ends_the_call_and_closes_its_connection(
    signed_in: Page, receiver: tuple[str, Receiver], complaints: Complaints
) -> None:
    name, sink = receiver
    sink.decide(lambda call: Answer(hang=True))
    signed_in.goto(f"/lab/?service={name}")
    signed_in.locator("[name=path]").fill("/slow")
    signed_in.locator("#lab-form").get_by_role("button", name="Send").click()
    until(lambda: bool(sink.calls), 10, lambda: "the call was not made")
    signed_in.locator("#sending").get_by_role("button", name="Cancel").click()
    expect(signed_in.locator("#result")).to_contain_text("cancelled", timeout=WORKERS)


def test_a_mistake_is_said_in_the_form_and_the_response_before_it_stays_away(
    signed_in: Page, receiver: tuple[str, Receiver], complaints: Complaints
) -> None:
    complaints.allow("422")
    name, sink = receiver
    signed_in.goto(f"/lab/?service={name}")
    signed_in.locator("[name=path]").fill("/a b")
    signed_in.locator("#lab-form").get_by_role("button", name="Send").click()
    expect(signed_in.locator("#id_path_error")).to_be_visible()
    assert not sink.calls
    signed_in.locator("[name=path]").fill("/a")
    signed_in.locator("#lab-form").get_by_role("button", name="Send").click()
    expect(signed_in.locator("#result")).to_contain_text("200")


def test_a_pasted_curl_for_an_unknown_host_leads_to_its_registration(signed_in: Page, complaints: Complaints) -> None:
    complaints.allow("422")
    signed_in.goto("/lab/")
    signed_in.locator("#lab-curl > summary").click()
    signed_in.locator("#curl").fill("curl https://never-seen.example/v1/orders -d '{}'")
    signed_in.get_by_role("button", name="Fill in").click()
    signed_in.get_by_role("link", name="Register https://never-seen.example").click()
    expect(signed_in.get_by_label("Base URL", exact=True)).to_have_value("https://never-seen.example")
    expect(signed_in.get_by_label("Name", exact=True)).to_have_value("never-seen-example")
