"""JSON of requests, parsed strictly, and of responses: compact, times as RFC 3339 in UTC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from secrets import token_hex
from typing import Any, NoReturn, TypeVar

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from ninja.parser import Parser
from pydantic import BaseModel
from pydantic_core import ValidationError, to_json

from integrations.api.problems import Problem
from integrations.schemas import exact_json

Model = TypeVar("Model", bound=BaseModel)
PLACE = f"json-{token_hex(16)}:"  # no document can contain it
NESTING_LIMIT = 100  # levels of brackets; a deeper body is an attack or a mistake

# Objects and arrays cost more than their bytes: 570,000 in 1 MiB took 2 s of the one thread that stores messages. A
# batch, which another thread stores, may have one for every 16 bytes.
BRACKETS_LIMIT = 100_000
BYTES_FOR_EACH = 16


class StrictParser(Parser):
    """ninja's parser of bodies: strict RFC 8259 JSON in UTF-8."""

    def parse_body(self, request: HttpRequest) -> Any:
        return parsed_body(request)


def body_as(request: HttpRequest, model: type[Model]) -> Model:
    """Validate a request's body like ninja does. Raises Problem, or pydantic's ValidationError."""
    if not request.body:
        raise ValidationError.from_exception_data("body", [{"type": "missing", "loc": (), "input": None}])
    return model.model_validate(parsed_body(request))


def parsed_body(request: HttpRequest) -> Any:
    kind = request.content_type or ""
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, f"Send the body with Content-Type: application/json, not {kind[:100]}.")
    return parse(request.body)


def parse(raw: bytes) -> Any:
    """Parse JSON text. Raises Problem(400) for invalid JSON, duplicate names, deep nesting and lone surrogates, and
    Problem(413) for more objects and arrays than a body may have."""
    _check_brackets(raw)
    try:
        value = _decode(raw.decode())
    except UnicodeDecodeError:
        raise Problem(400, "The body must be UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise Problem(400, f"The body is not valid JSON: {error}.") from None
    if _is_too_deep(raw):
        raise _too_deep()
    if b"\\u" in raw and _has_lone_surrogates(value):
        raise Problem(400, "The body contains half of a surrogate pair, which is not valid Unicode.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate names: Python would silently keep only the last value."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has the same name twice")
    return members


_decode = json.JSONDecoder(
    object_pairs_hook=_without_duplicates,
    parse_constant=_refuse_constant,
    parse_float=exact_json.parse_float,
    parse_int=exact_json.parse_int,
).decode


def _too_deep() -> Problem:
    return Problem(400, f"The body is nested more than {NESTING_LIMIT} levels deep.")


def _check_brackets(raw: bytes) -> None:
    limit = max(BRACKETS_LIMIT, len(raw) // BYTES_FOR_EACH)
    if _opening(raw) > limit and _opening(_outside_strings(raw)) > limit:
        detail = f"The body contains more than {limit:,} objects and arrays. Send such a document as body_base64."
        raise Problem(413, detail)


def _opening(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _is_too_deep(raw: bytes) -> bool:
    """Remove innermost pairs of brackets level by level. Brackets inside strings cost time, but no wrong result."""
    brackets = raw.translate(None, _NOT_BRACKETS)
    if len(brackets) <= 2 * NESTING_LIMIT:
        return False
    if b'"' in raw:
        brackets = _outside_strings(raw).translate(None, _NOT_BRACKETS)
    for _ in range(NESTING_LIMIT):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return bool(brackets)


def _outside_strings(raw: bytes) -> bytes:
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.split(b'"')[::2])


def _has_lone_surrogates(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


class RawJson:
    """JSON text that a response contains byte for byte. Not a dataclass: pydantic would write its fields."""

    def __init__(self, text: bytes) -> None:
        self.text = text


def json_response(document: Any, status: int = 200, *, location: str | None = None) -> HttpResponse:
    """Return a JSON response. Aware datetimes become RFC 3339 with Z."""
    texts: list[bytes] = []

    def place(value: Any) -> str:
        if not isinstance(value, RawJson):
            raise TypeError(f"{type(value).__name__} is not JSON")
        texts.append(value.text)
        return f"{PLACE}{len(texts) - 1}"

    content = to_json(document, inf_nan_mode="null", fallback=place)
    for number, text in enumerate(texts):
        content = content.replace(f'"{PLACE}{number}"'.encode(), text, 1)
    response = HttpResponse(content, status=status, content_type="application/json")
    if location is not None:
        response["Location"] = location
    return response


def keep_out_of_caches(response: HttpResponseBase) -> None:
    """Forbid caching: a response may contain a new token, and a backlog is outdated at once."""
    response.headers.setdefault("Cache-Control", "no-store")


def no_content() -> HttpResponse:
    return HttpResponse(status=204)


def api_path(*parts: str | int) -> str:
    """Return the path of a resource below the API's root."""
    return _root() + "/".join(str(part) for part in parts)


@cache
def _root() -> str:
    return reverse("api:api-root")
