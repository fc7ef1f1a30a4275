"""The journey of `tests/test_journey.py`, as an operator sees it: a real browser against a fresh `manage.py up`."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import WORKERS, expect_clean
from tests.support.installation import Installation
from tests.support.receiver import Receiver
from tests.support.waiting import until

PASSWORD = "correct horse battery"
RELOADS = 30
EMPTY = (
    "/",
    "/services/",
    "/messages/",
    "/messages/new/",
    "/failures/",
    "/operations/",
    "/lab/",
    "/breakers/",
    "/status/",
)


def test_the_journey_in_a_browser(
    start_installation: Callable[..., Installation], page: Page, sink: Receiver, shot: Callable[..., None]
) -> None:
    # The page comes after the installation, so that it is closed before the installation stops: it reads the stream.
    installation = start_installation(SWITCHBOARD_ALLOW_PRIVATE=None)
    until(lambda: "/setup/" in installation.log, 10, "no set-up link")
    link = re.search(r"http://\S+/setup/\S+", installation.log)
    assert link is not None

    # The one-time link makes the first admin.
    page.goto(link[0])
    shot("setup")
    expect_clean(page)
    page.get_by_label("Username").fill("ada")
    for field in page.locator("input[type=password]").all():
        field.fill(PASSWORD)
    page.locator("main button.primary").click()
    expect(page.locator("h1")).to_contain_text("Get started")
    page.goto(installation.url)
    shot("overview-empty")
    for address in EMPTY:
        page.goto(installation.url + address)
        expect(page.locator("main .empty")).to_be_visible()
        shot(f"empty{address.replace('/', '-')}")
        expect_clean(page)

    # Register a service; the basic fields are open, the policy is behind its headings.
    page.goto(f"{installation.url}/services/new/")
    page.locator("[name=name]").fill("billing")
    page.locator("[name=base_url]").fill(sink.url)
    for details in page.locator("main form details > summary").all():
        details.click()
    for name, value in {
        "network.allow_private": "127.0.0.0/8",
        "network.reason": "The receiver runs here.",
        "retry.max_attempts": "2",
        "retry.initial": "0.2",
        "retry.budget": "1",
        "breaker.open_for": "1",
        "limits.concurrency": "4",
    }.items():
        page.locator(f'[name="{name}"]').fill(value)
    page.get_by_role("button", name="Register").click()
    expect(page.locator("h1")).to_contain_text("billing")

    # Send a message; it is delivered, with its attempt.
    first = send(page, installation, '{"order": 1, "customer": "Zoë"}')
    expect(page.locator("main .badge.delivered").first).to_be_visible()
    assert sink.last.json() == {"order": 1, "customer": "Zoë"}
    shot("message-delivered")

    # The other side goes down: some die, the breaker opens and says why, the rest wait.
    sink.stop()
    sent = [send(page, installation, f'{{"order": {number}}}') for number in range(2, 12)]
    reload_until(page, f"{installation.url}/breakers/", ".badge.open, .badge.half_open")
    shot("breakers-open")
    reload_until(page, f"{installation.url}/messages/{sent[-1]}/", "text=The breaker of billing is")
    shot("message-waiting")
    reload_until(page, f"{installation.url}/messages/?status=dead", "main .badge.dead")
    page.goto(installation.url)
    shot("overview-trouble")

    # It comes back: the probe closes the breaker and the waiting messages are delivered.
    sink.start()
    reload_until(page, f"{installation.url}/breakers/", ".badge.closed")
    api = installation.api(installation.token())
    pending = {"status": "pending"}
    until(lambda: not api.get("/messages", params=pending).json()["items"], WORKERS / 1000, lambda: "some still wait")
    page.goto(f"{installation.url}/messages/")
    shot("messages")

    # Replay a dead one from its page.
    dead = api.get("/messages", params={"status": "dead"}).json()["items"]
    assert dead
    page.goto(f"{installation.url}/messages/{dead[0]['id']}/")
    shot("message-dead")
    page.get_by_role("button", name=re.compile("^Replay$")).click()
    page.locator("dialog[open] button:not([value=cancel]):not(.quiet)").last.click()
    expect(page.locator("main .badge.delivered").first).to_be_visible(timeout=WORKERS)
    shot("message-replayed")
    assert api.get(f"/messages/{dead[0]['id']}").json()["status"] == "dead"
    assert sink.last.header("webhook-id") == dead[0]["id"]

    # The same pages on a phone and in the dark.
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme="dark")
    for name, address in {
        "overview": "/",
        "services": "/services/",
        "service": "/services/billing/",
        "messages": "/messages/",
        "message": f"/messages/{first}/",
        "breakers": "/breakers/",
        "lab": "/lab/",
        "workers": "/workers/",
    }.items():
        page.goto(installation.url + address)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways"
        shot(f"phone-{name}")


def send(page: Page, installation: Installation, body: str) -> str:
    page.goto(f"{installation.url}/messages/new/")
    page.locator("[name=service]").select_option("billing")
    page.locator("[name=path]").fill("/orders")
    page.locator("[name=body]").fill(body)
    page.get_by_role("button", name="Queue message").click()
    page.wait_for_url("**/messages/msg_*/")
    return page.url.rstrip("/").rpartition("/")[2]


def reload_until(page: Page, address: str, selector: str) -> None:
    """The page at the operator's next look, without waiting for its own refresh."""
    for _ in range(RELOADS):
        page.goto(address)
        if page.locator(selector).first.is_visible():
            return
        page.wait_for_timeout(300)
    raise AssertionError(f"{selector} did not appear on {address}")
