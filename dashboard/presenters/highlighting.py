"""Syntax colour for bodies, by Pygments: each piece of the text with its class, and not one character changed."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from time import monotonic
from typing import Any

from django.utils.safestring import SafeString, mark_safe
from pygments.lexers.data import JsonLexer
from pygments.lexers.html import XmlLexer
from pygments.token import Comment, Keyword, Name, Number, String

COLOURED = 16 * 1024  # characters: more than the lines before the fold usually have; the rest is plain text
WITHIN = 0.1  # seconds: a body made for it keeps the lexer of XML busy for half a minute, with a regex per character
LEXERS = {"json": JsonLexer(), "xml": XmlLexer()}
# Pygments' token types, and our classes in static/console.css. Punctuation and the like stay as they are.
CLASSES = {Name: "h-name", String: "h-text", Number: "h-number", Keyword: "h-word", Comment: "h-comment"}
_FIELD = re.compile(r"([^=&]*)(=?)([^&]*)(&?\n?)")


def highlighted(text: str, kind: str, cut: int) -> tuple[SafeString, SafeString]:
    """The text as HTML in two parts, before and after the character ``cut``."""
    parts: tuple[list[str], list[str]] = ([], [])
    place = 0
    for css_class, piece in chain(_pieces(text[:COLOURED], kind), [("", text[COLOURED:])]):
        here = max(0, cut - place)
        place += len(piece)
        for part, half in zip(parts, (piece[:here], piece[here:]), strict=True):
            if half:
                part.append(f'<span class="{css_class}">{html.escape(half)}</span>' if css_class else html.escape(half))
    first, rest = (mark_safe("".join(part)) for part in parts)  # noqa: S308 - every piece was escaped
    return first, rest


def _pieces(text: str, kind: str) -> Iterator[tuple[str, str]]:
    """Pieces of the text with their classes. Together they are the text."""
    if kind == "form":
        for name, equals, value, end in _FIELD.findall(text):
            yield from (("h-name", name), ("", equals), ("h-text", value), ("", end))
    elif kind in LEXERS:
        deadline = monotonic() + WITHIN
        # Not get_tokens, which strips and adds newlines.
        for place, token, piece in LEXERS[kind].get_tokens_unprocessed(text):
            if monotonic() > deadline:
                yield "", text[place:]
                return
            yield _class(token), piece
    else:
        yield "", text


@cache
def _class(token: Any) -> str:
    return next((css_class for kind, css_class in CLASSES.items() if token in kind), "")
