"""The service form in a browser: changes are counted and not lost, and a preview is next to them; and the help."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import httpx
import pytest
from playwright.sync_api import Dialog, Page, expect

from tests.browser.conftest import AT_NIGHT_BY_PHONE, expect_clean

_numbers = count(1)


@pytest.fixture
def service(api: httpx.Client) -> str:
    name = f"form-{next(_numbers)}"
    assert api.post("services", json={"name": name, "base_url": "https://api.example.com"}).is_success
    return name


def test_changes_are_counted_and_leaving_with_them_asks(
    signed_in: Page, service: str, shot: Callable[..., None]
) -> None:
    asked: list[str] = []

    def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.dismiss()

    signed_in.set_viewport_size({"width": 1440, "height": 900})
    signed_in.goto(f"/services/{service}/edit/")
    signed_in.on("dialog", stay)
    changes, save = signed_in.locator("[data-changes]"), signed_in.get_by_role("button", name="Save")
    expect(changes).to_be_empty()
    signed_in.get_by_label("Owner").fill("Ada")
    expect(changes).to_have_text("1 change")
    signed_in.locator("#retries > summary").click()
    signed_in.get_by_label("Max backoff").fill("12h")
    expect(changes).to_have_text("2 changes")
    preview = signed_in.locator("#retries .preview")
    expect(preview).to_contain_text("12 h")
    box, field = preview.bounding_box(), signed_in.get_by_label("Max backoff").bounding_box()
    assert box is not None
    assert field is not None
    assert box["x"] > field["x"] + field["width"]  # next to it, not below
    expect(save).to_be_in_viewport()
    shot("form-changed", full_page=False)
    signed_in.get_by_label("Owner").fill("")
    expect(changes).to_have_text("1 change")
    with signed_in.expect_event("dialog"):
        signed_in.locator(".rail").get_by_role("link", name="Workers").click()
    assert asked == ["beforeunload"]
    assert signed_in.url.endswith(f"/services/{service}/edit/")
    signed_in.get_by_label("Owner").press("Enter")  # saves: no other button may be the form's first
    expect(signed_in.locator("h1")).to_have_text(service)
    assert asked == ["beforeunload"]


def test_an_earlier_version_comes_back_by_two_clicks(
    signed_in: Page, service: str, api: httpx.Client, shot: Callable[..., None]
) -> None:
    assert api.patch(f"services/{service}", json={"owner": "Bob", "retry": {"max_attempts": 50}}).is_success
    signed_in.goto(f"/services/{service}/history/")
    signed_in.get_by_role("link", name="Restore this version").click()
    expect(signed_in.locator("main")).to_contain_text("retry.max_attempts")
    shot("restore")
    expect_clean(signed_in)
    AT_NIGHT_BY_PHONE.put_on(signed_in)
    expect_clean(signed_in)
    signed_in.get_by_role("button", name="Restore").click()
    expect(signed_in.locator("h1")).to_have_text(service)
    restored = api.get(f"services/{service}").json()
    assert (restored["owner"], restored["retry"]["max_attempts"]) == ("", 10)


def test_the_help_has_keys_grammar_and_the_docs_of_the_page(signed_in: Page, shot: Callable[..., None]) -> None:
    signed_in.goto("/messages/")
    signed_in.keyboard.press("?")
    dialog = signed_in.locator("#help")
    expect(dialog).to_contain_text("Next and previous row")
    expect(dialog).to_contain_text("older:")
    shot("help", full_page=False)
    expect_clean(signed_in)
    dialog.get_by_role("link", name="About this page").click()
    expect(signed_in.locator("h1")).to_have_text("Operating")
    expect(signed_in.locator("#searching")).to_be_in_viewport()
    signed_in.keyboard.press("Control+k")
    for typed, found in (("token", "Create a token"), ("retention", "Change the retention"), ("docs", "Documentation")):
        signed_in.locator("#palette input").fill(typed)
        expect(signed_in.locator("#palette").get_by_role("option").filter(has_text=found).first).to_be_visible()
