"""What tells one kind of failure from another: a fingerprint of the call's outcome.

Two failures are the same when service, endpoint, phase, fault and status code are the same, and the other side said
the same: by its error code and the names in its JSON, otherwise by its words with everything folded that changes from
call to call. Different status codes never meet. The algorithm has a version: a new one makes new groups and leaves
the old ones as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any

from integrations.outbound.outcome import Fault

VERSION = 1
LOOKED_AT = 4096  # characters of a text, bytes of an answer that is no JSON
JSON_LIMIT = 16 * 1024  # bytes of an answer that is read as JSON
WORDS = 300  # characters of the folded text that count
TITLE = 200
NAMES = 20  # names of a JSON object that count
FOLDED = "…"

CODES = ("code", "error_code", "errorCode", "type", "error", "reason", "status")
SAYINGS = ("message", "detail", "error_description", "description", "title", "msg", "errors")
INNER = ("error", "errors", "fault")  # where an error may lie one level deeper


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """What a failed call is told apart by. Text and body come without secrets."""

    service_id: int
    endpoint_id: int | None
    fault: str
    status_code: int | None = None
    detail: str = ""  # the client's words; they count where there was no answer
    body: bytes = b""
    has_answered: bool = False  # whether the first byte of an answer came


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``key`` is the same for the same kind of failure; ``because`` says by what, in words for an operator."""

    version: int
    key: str
    title: str
    because: dict[str, Any]


def fingerprint(facts: FailureDetails) -> Fingerprint:
    """Microseconds for words, up to a millisecond for 16 KB of JSON; raises nothing."""
    said = _said(facts.body) if facts.status_code is not None and facts.fault == Fault.STATUS else {}
    if not said and facts.fault != Fault.STATUS and (words := fold(facts.detail)):
        said = {"text": words}
    return _made(facts, said)


def remainder(facts: FailureDetails) -> Fingerprint:
    """For what is one kind too many: everything else with the same fault and status code."""
    return _made(facts, {"other": "more kinds of this failure than are kept apart"})


def _made(facts: FailureDetails, said: dict[str, Any]) -> Fingerprint:
    because = {"phase": _phase(facts), "fault": facts.fault, "status_code": facts.status_code, **said}
    identity = [VERSION, facts.service_id, facts.endpoint_id, because]
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return Fingerprint(VERSION, key, _title(facts, said), because)


def _title(facts: FailureDetails, said: Mapping[str, Any]) -> str:
    what = _status_words(facts.status_code) if facts.fault == Fault.STATUS else facts.fault.replace("_", " ")
    if "other" in said:
        return f"{what}: other answers"[:TITLE]
    words = [str(said[name]) for name in ("code", "text") if name in said]
    if not words and "names" in said:
        words = [f"JSON with {', '.join(said['names'])}"]
    return ": ".join([what, *words])[:TITLE]


def _status_words(status_code: int | None) -> str:
    if status_code is None:
        return "no status"
    try:
        return f"{status_code} {HTTPStatus(status_code).phrase}"
    except ValueError:
        return str(status_code)


PHASES = {Fault.DNS: "name", Fault.CONNECT: "connection", Fault.TLS: "TLS handshake", Fault.STATUS: "answer"}
PHASES |= {Fault.CONFIG: "before the call", Fault.BLOCKED: "before the call"}


def _phase(facts: FailureDetails) -> str:
    if facts.fault in PHASES:
        return PHASES[Fault(facts.fault)]
    return "answer" if facts.has_answered else "waiting for the answer"


# ---- what the other side said ---------------------------------------------------------------------------------------
def _said(body: bytes) -> dict[str, Any]:
    error = _as_object(body)
    if error is None:
        words = fold(_plain(body[:LOOKED_AT].decode(errors="replace")))
        return {"text": words} if words else {}
    names = sorted({fold(name) for name in _names(error)})[:NAMES]
    if code := _code(error):
        return {"code": code, "names": names}
    words = next(_sayings(error), "")
    return {"names": names, **({"text": words} if words else {})}


def _as_object(body: bytes) -> dict[str, Any] | None:
    if len(body) > JSON_LIMIT or not body.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _levels(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object, and the errors within it."""
    yield error
    for name in INNER:
        inner = error.get(name)
        if isinstance(inner, list) and inner:
            inner = inner[0]
        if isinstance(inner, dict):
            yield inner


def _names(error: dict[str, Any]) -> Iterator[str]:
    yield from error
    for inner in list(_levels(error))[1:]:
        yield from inner


def _code(error: dict[str, Any]) -> str:
    """What the other side itself calls this error: a word or a number, never a sentence."""
    # The innermost is the most exact.
    for level in reversed(list(_levels(error))):
        for name in CODES:
            value = level.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)[:100] if abs(value) < 10**9 else ""
            if isinstance(value, str) and re.fullmatch(r"[\w.:/#-]{1,100}", value):
                return fold(value) if UUID.search(value) else value
    return ""


def _sayings(error: dict[str, Any]) -> Iterator[str]:
    for level in reversed(list(_levels(error))):
        for name in (*SAYINGS, *CODES):
            if isinstance(level.get(name), str) and (words := fold(level[name])):
                yield words


def _plain(text: str) -> str:
    """A page's title, or its text without tags; other text as it is."""
    if not text.lstrip().startswith("<"):
        return text
    title = re.search(r"<title[^<>]*>([^<]+)<", text, re.IGNORECASE)
    return title[1] if title else re.sub(r"<[^<>]*>?", " ", text)


# ---- folding --------------------------------------------------------------------------------------------------------
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# A quote inside a word is an apostrophe. The marks stay, so that folding again finds the same pairs.
QUOTED = re.compile(rf"\"[^\"]*\"|(?<![\w{FOLDED}])'[^'\"]*'(?![\w{FOLDED}])")
UUID = re.compile(r"(?<!\w)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?!\w)", re.IGNORECASE)
CHANGING = re.compile(
    "|".join(
        (
            r"(?:https?|wss?|ftp)://[^\s\"'<>]+",
            r"(?<![\w.+-])[\w.+-]+@\w[\w.-]*",
            UUID.pattern,
            # IPv6
            rf"(?<![\w:{FOLDED}])(?:[0-9a-f]{{0,4}}:){{2,7}}(?:[0-9a-f]{{1,4}}|(?:\d+\.){{3}}\d+)?(?![\w:{FOLDED}])",
            # whatever has a digit: numbers, dates and times, IPv4 with its port, identifiers
            r"(?<!\w)\w*\d\w*(?:-\w+|[.,:+/]{1,2}\w*\d\w*)*",
        )
    ),
    re.IGNORECASE,
)
REPEATED = re.compile(rf"{FOLDED}(?:[\s,;]*{FOLDED})+")


def fold(text: str) -> str:
    """The words with whatever changes from call to call as “…”: quoted values, addresses, identifiers, numbers and
    dates. Folding twice is folding once; only the first 4,096 characters are looked at."""
    text = UNPRINTABLE.sub(" ", text[:LOOKED_AT])
    text = QUOTED.sub(lambda found: f"{found[0][0]}{FOLDED}{found[0][0]}", text)
    text = REPEATED.sub(FOLDED, CHANGING.sub(FOLDED, text))
    return " ".join(text.split())[:WORDS].rstrip()
