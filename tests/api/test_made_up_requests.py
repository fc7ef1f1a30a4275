"""Requests that Schemathesis generates from the API's OpenAPI document, against a running server.

No response may be a 5xx, or differ from the document in status, content type, headers or body. The requests are valid
ones, invalid ones, and walks along the links from one response to the next request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installation import Installation

pytestmark = pytest.mark.postgres

# Which requests are valid is more than a schema can say ("expires_at is not after deliver_at"), so that it is refused
# or taken is not asked for here.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
    "use_after_free",
)
# A stream has no end to wait for; tests/api/test_events.py is about it.
LEFT_OUT = "follow_events"
OUT_OF_REACH = 2**40  # the number of our own token, so that no made-up DELETE ends it


def test_what_is_made_up_gets_a_described_answer(start: Callable[..., Installation], tmp_path: Path) -> None:
    assert made_up(start("--no-workers"), tmp_path, "--phases", "examples,fuzzing,stateful", "-n", "11") > 500


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_thousand_made_up_requests(start: Callable[..., Installation], tmp_path: Path) -> None:
    assert made_up(start(), tmp_path, "-n", "700") >= 20_000


@pytest.fixture
def start(start_installation: Callable[..., Installation]) -> Callable[..., Installation]:
    def begin(*arguments: str) -> Installation:
        return start_installation(*arguments, SWITCHBOARD_TOKEN_RATE="0")

    return begin


def made_up(installation: Installation, folder: Path, *options: str) -> int:
    """How many requests were made; fails with Schemathesis's words where an answer was not as described."""
    token = installation.token()
    change = f"from integrations.models import Token; Token.objects.update(id={OUT_OF_REACH})"
    installation.manage("shell", "-c", change)
    report = folder / "report.json"
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            "run",
            f"{installation.url}/api/v1/openapi.json",
            "--header",
            f"Authorization: Bearer {token}",
            "--checks",
            ",".join(CHECKS),
            "--exclude-operation-id",
            LEFT_OUT,
            "--seed",
            "5",
            "--generation-database",
            "none",
            "--suppress-health-check",
            "all",
            "--warnings",
            "off",
            "--no-shrink",
            "--report-json-path",
            str(report),
            *options,
        ],
        cwd=folder,
        env=os.environ | {"NO_PROXY": "*"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    count: int = json.loads(report.read_text())["test_cases"]["generated"]
    return count
