"""The guide's script for a page: it follows, reconnects to a killed server, and ends when its user signs out."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from playwright.sync_api import ConsoleMessage, Page

from tests.api.test_examples import example
from tests.browser.conftest import Complaints
from tests.support.installation import Installation

PATIENCE = 60_000  # milliseconds: the server restarts, and the browser waits before it reconnects


def test_the_script_of_the_guide_misses_nothing_and_hears_nothing_twice(
    page: Page, installation: Installation, complaints: Complaints
) -> None:
    complaints.allow("Failed to load resource|ERR_")  # the server is killed, and later the session has ended
    password = installation.operator("emmy", "admin")
    page.goto("/login/")
    page.get_by_label("Username").fill("emmy")
    page.locator("input[type=password]").fill(password)
    page.locator("main button.primary").click()
    page.wait_for_url("/")
    page.goto("/healthz")  # of the same origin, and without a script of its own

    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text) if "following" in message.text else None)
    with installation.api(installation.token(name="event-source")) as api:
        made = api.post("services", json={"name": "following", "base_url": "http://127.0.0.1:9"})
        assert made.status_code == 201, made.text

        def act(verb: str, **body: Any) -> None:
            assert api.post(f"services/following/{verb}", json=body).status_code == 200

        page.evaluate(f"() => {{ {example('js', 'EventSource')}; window.followed = stream; }}")
        wait_until(page, "OPEN")
        with page.expect_console_message(is_of("service.paused")):
            act("pause", reason="before")
        (web,) = installation.processes()["web"]
        os.kill(web.pid, signal.SIGKILL)
        wait_until(page, "CONNECTING")
        installation.wait_for_web()
        with page.expect_console_message(is_of("service.resumed"), timeout=PATIENCE):
            act("resume")  # perhaps before it is back
        with page.expect_console_message(is_of("service.paused"), timeout=PATIENCE):
            act("pause", reason="after")
        types = [text.partition('"type":"')[2].partition('"')[0] for text in heard]
        assert types == ["service.paused", "service.resumed", "service.paused"]
        numbers = [int(text.partition(" ")[0]) for text in heard]
        assert numbers == sorted(set(numbers))

    elsewhere = page.context.new_page()
    elsewhere.goto("/settings/password/")
    elsewhere.locator('form[action="/logout/"]').first.evaluate("form => form.submit()")
    elsewhere.wait_for_url("**/login/**")
    wait_until(page, "CLOSED")


def wait_until(page: Page, state: str) -> None:
    """By asking again: Playwright's own way to wait needs `eval`, which the page's policy forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate("(state) => followed.readyState === EventSource[state]", state):
        assert time.monotonic() < deadline, f"not {state}"
        page.wait_for_timeout(50)


def is_of(type_: str) -> Any:
    def matches(message: ConsoleMessage) -> bool:
        return f'"type":"{type_}"' in message.text and "following" in message.text

    return matches
