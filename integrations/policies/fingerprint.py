"""Fingerprint a failed call: equal fingerprints are the same kind of failure.

Two failures are the same if service, endpoint, phase, fault and status code are equal, and the response says the same:
by its error code and the names in its JSON, otherwise by its text, in which every part that changes from call to call
is folded. Different status codes never share a group. The algorithm has a version: a new version makes new groups and
leaves the old ones unchanged.
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

VERSION = 1  # the texts in ``because`` are part of the key: to change one, raise this
READ_OF_TEXT = 4096  # characters of a text, bytes of a response that is not JSON
JSON_LIMIT = 16 * 1024  # bytes; a larger response is not read as JSON
FOLDED_LIMIT = 300  # characters of the folded text that count
TITLE = 200
NAMES = 20  # names of a JSON object that count
FOLDED = "…"

CODES = ("code", "error_code", "errorCode", "type", "error", "reason", "status")
TEXTS = ("message", "detail", "error_description", "description", "title", "msg", "errors")
INNER = ("error", "errors", "fault")  # names that may hold the error one level deeper


@dataclass(frozen=True, slots=True)
class FailureDetails:
    """The properties of a failed call that its fingerprint is made of. Text and body contain no secrets."""

    service_id: int
    endpoint_id: int | None
    fault: str
    status_code: int | None = None
    detail: str = ""  # the client's text; it counts if there was no response
    body: bytes = b""
    has_responded: bool = False  # whether the first byte of a response arrived


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``key`` is equal for the same kind of failure; ``because`` names the properties behind it for an operator."""

    version: int
    key: str
    title: str
    because: dict[str, Any]


def fingerprint(failure: FailureDetails) -> Fingerprint:
    """Return the fingerprint of a failed call. Takes µs for text, up to 1 ms for 16 KB of JSON. Raises nothing."""
    traits = _response_traits(failure.body) if failure.status_code is not None and failure.fault == Fault.STATUS else {}
    if not traits and failure.fault != Fault.STATUS and (text := fold(failure.detail)):
        traits = {"text": text}
    return _fingerprint(failure, traits)


def remainder(failure: FailureDetails) -> Fingerprint:
    """Return the fingerprint for the rest, once there are too many kinds with this fault and status code."""
    return _fingerprint(failure, {"other": "more kinds of this failure than are kept apart"})


def _fingerprint(failure: FailureDetails, traits: dict[str, Any]) -> Fingerprint:
    because = {"phase": _phase(failure), "fault": failure.fault, "status_code": failure.status_code, **traits}
    identity = [VERSION, failure.service_id, failure.endpoint_id, because]
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return Fingerprint(VERSION, key, _title(failure, traits), because)


def _title(failure: FailureDetails, traits: Mapping[str, Any]) -> str:
    kind = _status_text(failure.status_code) if failure.fault == Fault.STATUS else failure.fault.replace("_", " ")
    if "other" in traits:
        return f"{kind}: other answers"[:TITLE]
    parts = [str(traits[name]) for name in ("code", "text") if name in traits]
    if not parts and "names" in traits:
        parts = [f"JSON with {', '.join(traits['names'])}"]
    return ": ".join([kind, *parts])[:TITLE]


def _status_text(status_code: int | None) -> str:
    if status_code is None:
        return "no status"
    try:
        return f"{status_code} {HTTPStatus(status_code).phrase}"
    except ValueError:
        return str(status_code)


PHASES = {Fault.DNS: "name", Fault.CONNECT: "connection", Fault.TLS: "TLS handshake", Fault.STATUS: "answer"}
PHASES |= {Fault.CONFIG: "before the call", Fault.BLOCKED: "before the call"}


def _phase(failure: FailureDetails) -> str:
    if failure.fault in PHASES:
        return PHASES[Fault(failure.fault)]
    return "answer" if failure.has_responded else "waiting for the answer"


# ---- the content of the response ------------------------------------------------------------------------------------
def _response_traits(body: bytes) -> dict[str, Any]:
    error = _as_object(body)
    if error is None:
        text = fold(_plain(body[:READ_OF_TEXT].decode(errors="replace")))
        return {"text": text} if text else {}
    names = sorted({fold(name) for name in _names(error)})[:NAMES]
    if code := _code(error):
        return {"code": code, "names": names}
    text = next(_texts(error), "")
    return {"names": names, **({"text": text} if text else {})}


def _as_object(body: bytes) -> dict[str, Any] | None:
    if len(body) > JSON_LIMIT or not body.lstrip().startswith(b"{"):
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _levels(error: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the object, and the errors inside it."""
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
    """Return the server's own code for this error: a word or a number, never a sentence."""
    # The innermost code is the most precise.
    for level in reversed(list(_levels(error))):
        for name in CODES:
            value = level.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return str(value)[:100] if abs(value) < 10**9 else ""
            if isinstance(value, str) and re.fullmatch(r"[\w.:/#-]{1,100}", value):
                return fold(value) if UUID.search(value) else value
    return ""


def _texts(error: dict[str, Any]) -> Iterator[str]:
    for level in reversed(list(_levels(error))):
        for name in (*TEXTS, *CODES):
            if isinstance(level.get(name), str) and (text := fold(level[name])):
                yield text


def _plain(text: str) -> str:
    """Return the title of an HTML page, or its text without tags; other text unchanged."""
    if not text.lstrip().startswith("<"):
        return text
    title = re.search(r"<title[^<>]*>([^<]+)<", text, re.IGNORECASE)
    return title[1] if title else re.sub(r"<[^<>]*>?", " ", text)


# ---- folding --------------------------------------------------------------------------------------------------------
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# A quotation mark inside a word is an apostrophe. The marks stay, so that a second fold finds the same pairs.
QUOTED = re.compile(rf"\"[^\"]*\"|(?<![\w{FOLDED}])'[^'\"]*'(?![\w{FOLDED}])")
UUID = re.compile(r"(?<!\w)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?!\w)", re.IGNORECASE)
CHANGING = re.compile(
    "|".join(
        (
            r"(?:https?|wss?|ftp)://[^\s\"'<>]+",
            rf"(?<![\w.+{FOLDED}-])[\w.+-]+@\w[\w.-]*",
            UUID.pattern,
            # IPv6
            rf"(?<![\w:{FOLDED}])(?:[0-9a-f]{{0,4}}:){{2,7}}(?:[0-9a-f]{{1,4}}|(?:\d+\.){{3}}\d+)?(?![\w:{FOLDED}])",
            # every word with a digit: numbers, dates and times, IPv4 with its port, identifiers
            r"(?<!\w)\w*\d\w*(?:-\w+|[.,:+/]{1,2}\w*\d\w*)*",
        )
    ),
    re.IGNORECASE,
)
REPEATED = re.compile(rf"{FOLDED}(?:[\s,;]*{FOLDED})+")


def fold(text: str) -> str:
    """Replace the parts of a text that change from call to call by “…”: quoted values, addresses, identifiers, numbers
    and dates. Folding twice equals folding once. Reads only the first 4,096 characters."""
    text = UNPRINTABLE.sub(" ", text[:READ_OF_TEXT])
    text = QUOTED.sub(lambda found: f"{found[0][0]}{FOLDED}{found[0][0]}", text)
    text = REPEATED.sub(FOLDED, CHANGING.sub(FOLDED, text))
    return " ".join(text.split())[:FOLDED_LIMIT].rstrip()
