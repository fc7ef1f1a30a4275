"""The benchmark's own checker: a figure from a run that lost or skipped something is not used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import report
from bench.checks import YARDSTICK, Figure, Run, bounds, figures, ratios, rejections

WHOLE = Run(
    contender="anybody",
    on="sqlite",
    command="true",
    sent=1_000,
    seconds=0.5,
    arrived=1_000,
    unique=1_000,
    recorded=1_000,
    recorded_messages=1_000,
    delivered=1_000,
)


def test_a_whole_run_is_accepted():
    assert rejections(WHOLE) == []
    assert WHOLE.rate == 2_000


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"unique": 999, "arrived": 999}, "different messages at the sink: 999 of 1,000"),
        ({"arrived": 1_001}, "arrived at the sink: 1,001 of 1,000"),
        ({"recorded": 0, "recorded_messages": 0}, "successful attempts recorded: 0 of 1,000"),
        ({"recorded_messages": 999}, "different messages with an attempt: 999 of 1,000"),
        ({"delivered": 998}, "messages delivered: 998 of 1,000"),
    ],
    ids=["a lost message", "one sent twice", "nothing recorded", "one recorded twice", "a state not written"],
)
def test_a_run_that_is_not_whole_is_rejected(difference, words):
    assert words in rejections(replace(WHOLE, **difference))


def test_a_contender_without_states_is_judged_by_its_records():
    assert rejections(replace(WHOLE, delivered=None)) == []


def test_rejected_runs_are_left_out_of_the_median():
    slow, fast = replace(WHOLE, seconds=1.0), replace(WHOLE, seconds=0.25)
    lossy = replace(WHOLE, seconds=0.001, unique=1)
    (figure,) = figures([slow, lossy, fast, WHOLE])
    assert figure.rate == 2_000
    assert figure.rejected == 1


def test_no_figure_comes_of_rejected_runs_alone():
    assert figures([replace(WHOLE, recorded=0)]) == []


# ---- compared with each other ------------------------------------------------------------------------------------
def figure_of(family: str, rate: float, on: str = "postgres", contender: str = "anybody") -> Figure:
    (figure,) = figures([replace(WHOLE, contender=contender, family=family, on=on, seconds=1_000 / rate)])
    return figure


def test_a_figure_is_compared_with_the_best_of_each_family_wherever_it_keeps_its_messages():
    ours = figure_of("cluster", 6_000)
    slow, best, node = (
        figure_of("python", 300),
        figure_of("python", 1_000, on="redis"),
        figure_of("node", 4_000, "redis"),
    )
    beside = ratios(ours, [ours, slow, best, node])
    assert (beside.python, beside.node, beside.client) == (6.0, 1.5, None)


def test_django_q2_is_compared_on_the_same_database():
    ours = figure_of("cluster", 6_000, on="sqlite")
    same, other = figure_of("", 200, "sqlite", YARDSTICK), figure_of("", 300, "postgres", YARDSTICK)
    assert ratios(ours, [ours, same, other]).django_q2 == pytest.approx(30)


def test_bounds_hold_where_they_are_reached():
    found = [figure_of("cluster", 5_000), figure_of("python", 1_000, "redis"), figure_of("node", 4_000, "redis")]
    assert [(bound.least, bound.holds) for bound in bounds(found)] == [(3.0, True), (1.0, True), (1.5, False)]


def test_on_sqlite_the_bound_is_the_python_peers_alone():
    found = [figure_of("cluster", 2_000, "sqlite"), figure_of("python", 1_000), figure_of("node", 4_000)]
    assert [(bound.least, bound.holds) for bound in bounds(found)] == [(3.0, False)]


def test_the_pump_is_compared_with_the_client_that_it_uses():
    (bound,) = bounds([figure_of("pump", 3_000), figure_of("client", 10_000, "nothing")])
    assert bound.holds
    assert bound.reached == pytest.approx(0.3)


def test_without_peers_no_bound_is_judged():
    assert bounds([figure_of("cluster", 2_000)]) == []


def test_the_table_has_a_line_for_each_figure(capsys):
    report.show([figure_of("cluster", 5_000, contender="ours"), figure_of("node", 4_000, contender="theirs")])
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("ours")).split()[3:7] == ["5,000", "-", "-", "1.25"]
    assert any("MISSED" in line and "1.25x of at least 1.5x" in line for line in lines)
