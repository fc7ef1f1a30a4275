"""How a body is shown: JSON indented without touching a digit, text as it is, anything else as a hex dump.

Python's own JSON round trip would lose duplicate keys and rewrite numbers (``1.10``, ``1e400``), and an operator who
compares what was sent with what a receiver complains about needs the exact characters. So JSON is only checked by
the parser and then laid out token by token.
"""

from __future__ import annotations

import codecs
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 64 * 1024  # bytes of a body on a page; more would freeze the browser, and the rest can be downloaded
HEX_SHOWN = 4 * 1024  # 256 lines
DEEPEST = 40  # levels that are indented; beyond, the indentation outgrows the content
LAID_OUT_LIMIT = 512 * 1024  # characters of indented JSON
CURL_BODY_LIMIT = 8 * 1024  # a longer body does not fit a command line well

VIEWS = ("pretty", "raw", "hex")  # how a body can be asked for

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_CONTROLS = {code: 0x2400 + code for code in range(32) if code not in (9, 10, 13)} | {127: 0x2421}
# Marks that turn the direction of the text: shown as they may stand in JSON, so that nothing reads as what it is not.
_TURNING = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_DIRECTIONS = {code: f"\\u{code:04x}" for code in _TURNING}


@dataclass(frozen=True, slots=True)
class Payload:
    """A body ready to be shown. ``kind`` is ``empty``, ``json``, ``text`` or ``hex``."""

    kind: str
    text: str
    size: int
    shown: int

    @property
    def is_cut(self) -> bool:
        return self.shown < self.size


def payload(body: bytes, limit: int = SHOWN, *, view: str = "pretty") -> Payload:
    """The body laid out for reading, at most ``limit`` bytes of it; pretty only where all of it is shown. ``view`` is
    one of VIEWS; what is no text is always hex."""
    size = len(body)
    if not size:
        return Payload("empty", "", 0, 0)
    text = _text(body[:limit]) if view != "hex" else None
    if text is None:
        return Payload("hex", hex_dump(body[:HEX_SHOWN]), size, min(size, HEX_SHOWN))
    is_object = size <= limit and text.lstrip()[:1] in ("{", "[")
    if view == "pretty" and is_object and (laid_out := pretty_json(text)) is not None:
        return Payload("json", laid_out.translate(_DIRECTIONS), size, size)
    return Payload("text", text.translate({**_CONTROLS, **_DIRECTIONS}), size, min(size, limit))


def _text(body: bytes) -> str | None:
    if b"\0" in body:
        return None
    try:
        # An incomplete last character is left out: the cut may have gone through it.
        return codecs.getincrementaldecoder("utf-8")().decode(body, final=False)
    except UnicodeDecodeError:
        return None


def is_json(text: str) -> bool:
    return json_refusal(text) is None


def json_refusal(text: str) -> str | None:
    """Why this text is not JSON, with the place; None where it is. NaN and Infinity are not JSON."""
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
    """Valid JSON without the white space between its tokens; every number and key stays as it was typed."""
    return "".join(_TOKEN.findall(text))


def pretty_json(text: str) -> str | None:
    """The same JSON indented, or None where it is not JSON, nested too deeply or would grow too long."""
    if not is_json(text):
        return None
    lines: list[str] = []
    line, depth, length, before = "", 0, 0, ""
    for token in _TOKEN.findall(text):
        if token in ("}", "]"):
            depth -= 1
        opened, closes = before in ("{", "["), token in ("}", "]")
        if before == "," or opened != closes:
            lines.append(line)
            length += len(line)
            line = "  " * depth
        line += ": " if token == ":" else token  # noqa: S105 - a token of JSON
        if token in ("{", "["):
            depth += 1
        before = token
        if depth > DEEPEST or length > LAID_OUT_LIMIT:
            return None
    return "\n".join([*lines, line])


def hex_dump(body: bytes) -> str:
    """Offset, sixteen bytes, and what of them is ASCII."""
    return "\n".join(
        f"{start:06x}  {body[start : start + 16].hex(' '):<47}  "
        + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in body[start : start + 16])
        for start in range(0, len(body), 16)
    )


def curl(method: str, url: str, headers: Iterable[Iterable[str]], body: bytes) -> str:
    """A command that repeats a call; what was masked stays masked and has to be filled in."""
    parts = [f"curl -X {shlex.quote(method)} {shlex.quote(url)}"]
    parts += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers]
    if body:
        text = _text(body) if len(body) <= CURL_BODY_LIMIT else None
        parts.append(f"--data-binary {shlex.quote(text)}" if text is not None else "--data-binary @body")
    return " \\\n  ".join(parts)


# ---- timing -------------------------------------------------------------------------------------------------------
PHASES = (
    ("dns", "Name look-up"),
    ("connect", "Connect"),
    ("tls", "TLS"),
    ("first_byte", "Waiting for the answer"),
)
WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a call on its bar: position and width in thousandths."""

    name: str
    label: str
    seconds: float
    x: float
    width: float


def phases(timings: dict[str, float | None]) -> list[Phase]:
    """The phases of a call one after the other, and what is left of the total as the reading of the answer."""
    spent = [(name, label, max(0.0, timings.get(name) or 0.0)) for name, label in PHASES]
    spent = [phase for phase in spent if timings.get(phase[0]) is not None]
    known = sum(seconds for _, _, seconds in spent)
    total = max(timings.get("total") or 0.0, known)
    if not total:
        return []
    rest = total - known
    spent.append(("rest", "Reading the answer" if timings.get("first_byte") is not None else "Until it failed", rest))
    found, at = [], 0.0
    for name, label, seconds in spent:
        width = seconds / total * WIDTH
        found.append(Phase(name, label, seconds, round(at, 1), round(width, 1)))
        at += width
    return found
