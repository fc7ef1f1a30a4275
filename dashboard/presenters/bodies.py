"""Bodies laid out for a page: JSON indented without touching a digit, a form's fields on lines of their own, text
unchanged, anything else as a hex dump.

A round trip through Python's JSON would lose duplicate keys and rewrite numbers (``1.10``, ``1e400``). An operator
compares the body that was sent with the receiver's complaint and needs the exact characters. So the parser only
checks JSON, which is then laid out token by token.
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from itertools import islice

SHOWN = 64 * 1024  # bytes of a body on a page; more would freeze the browser, and the rest can be downloaded
HEX_SHOWN = 4 * 1024  # 256 lines
DEEPEST = 40  # levels that are indented; beyond, the indentation outgrows the content
LAID_OUT_LIMIT = 512 * 1024  # characters of indented JSON
GROWTH = 3  # characters of indented JSON on a page for each byte of the limit: compact JSON grows so much
PARSED = 16  # times the limit: JSON of 1 MiB is checked, in 40 ms, so that its start can be laid out
FOLDED_AFTER = 200  # lines
VIEWS = ("pretty", "raw", "hex")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_XML = re.compile(r"\s*<(?:[?!]|[A-Za-z_][\w.:-]*[\s/>])")
_FORM = re.compile(r"[^\s=&]+=[^\s=&]*(?:&[^\s=&]+=[^\s=&]*)*")
_CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10, 13)} | {127: 0x2421}
# Marks that turn the direction of text are shown as JSON escapes, so that no body can look like different text.
_TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_DIRECTIONS = {code: f"\\u{code:04x}" for code in _TURNING}


def chosen_view(name: str | None) -> str:
    """The view of this name; the first of VIEWS for any other name."""
    return name if name in VIEWS else VIEWS[0]


@dataclass(frozen=True, slots=True)
class Payload:
    """A body laid out for a page. ``kind`` is ``empty``, ``json``, ``xml``, ``form``, ``text`` or ``hex``; sizes are in
    bytes."""

    kind: str
    text: str
    size: int
    shown: int

    @property
    def is_cut(self) -> bool:
        return self.shown < self.size

    @property
    def fold(self) -> int:
        """The place in the text after which it is folded."""
        lines = list(islice(re.finditer("\n", self.text), FOLDED_AFTER))
        return lines[-1].end() if len(lines) == FOLDED_AFTER else len(self.text)


def payload(body: bytes, limit: int = SHOWN, *, view: str = "pretty") -> Payload:
    """Lay out the start of a body: ``limit`` bytes of it, or GROWTH times as much of indented JSON. ``view`` is one
    of VIEWS; a body that is not text is always shown as hex."""
    size = len(body)
    if not size:
        return Payload("empty", "", 0, 0)
    text = text_of(body[:limit]) if view != "hex" else None
    if text is None:
        return Payload("hex", hex_dump(body[:HEX_SHOWN]), size, min(size, HEX_SHOWN))
    if view == "pretty" and text.lstrip()[:1] in ("{", "["):
        whole = text if size <= limit else text_of(body) if size <= PARSED * limit else None
        laid_out = _laid_out(whole, GROWTH * limit) if whole else None
        if whole and laid_out:
            indented, read = laid_out
            shown = size if read == len(whole) else len(whole[:read].encode())
            return Payload("json", indented.translate(_DIRECTIONS), size, shown)
    text = text.translate({**_CONTROLS, **_DIRECTIONS})
    kind = _kind(text) if view == "pretty" else "text"
    return Payload(kind, text.replace("&", "&\n") if kind == "form" else text, size, min(size, limit))


def _kind(text: str) -> str:
    return "xml" if _XML.match(text) else "form" if _FORM.fullmatch(text) else "text"


def text_of(body: bytes) -> str | None:
    if b"\0" in body:
        return None
    try:
        # Leave out an incomplete last character: the cut may have split it.
        return codecs.getincrementaldecoder("utf-8")().decode(body, final=False)
    except UnicodeDecodeError:
        return None


def is_json(text: str) -> bool:
    return json_refusal(text) is None


def json_refusal(text: str) -> str | None:
    """Why this text is not JSON, with line and column; None if it is. NaN and Infinity are not JSON."""
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_not_json)
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]} (line {error.lineno}, column {error.colno})"
    except RecursionError:
        return "nested too deeply"
    except ValueError as error:
        return str(error)
    return None


def _not_json(word: str) -> None:
    raise ValueError(f"not valid JSON: {word} is not a JSON value")


def compact_json(text: str) -> str:
    """Valid JSON without white space between its tokens; every number and key stays as typed."""
    return "".join(_TOKEN.findall(text))


def pretty_json(text: str, limit: int = LAID_OUT_LIMIT) -> str | None:
    """The same JSON indented, or None if it is not JSON, nested too deeply or longer than ``limit`` characters."""
    indented, read = _laid_out(text, limit) or ("", 0)
    return indented if read == len(text) else None


def _laid_out(text: str, most: int) -> tuple[str, int] | None:
    """The start of a JSON text indented, in about ``most`` characters, and the number of characters that it took from
    the text. None if the text is not JSON, nested too deeply, or has a value longer than that."""
    if not is_json(text):
        return None
    lines: list[str] = []
    line, depth, length, before = "", 0, 0, ""
    for found in _TOKEN.finditer(text):
        token = found[0]
        if len(token) > most:
            return None
        if token in ("}", "]"):
            depth -= 1
        opened, closes = before in ("{", "["), token in ("}", "]")
        if before == "," or opened != closes:
            if length > most:
                return "\n".join(lines), found.start()
            lines.append(line)
            length += len(line)
            line = "  " * depth
        line += ": " if token == ":" else token  # noqa: S105 - a token of JSON
        if token in ("{", "["):
            depth += 1
        before = token
        if depth > DEEPEST:
            return None
    return "\n".join([*lines, line]), len(text)


def hex_dump(body: bytes) -> str:
    """Lines of offset, sixteen bytes, and the same bytes as ASCII."""
    return "\n".join(
        f"{start:06x}  {body[start : start + 16].hex(' '):<47}  "
        + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in body[start : start + 16])
        for start in range(0, len(body), 16)
    )
