"""How contenders take turns, and how a peer that cannot be had is left out."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from bench import dependencies, peers, switchboard
from bench.__main__ import rounds, stored
from bench.messages import BODY_SIZE, body
from tests.bench.test_checks import WHOLE


def somebody(name: str, family: str = "", missing: str = "") -> Any:
    """As much of a contender as the rounds look at."""
    return SimpleNamespace(name=name, family=family, missing=lambda: missing)


def test_every_second_round_runs_backwards():
    turns = []
    wanted = [(somebody("a"), "sqlite"), (somebody("b"), "sqlite")]
    rounds(wanted, 3, lambda contender, on: turns.append(contender.name) or WHOLE)
    assert turns == ["a", "b", "b", "a", "a", "b"]


def test_a_peer_that_cannot_be_had_is_left_out_with_one_line():
    runs, left_out = rounds([(somebody("theirs", "node", "no node on this machine"), "redis")], 2, lambda *_: WHOLE)
    assert (runs, left_out) == ([], {"theirs": "no node on this machine"})


def test_a_peer_that_does_not_start_is_left_out_from_then_on():
    tries = []

    def fail(contender, on):
        tries.append(contender.name)
        raise RuntimeError("it did not start:\na traceback\nAddress already in use")

    runs, left_out = rounds([(somebody("theirs", "python"), "redis")], 3, fail)
    assert (runs, left_out) == ([], {"theirs": "Address already in use"})
    assert tries == ["theirs"]


def test_switchboard_itself_is_never_left_out():
    def fail(contender, on):
        raise RuntimeError("it did not start")

    with pytest.raises(RuntimeError):
        rounds([(somebody("ours", "cluster"), "sqlite")], 1, fail)


def test_what_was_run_counts_after_an_interruption():
    answers = iter([WHOLE])

    def run(contender, on):
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    runs, _ = rounds([(somebody("a"), "sqlite")], 5, run)
    assert runs == [WHOLE]


def test_a_machine_without_node_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    dependencies.node.cache_clear()
    try:
        with pytest.raises(dependencies.Unavailable, match="no node on this machine"):
            dependencies.node()
    finally:
        dependencies.node.cache_clear()


def test_packages_that_cannot_be_installed_are_one_line(monkeypatch, tmp_path):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho some noise >&2\necho 'no network' >&2\nexit 1\n")
    npm.chmod(0o755)
    (tmp_path / "node").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(dependencies, "NODE_PACKAGES", tmp_path / "nothing")
    dependencies.node.cache_clear()
    try:
        with pytest.raises(dependencies.Unavailable, match=r"^npm install failed: no network$"):
            dependencies.node()
    finally:
        dependencies.node.cache_clear()


def test_the_peers_packages_are_pinned_and_name_no_host():
    lines = [line for line in dependencies.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?==[0-9.]+", line) for line in lines), lines
    packages = json.loads((dependencies.BENCH / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in packages.values()), packages


def test_contenders_are_told_apart_by_their_names():
    names = [contender.name for contender in [*switchboard.CONTENDERS, *peers.contenders()]]
    assert len(set(names)) == len(names)
    assert {contender.family for contender in peers.contenders()} == {"", "python", "node"}  # "": the yardstick


@pytest.mark.parametrize("number", [0, 9, 123_456])
def test_a_body_has_its_size_and_its_number(number):
    assert len(body(number)) == BODY_SIZE
    assert json.loads(body(number))["n"] == number


def test_stored_runs_can_be_read_again(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"at": "now", "runs": [WHOLE.as_json()]}))
    assert stored(path) == [WHOLE]
