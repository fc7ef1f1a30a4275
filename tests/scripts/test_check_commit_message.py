"""Commit messages: a subject that fits, and a body apart from it."""

from __future__ import annotations

import pytest

from scripts.check_commit_message import problems


@pytest.mark.parametrize(
    "message",
    [
        "Back off after an empty wake-up\n",
        "Back off after an empty wake-up\n\nPreviously … Now …\n",
        "x" * 72,
        "Back off\n# A comment of git\n",
        "fixup! " + "x" * 80,
    ],
)
def test_a_message_that_keeps_the_rules(message: str) -> None:
    assert problems(message) == []


@pytest.mark.parametrize(
    ("message", "word"),
    [
        ("", "empty"),
        ("x" * 73, "73 characters"),
        ("Back off.", "full stop"),
        ("Back off\nPreviously …", "empty line"),
    ],
)
def test_a_message_that_breaks_one(message: str, word: str) -> None:
    (problem,) = problems(message)
    assert word in problem
