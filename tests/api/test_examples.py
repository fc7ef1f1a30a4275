"""The README's clients, run as they stand there against a running server."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.backends import ROOT
from tests.installation import Installation

IN_README = "http://127.0.0.1:8000"


def example(language: str, word: str) -> str:
    """The README's one block of code in a language that holds a word."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if word in block]
    return found


@pytest.fixture
def token(installation: Installation) -> str:
    token = installation.token("operator")
    with installation.api() as api:
        assert api.post("services", json={"name": "billing", "base_url": "http://127.0.0.1:9"}).status_code == 201
    return token


def test_the_clients_of_the_readme_run(installation: Installation, token: str) -> None:
    curl = example("sh", "curl -X POST http://127.0.0.1:8000/api/v1/messages ").replace(IN_README, installation.url)
    environment = os.environ | {"TOKEN": token, "NO_PROXY": "*"}
    sent = subprocess.run(["sh", "-ec", curl], env=environment, capture_output=True, text=True, timeout=30)
    assert '"status":"pending"' in sent.stdout, sent.stderr

    python = f"token = {token!r}\n" + example("python", "httpx.Client(").replace(IN_README, installation.url)
    run = subprocess.run([sys.executable, "-c", python], env=environment, capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("msg_")
