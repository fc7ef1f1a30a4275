"""The shell commands of the documents run as written against a server; tests/clients/test_guides.py has the Python, and
tests/browser/ the script for a page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.support.backends import ROOT
from tests.support.installation import Installation
from tests.support.receiver import Receiver

IN_DOCUMENTS = "http://127.0.0.1:8000"
GUIDE = "docs/integrating.md"
PATIENCE = 30  # seconds


def example(language: str, word: str, document: str = GUIDE) -> str:
    """Return a document's only block of code in this language that contains the word."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE)
    (found,) = [block for block in blocks if word in block]
    return found


@pytest.fixture
def house(start_installation: Callable[..., Installation], sink: Receiver) -> Installation:
    installation = start_installation("--no-workers", migrated=False)  # as a newcomer starts it
    sink.answer(body={"id": 42})
    with installation.api() as api:
        assert api.post("services", json={"name": "billing", "base_url": sink.url}).status_code == 201
    return installation


@pytest.mark.any_database
def test_the_clients_in_the_documents_run(house: Installation, sink: Receiver) -> None:
    token = house.token("operator")
    environment = os.environ | {"TOKEN": token, "NO_PROXY": "*"}

    def curl(word: str, document: str = GUIDE) -> str:
        return example("sh", word, document).replace(IN_DOCUMENTS, house.url)

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for document in ("README.md", "docs/start.md", GUIDE):
        first = curl("curl -X POST http://127.0.0.1:8000/api/v1/messages ", document)
        assert '"status":"pending"' in run("sh", "-ec", first), document

    block = curl("/api/v1/process")
    answer, told = json.loads(run("sh", "-ec", block)), json.loads(block.rpartition("# ")[2])
    assert answer | {"duration": 0} == told | {"duration": 0}, "the guide shows another response"
    assert sink.last.target == "/invoices/42"

    assert '"state":"planning"' in run("sh", "-ec", curl("curl -X POST http://127.0.0.1:8000/api/v1/operations"))

    following = subprocess.Popen(
        ["sh", "-ec", curl("curl -N")], env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert following.stdout
    try:
        lines = iter(following.stdout.readline, "")
        assert "event: hello\n" in lines
        with house.api(token) as api:
            assert api.post("messages", json={"service": "billing", "path": "/"}).status_code == 202
        assert "event: messages.changed\n" in lines
        assert next(lines).startswith("id: ")
        assert '"counts":{"pending":1}' in next(lines)
    finally:
        os.killpg(following.pid, signal.SIGTERM)  # the shell and its curl
        following.communicate(timeout=PATIENCE)
