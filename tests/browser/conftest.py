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

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, sync_playwright

from tests.backends import Servers
from tests.installation import Installation

CHROMIUM_NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
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


@dataclass
class Complaints:
    """What the browser held against a page: console errors (broken CSP rules among them) and uncaught exceptions."""

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
        if message.type == "error" or "Content Security Policy" in message.text:
            self.heard.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, database: str, servers: Servers) -> Iterator[Installation]:
    """One running installation for all browser tests; each test makes what it looks at."""
    on = servers if database == "postgres" else None
    with Installation(tmp_path_factory.mktemp("browser") / "installation", on) as running:
        yield running


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
    context = browser.new_context(base_url=base, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE)
    context.on("page", complaints.listen)
    yield context.new_page()
    context.close()
    assert not complaints.unexpected, "\n".join(complaints.unexpected)


@pytest.fixture
def shot(page: Page, tmp_path: Path) -> Callable[..., Path]:
    """`shot(name)` writes name.png, the whole page, into $SWITCHBOARD_TEST_SHOTS or the test's folder."""
    folder = Path(os.environ.get("SWITCHBOARD_TEST_SHOTS") or tmp_path / "shots")
    folder.mkdir(parents=True, exist_ok=True)

    def take(name: str, full_page: bool = True) -> Path:
        path = folder / f"{name}.png"
        page.screenshot(path=path, full_page=full_page)
        return path

    return take


def _chromium(playwright: Playwright) -> str | None:
    for name in CHROMIUM_NAMES:
        if found := shutil.which(name):
            return found
    own = playwright.chromium.executable_path
    return own if Path(own).exists() else None
