"""The documentation as pages of the console: docs/*.md as HTML, the part that belongs to each page, and a search."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.token import Token

FOLDER: Path = settings.BASE_DIR / "docs"
INDEX = "index"  # docs/README.md
FOUND = 6  # sections in the palette
PICTURE_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Section:
    """A heading below the title, with its anchor."""

    anchor: str
    title: str


@dataclass(frozen=True, slots=True)
class Document:
    """A Markdown file. ``name`` is its address below /docs/."""

    name: str
    title: str
    sections: tuple[Section, ...]
    html: SafeString


@dataclass(frozen=True, slots=True)
class Place:
    """A document or one of its sections."""

    document: str
    anchor: str = ""
    title: str = ""


# By the beginning of the route's name: “message-cancel” has the part of “message”.
OF_PAGES = {
    "overview": Place("operating", "every-day"),
    "start": Place("start", "a-first-message-by-form"),
    "service": Place("concepts", "services-endpoints-messages"),
    "service-new": Place("contract", "service"),
    "service-edit": Place("contract", "service"),
    "service-try": Place("concepts", "circuit-breaker"),
    "service-delete": Place("operating", "history"),
    "signing": Place("integrating", "receive-calls"),
    "endpoint": Place("concepts", "services-endpoints-messages"),
    "messages": Place("operating", "searching"),
    "message": Place("concepts", "waiting-is-not-failing"),
    "message-new": Place("concepts", "services-endpoints-messages"),
    "message-replay": Place("concepts", "replay"),
    "failure": Place("concepts", "failure-groups-and-operations"),
    "operation": Place("concepts", "failure-groups-and-operations"),
    "lab": Place("concepts", "what-a-result-means"),
    "breaker": Place("concepts", "circuit-breaker"),
    "workers": Place("concepts", "workers-that-die"),
    "status": Place("operating", "health-and-metrics"),
    "audit": Place("operating", "users-and-tokens"),
    "settings": Place("operating", "users-and-tokens"),
    "person": Place("operating", "users-and-tokens"),
    "password": Place("operating", "users-and-tokens"),
    "token": Place("integrating", "get-a-token"),
    "retention": Place("operating", "history"),
    "backups": Place("operating", "backups"),
}


def place_of_page(route: str) -> Place | None:
    """The part of the documentation about a page: of its route, or of the longest name that its route begins with."""
    fitting = [name for name in OF_PAGES if route.startswith(name)]
    return OF_PAGES[max(fitting, key=len)] if fitting else None


@cache
def names() -> dict[str, Path]:
    """Every document by its name. A fixed list: no text of a request becomes part of a path."""
    paths = sorted(FOLDER.rglob("*.md"))
    return {_name(path): path for path in paths}


@cache
def pictures() -> dict[str, Path]:
    return {path.name: path for path in sorted(FOLDER.iterdir()) if path.suffix in PICTURE_TYPES}


def document(name: str) -> Document | None:
    """The document of this name; None if there is none. Read once: an update restarts the process."""
    return _rendered(name) if name in names() else None


def found(text: str) -> list[Place]:
    """Documents and sections whose titles have all these words, the whole documents first."""
    words = text.lower().split()
    hits = [place for place in _places() if all(word in place.title.lower() for word in words)]
    return sorted(hits, key=lambda place: bool(place.anchor))[:FOUND]


@cache
def _places() -> tuple[Place, ...]:
    return tuple(_all_places())


def _all_places() -> Iterator[Place]:
    for name in names():
        if (shown := document(name)) and not name.startswith("decisions/"):
            yield Place(name, title=f"{shown.title} docs")
            for section in shown.sections:
                yield Place(name, section.anchor, f"{section.title} · {shown.title} docs")


def _name(path: Path) -> str:
    below = path.relative_to(FOLDER).with_suffix("").as_posix()
    return re.sub(r"(^|/)README$", rf"\1{INDEX}", below)


# ---- Markdown -------------------------------------------------------------------------------------------------------
@cache
def _rendered(name: str) -> Document:
    path = names()[name]
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(path.read_text(encoding="utf-8"))
    title, tokens = _title(tokens)
    sections = []
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            words = _words(tokens[at + 1])
            token.attrSet("id", _anchor(words))
            if token.tag == "h2":
                sections.append(Section(_anchor(words), words))
        elif token.type == "inline":
            token.children = list(_linked(token.children or [], path))
    html = markdown.renderer.render(_scrolling(tokens), markdown.options, {})
    return Document(name, title, tuple(sections), mark_safe(html))  # noqa: S308 - our own files, and HTML in them is off


def _title(tokens: list[Token]) -> tuple[str, list[Token]]:
    """The first heading, which the page has as its own, and the rest."""
    return _words(tokens[1]), tokens[3:]


def _title_of(path: Path) -> str:
    """The first line of a file, as “# Concepts” has it: cheaper than to render what links back."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _words(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [])


def _anchor(title: str) -> str:
    """As on GitHub, so that one link works in both."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _linked(children: list[Token], path: Path) -> Iterator[Token]:
    """Links to other documents lead to their pages; a link to a file that the console does not serve is plain text."""
    is_dropped, linked, file = False, None, path
    for child in children:
        if child.type == "link_open":
            file = path.parent / str(child.attrs["href"]).partition("#")[0]
            target = _address(str(child.attrs["href"]), path)
            is_dropped = target is None
            if target is not None:
                child.attrSet("href", target)
                yield child
            linked = target
        elif child.type == "link_close":
            if not is_dropped:
                yield child
            is_dropped, linked = False, None
        elif child.type == "text" and linked and re.fullmatch(r"[\w/-]+\.md", child.content):
            child.content = _title_of(file)
            yield child
        elif child.type == "image":
            child.attrSet("src", f"/docs/{Path(str(child.attrs['src'])).name}")
            yield child
        else:
            yield child


def _address(target: str, path: Path) -> str | None:
    if re.match(r"https?:|mailto:|#", target):
        return target
    file, _, anchor = target.partition("#")
    meant = (path.parent / file).resolve()
    if meant == FOLDER / "openapi.json":
        return "/api/v1/openapi.json"
    if meant == FOLDER / "decisions":
        meant = meant / "README.md"
    if not meant.is_relative_to(FOLDER) or (name := _name(meant)) not in names():
        return None
    return f"/docs/{name}/" + (f"#{anchor}" if anchor else "")


def _scrolling(tokens: list[Token]) -> list[Token]:
    """Wide tables and code scroll by themselves, so that the page does not; they can be focused for the keyboard."""
    wrapped: list[Token] = []
    for token in tokens:
        if token.type in ("table_open", "fence"):
            wrapped.append(_html('<div class="wide" tabindex="0">'))
        wrapped.append(token)
        if token.type in ("table_close", "fence"):
            wrapped.append(_html("</div>"))
    return wrapped


def _html(content: str) -> Token:
    options: dict[str, Any] = {"content": content}
    return Token("html_block", "", 0, **options)
