"""The guides: every shell block of README.md, docs/start.md, docs/integrating.md and the recipes does what it says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from django.core.management import call_command

from switchboard_client import Client
from tests.support.backends import ROOT
from tests.support.installation import Installation, clean_environment, free_port
from tests.support.receiver import Receiver
from tests.support.waiting import until

RECIPES = tuple(f"docs/recipes/{path.name}" for path in sorted((ROOT / "docs/recipes").glob("*.md")))
GUIDES = ("README.md", "docs/start.md", "docs/integrating.md", *RECIPES)
ADDRESS = "http://127.0.0.1:8000"
PYTHON = ".venv/bin/python"
INSTALLED = ("pipx install", "switchboard up")  # tests/test_wheel.py installs the wheel and runs it
ENDLESS = "curl -N"  # follows the event stream

# Without --fail, curl takes an error document for a success.
PREAMBLE = """
set -euo pipefail
curl() { if [ "$1" = -N ]; then timeout 1 curl "$@" || [ $? = 124 ]; else command curl -sS --fail-with-body "$@"; fi; }
"""


def blocks(guide: str, language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / guide).read_text(), re.DOTALL | re.MULTILINE)
    return found


def commands(block: str) -> list[str]:
    """The commands of a block without comments; one that goes on over several lines is one command."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := re.sub(r"(^|\s)#.*", "", line).strip())]


def starts_a_server(command: str) -> bool:
    return command.startswith(("make run", "make demo", *INSTALLED))


@pytest.fixture(scope="module")
def sink(installation: Installation, token: str) -> Iterator[Receiver]:
    """The receiver of the service that the guides send to."""
    with Receiver() as one, installation.api(token) as api:
        api.post("services", json={"name": "billing", "base_url": one.url}).raise_for_status()
        yield one


@pytest.mark.any_database
def test_every_command_succeeds_as_written(installation: Installation, token: str, sink: Receiver) -> None:
    written = [block for guide in GUIDES for block in blocks(guide, "sh")]
    wanted = [block for block in dict.fromkeys(written) if not all(map(starts_a_server, commands(block)))]
    assert not any(starts_a_server(command) for block in wanted for command in commands(block))
    script = "".join(wanted).replace(ADDRESS, installation.url).replace(PYTHON, sys.executable)
    ran = subprocess.run(
        ["bash", "-c", PREAMBLE + script],
        cwd=ROOT,
        env=installation.env | {"TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for promised in ('"status":"pending"', '"success":true', '"kind":"replay"', "event: hello", '"secret":"whsec_'):
        assert promised in ran.stdout
    sink.wait_until(lambda: any(call.body == b'{"order":42}' for call in sink.calls))


@pytest.mark.any_database
def test_the_python_sends_a_message(installation: Installation, token: str, sink: Receiver) -> None:
    (block,) = blocks("docs/integrating.md", "python")
    exec(block.replace(ADDRESS, installation.url), {"token": token})
    sink.wait_until(lambda: any(call.body == b'{"order":43}' for call in sink.calls))


@pytest.mark.any_database
def test_the_python_of_the_package_sends_calls_and_replays(
    installation: Installation, token: str, sink: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    sends, calls, replays, *_ = blocks("clients/python/README.md", "python")
    exec(sends.replace("https://switchboard.example.com", installation.url), {"token": token})
    sink.wait_until(lambda: any(call.body == b'{"order":44}' for call in sink.calls))
    sink.answer(200, body={"total": 1200})
    with Client(installation.url, token) as switchboard:
        exec(calls, {"switchboard": switchboard})
        assert capsys.readouterr().out.endswith("{'total': 1200}\n")
        sink.answer(422)
        dead = switchboard.send("billing", path="/refused")["id"]
        until(lambda: switchboard.get(dead)["status"] == "dead")
        exec(replays, {"switchboard": switchboard})
        assert len(switchboard.get(dead)["replays"]) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("guide", ["docs/operating.md", "docs/moving-from-celery.md"])
def test_a_services_file_of_a_guide_is_accepted(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = blocks(guide, "yaml")
    for name in re.findall(r"{env: (\w+)}", block):
        monkeypatch.setenv(name, "the secret")
    (tmp_path / "services.yaml").write_text(block)
    call_command("services", "apply", str(tmp_path / "services.yaml"), "--dry-run")
    assert "billing" in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_command_that_starts_a_server_serves_the_console(tmp_path: Path) -> None:
    wanted = {command for guide in GUIDES for block in blocks(guide, "sh") for command in commands(block)}
    made = sorted(command for command in wanted if starts_a_server(command) and not command.startswith(INSTALLED))
    assert made == ["make demo", "make run", "make run PORT=8001"]
    for number, command in enumerate(made):
        port = free_port()
        environment = clean_environment() | {"SWITCHBOARD_DATA": str(tmp_path / f"data-{number}")}
        # The test's own environment is there: make need not install it again.
        line = ["make", "--old-file", ".venv/.run", *shlex.split(command)[1:], f"PORT={port}"]
        process = subprocess.Popen(line, cwd=ROOT, env=environment, start_new_session=True)
        try:
            until(partial(serves, port), within=60, words=command)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)


def serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
