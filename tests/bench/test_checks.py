"""The benchmark's own checker: a figure from a run that lost or skipped something is not used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.checks import Run, figures, rejections

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
