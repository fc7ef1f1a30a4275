"""Chromium for the tests in this folder.

They drive a whole installation from outside and never use the ORM: Playwright's synchronous API keeps an event loop
running in this thread, and Django rightly refuses its ORM there. The browser lives as long as this folder's tests, so
that loop is gone before any other test runs.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, expect, sync_playwright

from tests.support.backends import Servers
from tests.support.installation import Installation

# The first is Chromium without windows, which takes a third less CPU.
CHROMIUM_NAMES = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # root in a container has none; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 10_000  # milliseconds for one step on a page
WORKERS = 60_000  # milliseconds for what workers do, who share two cores with this browser
SIGNALLED = 20_000  # the same, for what a live panel shows by a signal: its slow poll comes 25 s after it or later


# htmx says both when a page is left while it loads suggestions; of a request that fails it says `htmx:sendError`, too.
ABORTED = re.compile(r"htmx:(afterRequest|sendAbort), ")


@dataclass
class Complaints:
    """Complaints of the browser about a page: console errors (broken CSP rules among them) and uncaught exceptions."""

    heard: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Expects complaints that match, as `Failed to load resource.*422` after a form that is meant to be refused."""
        self.allowed.append(pattern)

    @property
    def unexpected(self) -> list[str]:
        return [said for said in self.heard if not any(re.search(pattern, said) for pattern in self.allowed)]

    def listen(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.heard.append(f"uncaught: {error}"))
        page.on("crash", lambda _: self.heard.append("the page crashed"))

    def _hear(self, message: ConsoleMessage) -> None:
        if ABORTED.search(message.text):
            return
        if message.type == "error" or any(
            words in message.text for words in ("Content Security Policy", "duplicate ids")
        ):
            self.heard.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")


@dataclass(frozen=True)
class Look:
    """How a person views the console: a colour scheme, and a width in CSS pixels."""

    scheme: Literal["light", "dark"]
    width: int

    def __str__(self) -> str:
        return f"{self.scheme}-{self.width}"

    def put_on(self, page: Page) -> None:
        page.emulate_media(color_scheme=self.scheme)
        page.set_viewport_size({"width": self.width, "height": 800})


AT_A_DESK, AT_NIGHT_BY_PHONE = Look("light", 1440), Look("dark", 360)
EVERY_LOOK = [AT_A_DESK, Look("light", 360), Look("dark", 1440), AT_NIGHT_BY_PHONE]


@dataclass
class Person:
    """A person with an account; signs in once, and later pages have that session."""

    name: str
    password: str
    at: str = ""  # another installation than the one that pages begin with
    cookies: list[Any] = field(default_factory=list)

    def sign_in(self, page: Page) -> None:
        if not self.cookies:
            page.goto(f"{self.at}/login/")
            page.get_by_label("Username").fill(self.name)
            page.locator("input[type=password]").fill(self.password)
            page.get_by_role("button", name="Sign in").click()
            expect(page.locator("h1")).to_contain_text("Overview")
            self.cookies = list(page.context.cookies())
        page.context.add_cookies(self.cookies)


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, database: str, servers: Servers) -> Iterator[Installation]:
    """One running installation for all browser tests; each test makes what it looks at."""
    with Installation(tmp_path_factory.mktemp("browser") / "installation", servers, on=database) as running:
        yield running


@pytest.fixture(scope="package")
def token(installation: Installation) -> str:
    """A program's, which may do everything."""
    return installation.token(name="browser-tests")


@pytest.fixture
def api(installation: Installation, token: str) -> Iterator[httpx.Client]:
    with installation.api(token) as client:
        yield client


@pytest.fixture(scope="package")
def mary(installation: Installation) -> Person:
    """An admin."""
    return Person("mary", installation.operator("mary", "admin"))


@pytest.fixture(scope="package")
def ruth(installation: Installation) -> Person:
    """The person on call: the role is operator."""
    return Person("ruth", installation.operator("ruth", "operator"))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = _chromium(playwright)
        if chromium is None:
            found_none = f"NO CHROMIUM: none of {', '.join(CHROMIUM_NAMES)}, nor Playwright's own"
            if os.environ.get("SWITCHBOARD_TEST_REQUIRE_BROWSER") == "1":
                pytest.fail(found_none, pytrace=False)
            pytest.skip(found_none)
        launched = playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_OPTIONS)
        yield launched
        launched.close()


@pytest.fixture
def complaints() -> Complaints:
    return Complaints()


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, complaints: Complaints) -> Iterator[Page]:
    """A page in a fresh session; the test fails when the browser complained. URLs are relative to `installation`."""
    if forbidden := {"db", "transactional_db", "live_server"} & set(request.fixturenames):
        pytest.fail(f"a browser test has no {forbidden}: it talks to the installation by page, API and manage.py")
    base = request.getfixturevalue("installation").url if "installation" in request.fixturenames else None
    # Without motion, so that colours are looked at when they have arrived.
    context = browser.new_context(base_url=base, viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
    context.on("page", complaints.listen)
    yield context.new_page()
    context.close()
    assert not complaints.unexpected, "\n".join(complaints.unexpected)


@pytest.fixture
def signed_in(page: Page, mary: Person) -> Page:
    """A page with an admin before it."""
    mary.sign_in(page)
    return page


@pytest.fixture(params=[AT_A_DESK, AT_NIGHT_BY_PHONE], ids=str)
def look(page: Page, request: pytest.FixtureRequest) -> Look:
    """Runs a test in both looks, or in those of `@pytest.mark.parametrize("look", EVERY_LOOK, indirect=True)`."""
    chosen: Look = request.param
    chosen.put_on(page)
    return chosen


def expect_clean(page: Page) -> None:
    """Fails where the page scrolls sideways, or axe holds something against it."""
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{page.url} scrolls sideways"
    violations = Axe().run(page).response["violations"]
    found = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in violations]
    assert not found, (page.url, found)


@pytest.fixture
def shot(page: Page) -> Callable[..., None]:
    """`shot(name)` writes name.png, the whole page, into $SWITCHBOARD_TEST_SHOTS; nothing where that is not set."""

    def take(name: str, full_page: bool = True) -> None:
        if folder := os.environ.get("SWITCHBOARD_TEST_SHOTS"):
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=full_page)

    return take


def _chromium(playwright: Playwright) -> str | None:
    for name in CHROMIUM_NAMES:
        if found := shutil.which(name):
            return found
    own = playwright.chromium.executable_path
    return own if Path(own).exists() else None
