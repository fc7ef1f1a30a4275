"""The overview of the person on call: six services in trouble, and the figures are still in sight."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Person, expect_clean
from tests.support.installation import Installation

HEIGHT = 900


def test_with_six_services_in_trouble_the_figures_and_charts_are_above_the_fold(
    start_installation: Callable[..., Installation], page: Page, shot: Callable[..., None]
) -> None:
    own = start_installation()
    with own.api(own.token(name="fold")) as api:
        for number in range(6):
            name = f"partner-{number}"
            assert api.post("services", json={"name": name, "base_url": "https://api.example.com"}).status_code == 201
            opened = api.post(f"services/{name}/breaker", json={"action": "open", "reason": "their maintenance"})
            assert opened.status_code == 200, opened.text
    Person("ruth", own.operator("ruth", "operator"), at=own.url).sign_in(page)
    page.set_viewport_size({"width": 1440, "height": HEIGHT})
    page.goto(f"{own.url}/")
    expect(page.locator("ul.attention > li")).to_have_count(6)
    for part in (".stats", "figure.chart >> nth=0"):
        box = page.locator(part).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= HEIGHT, f"{part} ends at {box['y'] + box['height']:.0f}"
    shot("overview-six-in-trouble", full_page=False)
    expect_clean(page)


def test_a_page_from_before_a_journey_is_loaded_once_more_in_the_new_zone(
    page: Page, mary: Person, installation: Installation
) -> None:
    mary.sign_in(page)
    page.goto("/workers/")
    home = page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    expect(page.locator(".foot .zone")).to_have_text(f"Times in {home}")
    assert home != "Asia/Tokyo"
    page.context.add_cookies([{"name": "switchboard_zone", "value": "Asia/Tokyo", "url": installation.url}])
    loads: list[str] = []
    page.on("framenavigated", lambda frame: loads.append(frame.url))
    page.evaluate("sessionStorage.clear()")
    page.goto("/workers/")
    expect(page.locator(".foot .zone")).to_have_text(f"Times in {home}")
    page.wait_for_timeout(1_000)
    assert len(loads) == 2, "once in the old zone, and once in the new one"
