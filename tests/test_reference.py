"""The reference names each variable, command, option and event that the code has, and none that it has not."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from django.core.management import load_command_class

from integrations.models import event
from integrations.policies.breaker import TransitionType
from tests.support.backends import ROOT

REFERENCE = ROOT / "docs/reference"
CODE = [path for package in ("integrations", "dashboard") for path in (ROOT / package).rglob("*.py")]
COMMANDS = {path.stem for path in (ROOT / "integrations/management/commands").glob("[!_]*.py")}
CHILDREN = {"cluster", "serve"}  # started by `up`, which gives them their options
VARIABLE = re.compile(r"\bSWITCHBOARD_[A-Z_]*[A-Z]\b")
EXAMPLE = re.compile(r"SWITCHBOARD_SERVICE_\w+")
EVENT = re.compile(r"(breaker|service|operation|failure|worker|messages)\.[a-z_]+")


def rows(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text()


# ---- variables ------------------------------------------------------------------------------------------------------
def test_every_variable_that_code_or_deployment_names_is_described() -> None:
    deployed = [path for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    named = {
        variable
        for path in [*CODE, *deployed, ROOT / "compose.yaml", ROOT / "Dockerfile"]
        for variable in VARIABLE.findall(path.read_text())
    }
    assert not {each for each in named if not EXAMPLE.fullmatch(each)} - set(VARIABLE.findall(rows("configuration")))


# ---- commands -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_described_with_its_options(name: str) -> None:
    described = [line for line in rows("commands").splitlines() if f"`manage.py {name}" in line]
    assert described, f"{name} has no row"
    if name not in CHILDREN:
        inherited = options("up") if name == "demo" else set()
        assert not {each for each in options(name) - inherited if each not in " ".join(described)}


def options(name: str) -> set[str]:
    command = load_command_class("integrations", name)
    django = next(each for each in type(command).__mro__ if each.__module__.startswith("django."))
    common = django().create_parser("manage.py", name)
    return _options(command.create_parser("manage.py", name)) - _options(common)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*(_options(each) for each in action.choices.values()))
        elif action.help != argparse.SUPPRESS:
            found |= {each for each in action.option_strings if each.startswith("--")}
    return found


def test_every_target_that_make_lists_is_described() -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not [each for each in targets if each != "help" and f"`make {each}" not in rows("commands")]


# ---- events ---------------------------------------------------------------------------------------------------------
def test_every_event_that_the_code_records_is_described() -> None:
    recorded = {type_ for path in CODE for type_ in _types_recorded_in(path)}
    described = set(re.findall(r"^\| `([a-z_.]+)`", rows("events"), re.MULTILINE))
    assert {"worker.lost", "failure.regressed", "breaker.half_opened", "service.down", "messages.changed"} <= recorded
    assert recorded == described
    contract = (ROOT / "docs/contract.md").read_text()
    assert not {each for each in described if f"`{each}`" not in contract}


def _types_recorded_in(path: Path) -> Iterator[str]:
    """The event types among the texts of each function that makes an ``Event``, without those of audit entries."""
    source = path.read_text()
    if "Event" not in source:
        return
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) and any(map(_makes_event, ast.walk(function))):
            yield from _types_among(function)


def _makes_event(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not any(keyword.arg == "type" for keyword in node.keywords):
        return False
    return ast.unparse(node.func) in ("Event", "Event.objects.create", "self.create")


def _types_among(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("AuditEntry."):
        return
    match node:
        case ast.Constant(value=str(text)) if EVENT.fullmatch(text):
            yield text
        case ast.Name(id="MESSAGES_CHANGED"):
            yield event.MESSAGES_CHANGED
        case ast.JoinedStr(values=[ast.Constant(value="breaker."), _]):
            yield from (f"breaker.{change}" for change in get_args(TransitionType) if change != "mode")
        case ast.JoinedStr(values=[ast.Constant(value="service."), _]):
            yield from ("service.down", "service.up")
    for child in ast.iter_child_nodes(node):
        yield from _types_among(child)
