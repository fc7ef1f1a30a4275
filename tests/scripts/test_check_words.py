"""The word list: it finds a word wherever prose is, with its line, and leaves code and plain English alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_words


def found_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> list[tuple[int, str]]:
    monkeypatch.setattr(check_words, "ROOT", tmp_path)
    path = tmp_path / name
    path.write_text(source)
    return [(finding.line, finding.words) for finding in check_words.findings(path)]


@pytest.mark.parametrize(
    ("name", "source", "line"),
    [
        ("a.py", '"""First.\n\nNobody calls it.\n"""\n', 3),
        ("a.py", "x = 1\ny = 2  # nobody waits\n", 2),
        ("a.py", 'raise ValueError("There is nobody to ask.")\n', 1),
        ("a.py", 'raise ValueError(f"{name} has nobody to ask.")\n', 1),
        ("a.html", "<p>\n  Nobody {{ name }}\n</p>\n", 2),
        ("a.html", '<p\n  title="Nobody">\n</p>\n', 2),
        ("a.html", "{# for nobody #}\n", 1),
        ("a.js", "let x = 1;\n// nobody listens\n", 2),
        ("a.js", 'toast("Nobody is there");\n', 1),
        ("a.md", "# Title\n\nNobody.\n", 3),
        ("Makefile", "all:\n# for nobody\n", 2),
    ],
)
def test_a_word_is_found_wherever_prose_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str, line: int
) -> None:
    ((where, words),) = found_in(tmp_path, monkeypatch, name, source)
    assert words.lower() == "nobody"
    assert where == line


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("a.py", "nobody = 1\n"),
        ("a.py", 'WORDS = ["nobody"]\n'),  # one word in quotes is a value, not a sentence
        ("a.html", '{% if nobody %}{{ nobody }}{% endif %}<p class="nobody"></p>\n'),
        ("a.js", "const nobody = 1;\n"),
        ("a.md", "Write `nobody`.\n\n```py\nnobody = 1\n```\n"),
        ("a.py", "# nobody spoke  (words: allowed, a quote from the specification)\n"),
    ],
)
def test_code_and_quotes_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str
) -> None:
    assert found_in(tmp_path, monkeypatch, name, source) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever comes back reads it again.",
        "It starts anew.",
        "This is seldom needed.",
        "The cache is written beside the row.",
        "Deletes what is due.",
        "Others wait for what came of it.",
        "The list is for who asks next.",
        "What a claim carries.",
        "Takes them back; answers how many.",
        "A message that never comes; it waits for ever.",
    ],
)
def test_what_must_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentence: str) -> None:
    assert len(found_in(tmp_path, monkeypatch, "a.py", f'"""{sentence}"""\n')) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "Callers who retry send the same key.",
        "Say what is wrong with this installation.",
        "Return the answers to the questions of the form.",
        "What is a lane? A task that runs a loop.",
        "Write the row next to its content.",
    ],
)
def test_plain_english_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentence: str) -> None:
    assert found_in(tmp_path, monkeypatch, "a.py", f'"""{sentence}"""\n') == []


def test_a_sentence_over_two_lines_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "# The lane waits for what\n# came of it.\n"
    assert found_in(tmp_path, monkeypatch, "a.py", source) == [(1, "for what came")]
