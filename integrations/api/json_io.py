"""JSON in and out: read strictly, written compactly, times as RFC 3339 in UTC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NoReturn, TypeVar

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from ninja.parser import Parser
from pydantic import BaseModel
from pydantic_core import ValidationError, to_json

from integrations.api.problems import Problem

Model = TypeVar("Model", bound=BaseModel)
NESTING_LIMIT = 100  # brackets inside brackets; deeper ones are an attack, or a mistake


class StrictParser(Parser):
    """For ninja: bodies are JSON of RFC 8259, in UTF-8, and nothing that merely looks like it."""

    def parse_body(self, request: HttpRequest) -> Any:
        return parsed_body(request)


def body_as(request: HttpRequest, model: type[Model]) -> Model:
    """A request's body, as ninja reads it. Raises Problem, or pydantic's ValidationError."""
    if not request.body:
        raise ValidationError.from_exception_data("body", [{"type": "missing", "loc": (), "input": None}])
    return model.model_validate(parsed_body(request))


def parsed_body(request: HttpRequest) -> Any:
    kind = request.content_type or ""
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise Problem(415, f"Send the body as application/json, not {kind[:100]}.")
    return parse(request.body)


def parse(raw: bytes) -> Any:
    """The value of a JSON text. Raises Problem(400) for what is not one, or not safely one."""
    try:
        value = _decode(raw.decode())
    except UnicodeDecodeError:
        raise Problem(400, "The body is not UTF-8.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise Problem(400, f"The body is not JSON: {error}.") from None
    if _is_too_deep(raw):
        raise _too_deep()
    if b"\\u" in raw and _has_lone_surrogates(value):
        raise Problem(400, "The body holds half a surrogate pair, which is no Unicode text.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _without_repetition(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Of two members with one name, one would be lost without a word."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object names a member twice")
    return members


_decode = json.JSONDecoder(object_pairs_hook=_without_repetition, parse_constant=_refuse_constant).decode


def _too_deep() -> Problem:
    return Problem(400, f"The body is nested more than {NESTING_LIMIT} levels deep.")


_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _is_too_deep(raw: bytes) -> bool:
    """Peels off a level of brackets at a time; brackets inside strings only make it more careful than it has to be."""
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


def json_response(document: Any, status: int = 200, *, location: str | None = None) -> HttpResponse:
    """A JSON answer; aware datetimes become RFC 3339 with Z."""
    response = HttpResponse(to_json(document, inf_nan_mode="null"), status=status, content_type="application/json")
    if location is not None:
        response["Location"] = location
    return response


def keep_out_of_caches(response: HttpResponseBase) -> None:
    """A token is shown once, and a backlog is old at once."""
    response.headers.setdefault("Cache-Control", "no-store")


def no_content() -> HttpResponse:
    return HttpResponse(status=204)


def api_path(*parts: str | int) -> str:
    """The path of a thing under the API's root."""
    return _root() + "/".join(str(part) for part in parts)


@cache
def _root() -> str:
    return reverse("api:api-root")
