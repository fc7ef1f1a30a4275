"""What people and programs may tell us: the rules and help texts of every field, for API, forms and files alike."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from integrations.client import header_refusal
from integrations.network import check_url, parse_networks
from integrations.policies import health
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.limits import Limits, Timeout
from integrations.policies.retry import RetryPolicy

BODY_LIMIT = 1024 * 1024  # decoded bytes of one message's body
HEADER_COUNT_LIMIT = 64
FIELDS_LIMIT = 10  # searchable ones of a service
FIELD_DEPTH_LIMIT = 8
LONGEST_KEPT = 3650  # days of history
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

SLUG = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Slug = Annotated[
    str,
    StringConstraints(pattern=SLUG),
    Field(description="Lower-case letters, digits and hyphens; it names the thing in URLs and searches."),
]
Short = Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)]


def in_words(rule: ErrorDetails) -> str:
    """What a broken rule asks of its field, for API and form alike; ``rule`` is a row of pydantic's ``errors()``."""
    limits = {name: _number(value) for name, value in rule.get("ctx", {}).items()}
    kind = rule["type"]
    if rule.get("ctx", {}).get("pattern") == SLUG:
        return "must be lower-case letters, digits and hyphens, at most 63, with none of the hyphens at an end"
    if (template := _RULES.get(kind) or _RULES.get(kind.partition("_")[0] if kind.endswith(_OF_KIND) else "")) is None:
        return rule["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return template.format_map(limits)


_OF_KIND = ("_type", "_parsing", "_from_float")
_RULES = {
    "missing": "is needed",
    "int": "must be a whole number",
    "float": "must be a number",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be an object",
    "model": "must be an object",
    "datetime": "must be a date and a time",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "may have at most {max_length} entries",
    "string_too_long": "may have at most {max_length} characters",
    "string_too_short": "is needed",
    "string_pattern_mismatch": "is not of the right form",
    "int_parsing_size": "is too large a number",
    "extra_forbidden": "is not a field that is known here",
}


def _number(value: Any) -> Any:
    return f"{value:,.12g}" if isinstance(value, int | float) else value


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def holds_no_nul(cls, value: Any, info: ValidationInfo) -> Any:
        # PostgreSQL stores no NUL in a text, and SQLite should not take what the other refuses. In a body it is fine:
        # that is kept as bytes.
        if info.field_name != "body" and _holds_nul(value):
            raise ValueError("it has a NUL character")
        return value


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(_holds_nul(item) for item in value)


def checked_headers(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > HEADER_COUNT_LIMIT:
        raise ValueError(f"at most {HEADER_COUNT_LIMIT} headers")
    for name, value in headers.items():
        if refusal := header_refusal(name, value):
            raise ValueError(refusal)
    return headers


def checked_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a path starts with /")
    if any(ord(character) <= 32 or ord(character) == 127 for character in path):
        raise ValueError("a path has no spaces or control characters; percent-encode them")
    if "#" in path or "?" in path:
        raise ValueError("a path has no ? or #; put parameters into query")
    return path


def checked_field(path: str) -> str:
    steps = path.split(".")
    if steps[0] == "$":
        raise ValueError("write it without $, such as order.id")
    if len(steps) > FIELD_DEPTH_LIMIT:
        raise ValueError(f"a field is at most {FIELD_DEPTH_LIMIT} steps deep")
    if not all(re.fullmatch(r"[^\s:,<>=\"'\\]+", step) for step in steps):
        raise ValueError("a field is names with dots between them, such as order.id, without spaces, commas or quotes")
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


def is_written_out(value: Any) -> Any:
    """No number: whether seconds or milliseconds since 1970 are meant would be a guess."""
    if isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\s*\d{4}-\d\d-\d\d", value)):
        return value
    raise ValueError("give the time with its zone, such as 2026-01-31T10:00:00Z")


def in_utc(moment: datetime) -> datetime:
    """As it is stored and answered. The ends of the calendar are refused: beyond them the database has years that
    Python cannot read back."""
    if moment.tzinfo is None:
        raise ValueError("give the time with its zone, such as 2026-01-31T10:00:00Z")
    # A day from its end a time cannot be shown in the zones to the east, nor so in the west at the beginning.
    if not 1900 <= moment.year <= 9998:
        raise ValueError("this time is out of range")
    return moment.astimezone(UTC)


Moment = Annotated[datetime, BeforeValidator(is_written_out), AfterValidator(in_utc)]
Headers = dict[str, str]
Query = dict[str, str | int | float | bool | list[str]]


# ---- service ------------------------------------------------------------------------------------------------------
class Auth(Strict):
    """How calls prove who they are. Secret fields are write-only; left out, what was set stays."""

    type: Literal["none", "basic", "bearer", "header", "oauth2", "hmac"] = Field("none", description="Kind of proof.")
    username: Short | None = Field(None, description="User name for basic authentication.")
    password: str | None = Field(None, max_length=4000, description="Password for basic authentication.")
    token: str | None = Field(None, max_length=8000, description="Bearer token.")
    name: Short | None = Field(None, description="Name of the header that carries the key.")
    value: str | None = Field(None, max_length=8000, description="Value of that header.")
    token_url: str | None = Field(None, max_length=2000, description="Where OAuth 2 tokens are fetched.")
    client_id: Short | None = Field(None, description="OAuth 2 client id.")
    client_secret: str | None = Field(None, max_length=4000, description="OAuth 2 client secret.")
    scope: Short | None = Field(None, description="OAuth 2 scopes, separated by spaces.")
    header: Short | None = Field(None, description="Header that carries the HMAC of the body.")
    secret: str | None = Field(None, max_length=4000, description="Key of the HMAC.")
    algorithm: Literal["sha256"] | None = Field(None, description="Hash of the HMAC.")

    @model_validator(mode="after")
    def fits_its_type(self) -> Auth:
        needed = {
            "basic": ("username",),
            "header": ("name",),
            "oauth2": ("token_url", "client_id"),
            "hmac": ("header",),
        }.get(self.type, ())
        for name in needed:
            if not getattr(self, name):
                raise ValueError(f"{self.type} authentication needs {name}")
        carrier = {"header": self.name, "hmac": self.header}.get(self.type)
        if carrier and (refusal := header_refusal(carrier, "")):
            raise ValueError(refusal)
        if self.type == "oauth2" and self.token_url and (refusal := check_url(self.token_url)):
            raise ValueError(f"token_url: {refusal}")
        for value in (self.password, self.token, self.value, self.client_secret, self.secret):
            if value is not None and re.search(r"[\x00-\x1f\x7f]", value):
                raise ValueError("a secret has no control characters or line ends")
        return self


class Signing(Strict):
    enabled: bool = Field(
        False,
        description="Sign every call by the Standard Webhooks scheme. Turning it on makes keys where there are none; "
        "a rotation shows the secret.",
    )


class Cache(Strict):
    ttl: float = Field(
        0,
        ge=0,
        le=86400,
        description="Seconds for which the answer to a GET by /process may be given again, unless its Cache-Control "
        "says less; 0 is never.",
    )


class NetworkRules(Strict):
    allow_private: list[str] = Field(
        default_factory=list, max_length=50, description="Private networks (CIDR) that this service may reach."
    )

    @field_validator("allow_private")
    @classmethod
    def are_networks(cls, value: list[str]) -> list[str]:
        return [str(network) for network in parse_networks(",".join(value))]


class HealthCheck(Strict):
    """A GET made regularly, outside the breaker and the limits; two that fail in a row find the service down."""

    path: str = Field("/", max_length=2000, pattern="^/", description="Path that is asked, below the address.")
    interval: float = Field(0, ge=0, le=86400, description="Seconds between checks, at least 5; 0 is off.")
    expect: Short = Field("2xx", description="Statuses that count as healthy, such as 2xx or 200, 204, 3xx.")

    @field_validator("interval")
    @classmethod
    def is_not_too_often(cls, value: float) -> float:
        if 0 < value < 5:
            raise ValueError("checks are at least 5 seconds apart; 0 is off")
        return value

    @field_validator("expect")
    @classmethod
    def names_statuses(cls, value: str) -> str:
        if not health.EXPECTED.fullmatch(value):
            raise ValueError("this names statuses such as 2xx, or 200, 204, 3xx")
        return value


class ServiceIn(Strict):
    """A service registration."""

    name: Slug
    base_url: str | None = Field(
        None, max_length=2000, description="Address of the service, such as https://api.example.com/v1."
    )
    url_env: str | None = Field(
        None,
        pattern=r"^SWITCHBOARD_SERVICE_[A-Z0-9_]+_URL$",
        description="Environment variable that holds the address instead.",
    )
    description: str = Field("", max_length=5000, description="What it is and what goes through it.")
    owner: Short = Field("", description="Who to ask when it is down.")
    tags: list[Short] = Field(default_factory=list, max_length=30, description="Words to find it by.")
    headers: Headers = Field(default_factory=dict, description="Headers sent with every call.")
    search_fields: list[Short] = Field(
        default_factory=list,
        max_length=FIELDS_LIMIT,
        description=f"Fields of JSON bodies to search by, such as order.id or items.*.sku: {FIELDS_LIMIT} at most. "
        "Messages accepted from then on are found by them.",
    )
    auth: Auth = Field(default_factory=Auth, description="How calls prove who they are.")
    signing: Signing = Field(default_factory=Signing, description="Signatures on every call.")
    timeout: Timeout = Field(default_factory=Timeout, description="How long a call may take.")
    response_cap: int = Field(65536, ge=0, le=1024 * 1024, description="Bytes of an answer that are kept.")
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="When and how often a call is tried again.")
    breaker: BreakerPolicy = Field(default_factory=BreakerPolicy, description="When calling stops for a while.")
    limits: Limits = Field(default_factory=Limits, description="How much at once, and how fast.")
    ordering: Literal["none", "key"] = Field("none", description="Whether messages of one key keep their order.")
    cache: Cache = Field(default_factory=Cache, description="Reuse of answers.")
    network: NetworkRules = Field(default_factory=NetworkRules, description="Where calls may go beyond public hosts.")
    health_check: HealthCheck = Field(default_factory=HealthCheck, description="Regular checks of its health.")

    @field_validator("name")
    @classmethod
    def is_not_a_page(cls, value: str) -> str:
        if value == "new":
            raise ValueError("this name is the address of a page; choose another")
        return value

    @field_validator("base_url")
    @classmethod
    def is_an_address(cls, value: str | None) -> str | None:
        if value and (refusal := check_url(value)):
            raise ValueError(refusal)
        return value or None

    @field_validator("headers")
    @classmethod
    def are_headers(cls, value: Headers) -> Headers:
        return checked_headers(value)

    @field_validator("search_fields")
    @classmethod
    def are_paths(cls, value: list[str]) -> list[str]:
        return list(dict.fromkeys(map(checked_field, value)))

    @model_validator(mode="after")
    def has_an_address(self) -> ServiceIn:
        if not self.base_url and not self.url_env:
            raise ValueError("give a base_url or a url_env")
        return self


class EndpointIn(Strict):
    """A named operation of a service."""

    name: Slug
    method: str = Field("POST", description="HTTP method.")
    path: str = Field("/", max_length=2000, description="Path below the service's address.")
    query: Query = Field(default_factory=dict, description="Parameters of the query.")
    headers: Headers = Field(default_factory=dict, description="Headers besides the service's.")
    content_type: Short = Field("application/json", description="Type of the body.")
    body: str = Field("", max_length=BODY_LIMIT, description="Example body.")
    description: str = Field("", max_length=5000, description="What it does.")

    _method = field_validator("method")(checked_method)
    _path = field_validator("path")(checked_path)
    _headers = field_validator("headers")(checked_headers)

    @field_validator("content_type")
    @classmethod
    def is_a_header_value(cls, value: str) -> str:
        return checked_content_type(value)


# ---- message ------------------------------------------------------------------------------------------------------
class CallIn(Strict):
    """What is to be sent. Its body is ``body`` (any JSON, serialised once) or ``body_base64`` (byte for byte)."""

    service: str = Field(description="Name of the service.", max_length=63)
    endpoint: str | None = Field(None, max_length=63, description="Name of an endpoint of the service.")
    method: str | None = Field(None, description="HTTP method, with path, where no endpoint is named; default POST.")
    path: str | None = Field(None, max_length=2000, description="Path below the service's address.")
    query: Query = Field(default_factory=dict, description="Parameters of the query.")
    headers: Headers = Field(default_factory=dict, description="Headers besides those of service and endpoint.")
    body: Any = Field(None, description="Any JSON value.")
    body_base64: str | None = Field(None, description="The body's bytes, in base64; needs content_type.")
    content_type: Short | None = Field(None, description="Type of the body.")

    @field_validator("method")
    @classmethod
    def is_a_method(cls, value: str | None) -> str | None:
        return None if value is None else checked_method(value)

    @field_validator("path")
    @classmethod
    def is_a_path(cls, value: str | None) -> str | None:
        return None if value is None else checked_path(value)

    @field_validator("headers")
    @classmethod
    def are_headers(cls, value: Headers) -> Headers:
        return checked_headers(value)

    @field_validator("content_type")
    @classmethod
    def is_a_header_value(cls, value: str | None) -> str | None:
        return None if value is None else checked_content_type(value)

    @model_validator(mode="after")
    def is_one_thing(self) -> Self:
        if self.endpoint and (self.method or self.path):
            raise ValueError("give an endpoint, or a method and path, not both")
        if not self.endpoint and not self.path:
            raise ValueError("give an endpoint or a path")
        if self.body_base64 is not None and "body" in self.model_fields_set:
            raise ValueError("give body or body_base64, not both")
        return self

    def content(self) -> tuple[bytes, str] | None:
        """The bytes and their type, or None where no body was given. Raises ValueError in words."""
        return body_bytes(self.body, self.body_base64, self.content_type, given="body" in self.model_fields_set)


class MessageIn(CallIn):
    """A message to queue. Its body is ``body`` (any JSON, serialised once) or ``body_base64`` (byte for byte)."""

    ordering_key: Short = Field("", description="Messages with the same key keep their order, where the service does.")
    deliver_at: Moment | None = Field(None, description="Not before this time.")
    expires_at: Moment | None = Field(None, description="Not after this time.")
    tags: dict[Short, Short] = Field(default_factory=dict, max_length=30, description="Labels to find it by.")

    @model_validator(mode="after")
    def ends_after_it_begins(self) -> Self:
        if self.expires_at and self.deliver_at and self.expires_at <= self.deliver_at:
            raise ValueError("expires_at is not after deliver_at")
        return self


class ProcessIn(CallIn):
    """A call to make now. Its body is ``body`` (any JSON) or ``body_base64`` (byte for byte)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"service": "billing", "method": "GET", "path": "/invoices/42", "query": {"expand": "lines"}},
                {"service": "billing", "endpoint": "invoices", "body": {"total": 1200}, "timeout": 10},
            ]
        }
    )

    timeout: float | None = Field(
        None,
        ge=0.1,
        le=300,
        description="Seconds for all of it, waits and retries included; the service's own total where it is left out.",
    )

    def as_message(self) -> MessageIn:
        """What a message would carry; its rules have been checked."""
        content = {name: getattr(self, name) for name in CallIn.model_fields}
        return MessageIn.model_construct(self.model_fields_set & CallIn.model_fields.keys(), **content)


def body_bytes(
    body: Any, body_base64: str | None, content_type: str | None, *, given: bool
) -> tuple[bytes, str] | None:
    if body_base64 is not None:
        try:
            content = b64decode(body_base64, validate=True)
        except (Base64Error, ValueError):
            raise ValueError("body_base64 is not base64") from None
        kind = content_type or "application/octet-stream"
    elif given:
        content = json_bytes(body)
        kind = content_type or "application/json"
    else:
        return None
    if len(content) > BODY_LIMIT:
        raise TooLarge(f"the body has {len(content):,} bytes; at most {BODY_LIMIT:,} are taken")
    return content, kind


def json_bytes(value: Any) -> bytes:
    """JSON in its compact form, as it is stored and sent. Raises ValueError for what JSON cannot say (NaN)."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class TooLarge(ValueError):
    """Over a size limit: 413 at the API."""


class ReplayIn(Strict):
    mode: Literal["as_is", "current"] = Field("as_is", description="As it was, or with the endpoint resolved anew.")
    body: Any = Field(None, description="Another body (any JSON).")
    headers: Headers | None = Field(None, description="Other headers.")
    endpoint: str | None = Field(None, max_length=63, description="Another endpoint of the same service.")

    @field_validator("headers")
    @classmethod
    def are_headers(cls, value: Headers | None) -> Headers | None:
        return None if value is None else checked_headers(value)


class FailureIn(Strict):
    """What an operator decides about a failure group; what is left out stays."""

    state: Literal["open", "resolved", "ignored"] | None = Field(
        None, description="A resolved group that fails again is regressed."
    )
    ignored_until: Moment | None = Field(None, description="With ignored: until when; left out, for ever.")
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)] = Field(
        "", description="What to know about it, such as the address of a runbook."
    )
    assignee: Annotated[str, StringConstraints(strip_whitespace=True, max_length=150)] | None = Field(
        None, description="The account of who sees to it; null for nobody."
    )


class RetentionIn(Strict):
    """How long history is kept; null is for ever. What is left out stays as it is."""

    messages_days: int | None = Field(
        None,
        ge=1,
        le=LONGEST_KEPT,
        description="Days that a finished message is kept, with its attempts; ended operations, events and calls "
        "without a message go by it too. What is not finished always stays.",
    )
    audit_days: int | None = Field(None, ge=1, le=LONGEST_KEPT, description="Days that audit entries are kept.")


class PauseIn(Strict):
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] = Field(
        description="Why; shown to everybody."
    )
    until: Moment | None = Field(None, description="When it ends by itself.")


class ResumeIn(Strict):
    release: Literal["all", "none", "newer_than"] = Field("all", description="Which of the waiting messages go.")
    newer_than: Moment | None = Field(None, description="With release newer_than: accepted after this time.")
    rate: float | None = Field(None, gt=0, le=100_000, description="Messages a second to release.")

    @model_validator(mode="after")
    def says_when(self) -> ResumeIn:
        if self.release == "newer_than" and self.newer_than is None:
            raise ValueError("release newer_than needs newer_than")
        return self


class RotateIn(Strict):
    overlap: float = Field(
        86400, ge=0, le=30 * 86400, description="Seconds for which the keys so far sign too; 0 ends them at once."
    )


class BreakerIn(Strict):
    action: Literal["open", "close", "half_open", "reset", "disable", "observe", "auto"] = Field(
        description="What to do. `close` and `reset` also forget how long the service asked to wait (`Retry-After`)."
    )
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] = Field(
        description="Why; shown to everybody."
    )
    until: Moment | None = Field(None, description="When a manual mode ends by itself; for open, disable and observe.")

    @field_validator("until")
    @classmethod
    def ends_a_manual_mode(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        action = info.data.get("action")
        if value is not None and action not in (None, "open", "disable", "observe"):
            raise ValueError(f"{action} sets no manual mode that could end")
        return value
