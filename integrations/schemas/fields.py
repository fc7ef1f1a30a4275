"""Types and rules shared by the fields of several schemas, and the error text for each broken rule."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from integrations.outbound.headers import header_refusal
from integrations.outbound.redaction import MASK
from integrations.outbound.urls import path_refusal

BODY_LIMIT = 1024 * 1024  # decoded bytes of one message's body
HEADER_COUNT_LIMIT = 64
FIELD_DEPTH_LIMIT = 8
TIME_FORMAT = "write the time with its zone, such as 2026-01-31T10:00:00Z"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SLUG = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Slug = Annotated[
    str,
    StringConstraints(pattern=SLUG),
    Field(description="Name used in URLs and searches: lowercase letters, digits and hyphens, at most 63 characters."),
]
ShortText = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


def rule_text(rule: ErrorDetails) -> str:
    """Return the error text for a broken rule, for API and forms. ``rule`` is a row of pydantic's ``errors()``."""
    limits = {name: _number(value) for name, value in rule.get("ctx", {}).items()}
    kind = rule["type"]
    if rule.get("ctx", {}).get("pattern") == SLUG:
        return "must be lowercase letters, digits and hyphens, at most 63, and must not start or end with a hyphen"
    if (template := _RULES.get(kind) or _RULES.get(kind.partition("_")[0] if kind.endswith(_OF_KIND) else "")) is None:
        return rule["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return template.format_map(limits)


_OF_KIND = ("_type", "_parsing", "_from_float")
_RULES = {
    "missing": "is required",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be an object",
    "model": "must be an object",
    "datetime": "must be a date and time",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "may have at most {max_length} entries",
    "string_too_long": "may have at most {max_length} characters",
    "string_too_short": "is required",
    "string_pattern_mismatch": "has the wrong format",
    "int_parsing_size": "is too large",
    "extra_forbidden": "is not a known field",
}


def _number(value: Any) -> Any:
    return f"{value:,.12g}" if isinstance(value, int | float) else value


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def has_no_nul(cls, value: Any, info: ValidationInfo) -> Any:
        # PostgreSQL stores no NUL in text, and SQLite must refuse the same values. A body may hold NULs: it is stored
        # as bytes.
        if info.field_name != "body" and _has_nul(value):
            raise ValueError("must not contain a NUL character")
        return value


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_has_nul(item) for item in value)


def checked_headers(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > HEADER_COUNT_LIMIT:
        raise ValueError(f"may have at most {HEADER_COUNT_LIMIT} headers")
    for name, value in headers.items():
        if refusal := header_refusal(name, value):
            raise ValueError(refusal)
    return headers


def checked_query(query: dict[str, Any]) -> dict[str, Any]:
    if any(MASK in item for value in query.values() for item in (value if isinstance(value, list) else [str(value)])):
        raise ValueError(f"{MASK} stands for a value that is not shown: enter the value itself")
    return query


def checked_path(path: str) -> str:
    if refusal := path_refusal(path):
        raise ValueError(refusal)
    return path


def checked_field(path: str) -> str:
    steps = path.split(".")
    if steps[0] == "$":
        raise ValueError("write the field without $, such as order.id")
    if len(steps) > FIELD_DEPTH_LIMIT:
        raise ValueError(f"a field may be at most {FIELD_DEPTH_LIMIT} levels deep")
    if not all(re.fullmatch(r"[^\s:,<>=\"'\\]+", step) for step in steps):
        raise ValueError("write a field as names joined by dots, such as order.id, without spaces, commas or quotes")
    return path


def checked_content_type(value: str) -> str:
    if value and (refusal := header_refusal("Content-Type", value)):
        raise ValueError(refusal)
    return value


def checked_method(method: str) -> str:
    method = method.upper()
    if not re.fullmatch(r"[A-Z][A-Z-]{0,19}", method) or method in ("CONNECT", "TRACE"):
        raise ValueError(f"use one of {', '.join(METHODS)}")
    return method


def is_iso_date(value: Any) -> Any:
    """Refuse numbers: they could mean seconds or milliseconds since 1970."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\s*\d{4}-\d\d-\d\d", value)):
        return value
    raise ValueError(TIME_FORMAT)


def in_utc(moment: datetime) -> datetime:
    """Convert a time to UTC, as it is stored and returned. Raises ValueError outside the years 1900 to 9998.

    The database can hold years that Python cannot read back. And within a day of the calendar's ends a time cannot be
    shown in every zone.
    """
    if moment.tzinfo is None:
        raise ValueError(TIME_FORMAT)
    if not 1900 <= moment.year <= 9998:
        raise ValueError("the year must be between 1900 and 9998")
    return moment.astimezone(UTC)


def utc_text(moment: datetime) -> str:
    """Return a time as the API writes it: RFC 3339 in UTC, with Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Timestamp = Annotated[datetime, BeforeValidator(is_iso_date), AfterValidator(in_utc)]
Headers = dict[str, str]
Query = dict[str, str | int | float | bool | list[str]]
