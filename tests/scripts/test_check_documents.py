"""References in documents: each kind that leads nowhere is found, with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts import check_documents

Problems = Callable[[str], list[tuple[int, str]]]


@pytest.fixture
def problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Problems]:
    files = ("docs/other.md", "app/models/message.py", "app/management/commands/up.py", "Makefile")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# The other\n" if name.endswith(".md") else "run: setup\n")
    monkeypatch.setattr(check_documents, "ROOT", tmp_path)
    monkeypatch.setattr(check_documents, "tracked", lambda: files)
    _forget()

    def found(text: str) -> list[tuple[int, str]]:
        (tmp_path / "page.md").write_text(text)
        return list(check_documents.problems_of_document("page.md"))

    yield found
    _forget()


def _forget() -> None:
    for kept in (check_documents.folders, check_documents._targets, check_documents._commands):
        kept.cache_clear()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("See [it](docs/gone.md).", "docs/gone.md"),
        ("See [it](docs/other.md#elsewhere).", "#elsewhere"),
        ("It is in `app/models/gone.py`.", "app/models/gone.py"),
        ("It is in `app/gone/`.", "app/gone/"),
        ("It is in `gone.py`.", "gone.py"),
        ("Run `make gone`.", "make gone"),
        ("```sh\nmanage.py gone\n```", "manage.py gone"),
        ("```sh\nswitchboard gone\n```", "switchboard gone"),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(problems: Problems, text: str, word: str) -> None:
    ((line, sentence),) = problems(f"# Page\n\n{text}\n")
    assert word in sentence
    assert line >= 3


@pytest.mark.parametrize(
    "text",
    [
        "See [it](docs/other.md#the-other), [there](https://example.com/a.md) and [here](#page).",
        "It is in `app/models/message.py`, `message.py`, `app/models/` and `app/models`.",
        "The type is `application/json`, the form `app/<name>.py`.",
        "Run `make run`, `manage.py up` or `switchboard up`, and make sense of it.",
    ],
)
def test_references_that_lead_somewhere_pass(problems: Problems, text: str) -> None:
    assert problems(f"# Page\n\n{text}\n") == []


def test_every_setting_that_the_code_reads_is_described() -> None:
    assert list(check_documents.problems_of_configuration()) == []
