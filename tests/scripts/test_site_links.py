"""The site of `make docs`: links out of docs/ are plain text, and every document has its place in the navigation."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from scripts.site_links import without_outer_links
from tests.support.backends import ROOT


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("See [the changes](../../CHANGELOG.md#unreleased).", "See the changes."),
        ("See [it](../start.md#installed), [here](#a), [there](https://example.com) and ![x](x.png).", None),
    ],
)
def test_only_links_that_lead_out_of_the_documentation_are_dropped(written: str, shown: str | None) -> None:
    assert without_outer_links(written, "reference/commands.md") == (shown or written)


def test_every_document_has_its_place_in_the_site() -> None:
    placed = sorted(_files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert placed == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def _files(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [file for each in (nav.values() if isinstance(nav, dict) else nav) for file in _files(each)]
