"""The shape of a scenario, and what happens to one that fails."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

import pytest

from bench import scenarios
from bench.scenarios import latency, pages


@pytest.fixture
def options():
    return scenarios.Options(site=None)


def a_scenario(monkeypatch, run):
    module = ModuleType("bench.scenarios.made_up", "Made up: a scenario of this test.\n\nMore words.")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "made_up"


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_has_the_shape(name):
    scenario = import_module(f"bench.scenarios.{name}")
    assert callable(scenario.run)
    assert (scenario.__doc__ or "").strip()


def test_bounds_that_were_missed_are_printed(options, monkeypatch, capsys):
    found = scenarios.run(
        a_scenario(monkeypatch, lambda options: {"rate": 3, "missed": ["3/s, at least 4/s"]}), options
    )
    assert found["rate"] == 3
    out = capsys.readouterr().out
    assert "made_up: Made up: a scenario of this test.\n" in out
    assert "MISSED: 3/s, at least 4/s" in out


def test_a_scenario_that_fails_ends_alone(options, monkeypatch, capsys):
    def run(options):
        raise RuntimeError("the receiver is gone")

    found = scenarios.run(a_scenario(monkeypatch, run), options)
    assert found["missed"] == ["it ended with RuntimeError: the receiver is gone"]


def test_sizes_follow_the_scale(options):
    assert options.scaled(20_000) == 20_000
    small = scenarios.Options(site=None, scale=0.001)
    assert (small.scaled(20_000), small.scaled(100)) == (20, 1)


def test_measuring_waits_for_others_who_measure(monkeypatch, tmp_path):
    import fcntl

    lock = tmp_path / "lock"
    monkeypatch.setenv(scenarios.LOCK, str(lock))
    with scenarios.quiet(), lock.open() as another, pytest.raises(BlockingIOError):
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.open() as another:
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_percentiles():
    p50, p99 = latency._percentiles([*range(1, 101)])
    assert (p50, p99) == (50.5, 100)


@pytest.mark.django_db
def test_every_page_is_measured() -> None:
    """A new route without an example ended the scenario after the hours in which its messages are made."""
    measured = {address for address, _ in pages._addresses()}
    assert {"/", "/docs/operating/", "/services/seeded-01/"} <= measured
