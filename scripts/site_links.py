"""A hook of MkDocs: links of documents to files outside of docs/ become plain text, as in the console."""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    return without_outer_links(markdown, page.file.src_uri)


def without_outer_links(markdown: str, path: str) -> str:
    """Replace each link that leads out of docs/ by its text. ``path`` is the document's own, below docs/."""

    def shown(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2]))
        return link[1] if target.startswith("../") else link[0]

    return LINK.sub(shown, markdown)
