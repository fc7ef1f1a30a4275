"""Clients that are generated from docs/openapi.json: nothing is left out, and they talk to an installation."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import ROOT
from tests.support.installation import Installation
from tests.support.receiver import Receiver

DESCRIPTION = ROOT / "docs" / "openapi.json"
REDOCLY = "@redocly/cli@2.77.0"
WITHOUT_HOOKS = 'post_hooks: []\nproject_name_override: "generated"\npackage_name_override: "generated"\n'

# A program that uses the generated client, in a process of its own. It prints its results for the test.
PROGRAM = """
import json, sys, time
from generated import AuthenticatedClient
from generated.api.messages import get_message, list_messages, process_now, queue_message
from generated.api.services import get_service, register_service
from generated.models import MessageIn, MessageOut, ProblemOut, ProcessIn, ServiceIn

url, token, receiver = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)
made = register_service.sync(client=client, body=ServiceIn(name="generated", base_url=receiver))
sent = queue_message.sync(client=client, body=MessageIn(service="generated", path="/orders", body={"order": 42}))
assert isinstance(sent, MessageOut), sent
while (message := get_message.sync(sent.id, client=client)).status not in ("delivered", "dead"):
    time.sleep(0.05)
refused = queue_message.sync(client=client, body=MessageIn(service="no-such-service", path="/"))
assert isinstance(refused, ProblemOut), refused
called = process_now.sync(client=client, body=ProcessIn(service="generated", method="GET", path="/"))
print(json.dumps({
    "window": get_service.sync("generated", client=client).breaker.window.to_dict(),
    "message": message.to_dict(),
    "listed": [item.id for item in list_messages.sync(client=client, service="generated").items],
    "refused": refused.status,
    "called": called.success,
}))
"""


@pytest.mark.any_database
def test_a_generated_client_has_every_call_and_talks_to_an_installation(
    installation: Installation, token: str, sink: Receiver, tmp_path: Path
) -> None:
    package = generate(tmp_path)
    described = json.loads(DESCRIPTION.read_text())
    calls = {operation["operationId"] for methods in described["paths"].values() for operation in methods.values()}
    assert calls - {path.stem for path in package.glob("api/*/*.py")} == set()
    models = {path.stem for path in package.glob("models/*.py")}
    assert {snake(name) for name in described["components"]["schemas"]} - models == set()

    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, installation.url, token, sink.url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    assert result["window"] == {"type": "count", "size": 50}
    assert (result["message"]["status"], result["message"]["body"]) == ("delivered", {"order": 42})
    assert result["listed"] == [result["message"]["id"]]
    assert (result["refused"], result["called"]) == (422, True)


def generate(folder: Path) -> Path:
    """Generate a client in the folder. Fails with each warning of the generator."""
    settings = folder / "generator.yaml"
    settings.write_text(WITHOUT_HOOKS)
    package = folder / "generated"
    arguments = ["--path", str(DESCRIPTION), "--output-path", str(package), "--meta", "none", "--config", str(settings)]
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("openapi-python-client")), "generate", *arguments, "--fail-on-warning"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "arning" not in ran.stdout + ran.stderr
    return package


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.long
def test_redocly_finds_no_error_in_the_description(tmp_path: Path) -> None:
    assert shutil.which("npm"), "npm is missing: apt-get install npm"
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", REDOCLY]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=180)
    command = [str(tmp_path / "node_modules" / ".bin" / "redocly"), "lint", str(DESCRIPTION), "--format", "json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    problems = json.loads(ran.stdout)["problems"]
    assert [problem for problem in problems if problem["severity"] == "error"] == []
    assert ran.returncode == 0
