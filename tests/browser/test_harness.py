"""The browser tests are only worth something if a complaint of the browser reaches the test.

The sink is requested before the page: the last fixture requested ends first, and Chromium still fetches a favicon when
a test is over.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import Complaints
from tests.support.receiver import Answer, Receiver


def serve(sink: Receiver, html: str, policy: str = "default-src 'self'") -> None:
    headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy}
    sink.decide(lambda call: Answer(headers=headers, body=html) if call.path == "/" else None)


def test_a_quiet_page_passes_and_can_be_photographed(
    sink: Receiver,
    page: Page,
    shot: Callable[..., None],
    complaints: Complaints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SWITCHBOARD_TEST_SHOTS", str(tmp_path))
    serve(sink, "<!doctype html><title>Quiet</title><h1>Switchboard</h1>")
    page.goto(sink.url)
    assert page.title() == "Quiet"
    shot("quiet")
    assert (tmp_path / "quiet.png").read_bytes().startswith(b"\x89PNG")
    assert complaints.heard == []


def test_a_broken_content_security_policy_is_heard(sink: Receiver, page: Page, complaints: Complaints) -> None:
    serve(sink, "<!doctype html><title>No</title><script>document.title = 'run'</script>")
    complaints.allow("Content Security Policy")
    page.goto(sink.url)
    assert page.title() == "No"
    assert "Content Security Policy" in " ".join(complaints.heard)


def test_an_uncaught_error_is_heard(sink: Receiver, page: Page, complaints: Complaints) -> None:
    serve(sink, "<!doctype html><script>throw Error('oh no')</script>", policy="script-src 'unsafe-inline'")
    complaints.allow("oh no")
    page.goto(sink.url)
    assert complaints.unexpected == []
    assert "oh no" in " ".join(complaints.heard)
