"""The files by which Switchboard is deployed name commands, options and variables that exist, and let it do no more
than it needs. `make check-deploy` has them judged by the tools of their formats."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from tests.support.backends import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
DEPLOY = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
FILES = [ROOT / "Dockerfile", ROOT / "compose.yaml", *DEPLOY]
MANIFESTS = [
    manifest
    for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in MANIFESTS:
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]["spec"]


def command_lines() -> Iterator[list[str]]:
    yield ["up", "--host", "0.0.0.0"]  # the Dockerfile's
    yield from (service["command"] for service in COMPOSE.values() if service["image"].startswith("switchboard:"))
    for _, pod in pods():
        yield from (container["args"] for container in pod["containers"])


@pytest.mark.parametrize("arguments", list(command_lines()), ids=" ".join)
def test_every_command_line_is_one_of_ours(arguments: list[str]) -> None:
    name, *options = arguments
    load_command_class(get_commands()[name], name).create_parser("switchboard", name).parse_args(options)


def test_the_image_runs_the_same_command_line_by_itself() -> None:
    assert 'CMD ["up", "--host", "0.0.0.0"]' in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_variable_is_described(path: Path) -> None:
    described = (ROOT / "docs/reference/configuration.md").read_text()
    named = set(re.findall(r"\bSWITCHBOARD_[A-Z_]+\b", path.read_text()))
    assert {name for name in named if f"`{name}`" not in described} == set()


@pytest.mark.parametrize(("name", "service"), COMPOSE.items(), ids=COMPOSE)
def test_no_container_of_compose_may_do_more_than_it_needs(name: str, service: dict[str, Any]) -> None:
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert ("ports" in service) == (name == "caddy")


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])
def test_no_container_of_kubernetes_may_do_more_than_it_needs(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_kubernetes_waits_longer_for_a_stop_than_it_takes() -> None:
    from integrations.workers.supervisor import STOP_WITHIN

    waits = [pod["terminationGracePeriodSeconds"] for name, pod in pods() if name != "switchboard-migrate"]
    assert len(waits) == 2
    assert min(waits) > STOP_WITHIN + 5  # before it a console sleeps for 5 s


def test_the_copied_files_are_those_that_the_wheel_is_built_from() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*built["packages"], *built["force-include"]} <= copied
