"""Syntax colour and folding: no character changes, nothing in a body becomes markup, and no body takes long."""

from __future__ import annotations

import json
import re
import time
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboard.presenters.bodies import FOLDED_AFTER, SHOWN, payload
from dashboard.presenters.highlighting import COLOURED, WITHIN, highlighted

XML = '<?xml version="1.0"?>\n<order id="9010"><!-- hm --><note>a &amp; b</note></order>\n'


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


@pytest.mark.parametrize("kind", ["json", "xml", "form", "text", "hex"])
@given(st.text(alphabet="<>&\"'=/!-?[]{}:,\\ \nae1é\u2028", max_size=300), st.integers(0, 300))
@settings(deadline=None)
def test_colour_changes_no_character_and_lets_none_become_markup(kind: str, text: str, cut: int) -> None:
    first, rest = highlighted(text, kind, cut)
    assert plain(first) == text[:cut]
    assert plain(rest) == text[cut:]
    assert not re.sub(r'<span class="h-[a-z]+">|</span>', "", first + rest).count("<")


@pytest.mark.parametrize(
    ("body", "kind", "coloured"),
    [
        (b'{"a":[1,true,"x"]}', "json", ['h-name">&quot;a', 'h-number">1', 'h-word">true', 'h-text">&quot;x']),
        (XML.encode(), "xml", ['h-name">&lt;order', 'h-name">id=', "h-text", 'h-comment">&lt;!-- hm --&gt;']),
        (b"<html><body>Bad gateway</body></html>", "xml", ['h-name">&lt;html']),
        (b"grant_type=client_credentials&scope=a%20b", "form", ['h-name">grant_type', 'h-text">a%20b']),
        (b"Internal Server Error", "text", []),
        (b"a < b & c = d", "text", []),
    ],
)
def test_a_body_has_the_colours_of_its_kind(body: bytes, kind: str, coloured: list[str]) -> None:
    shown = payload(body)
    assert shown.kind == kind
    html = "".join(highlighted(shown.text, shown.kind, shown.fold))
    assert [words for words in coloured if words not in html] == []
    assert ("<span" in html) is bool(coloured)
    assert payload(body, view="raw").text == body.decode()
    assert payload(body, view="raw").kind == "text"


def test_a_long_body_is_folded_at_the_end_of_a_line() -> None:
    shown = payload(json.dumps(list(range(1000))).encode())
    first, rest = highlighted(shown.text, shown.kind, shown.fold)
    assert first.count("\n") == FOLDED_AFTER
    assert first.endswith("\n")
    assert json.loads(plain(first + rest)) == list(range(1000))
    short = payload(json.dumps(list(range(FOLDED_AFTER - 2))).encode())
    assert highlighted(short.text, short.kind, short.fold)[1] == ""


def test_the_start_of_one_mebibyte_on_one_line_is_laid_out() -> None:
    rows = [{"id": number, "name": "a customer", "total": 12.5} for number in range(20_000)]
    body = json.dumps(rows).encode()
    assert body.count(b"\n") == 0
    began = time.monotonic()
    shown = payload(body)
    highlighted(shown.text, shown.kind, shown.fold)
    assert time.monotonic() - began < 1  # 0.1 s on a laptop; the page was one line of 64 KB
    assert shown.kind == "json"
    assert shown.is_cut
    assert shown.text.startswith('[\n  {\n    "id": 0,')
    assert max(map(len, shown.text.splitlines())) < 100
    compact = "".join(shown.text.split())
    assert "".join(body.decode()[: shown.shown].split()).startswith(compact[:-1])
    assert len(shown.text) < 4 * SHOWN


def test_one_long_value_is_not_shown_whole() -> None:
    shown = payload(json.dumps(["x" * 500_000]).encode())
    assert len(shown.text) <= SHOWN
    assert shown.is_cut


@pytest.mark.parametrize("start", ["<a>&", "<a><![CDATA[", "<a><!--", "<a><?x ", "<a><a b='", '{"a":"', "["])
def test_a_body_made_to_keep_the_lexer_busy_took_half_a_minute(start: str) -> None:
    text = start + start[-1] * 1000 + start[3:] * COLOURED
    began = time.monotonic()
    first, rest = highlighted(text, "json" if start[0] in '{["' else "xml", 5000)
    assert time.monotonic() - began < WITHIN + 1
    assert plain(first + rest) == text
