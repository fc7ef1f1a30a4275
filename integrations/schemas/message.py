"""Fields of messages, replays and direct calls."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
from typing import Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from integrations.errors import TooLarge
from integrations.schemas import exact_json
from integrations.schemas.fields import (
    BODY_LIMIT,
    Headers,
    Query,
    ShortText,
    StrictModel,
    Timestamp,
    checked_content_type,
    checked_headers,
    checked_method,
    checked_path,
    checked_query,
)


class CallIn(StrictModel):
    """The fields of a request. The body is ``body`` (any JSON, serialised once) or ``body_base64`` (byte for byte)."""

    service: str = Field(description="Name of the service.", max_length=63)
    endpoint: str | None = Field(
        None, max_length=63, description="Name of an endpoint of the service. Give either an endpoint or a path."
    )
    method: str | None = Field(None, description="HTTP method for path; default POST.")
    path: str | None = Field(None, max_length=2000, description="Path below the service's address, such as /orders.")
    query: Query = Field(default_factory=dict, description="Query parameters.")
    headers: Headers = Field(
        default_factory=dict, description="Headers in addition to those of the service and the endpoint."
    )
    body: Any = Field(None, description="Body as any JSON value.")
    body_base64: str | None = Field(None, description="Body as bytes in base64. Give either this or body.")
    content_type: ShortText | None = Field(
        None, description="Content type; default application/json for body, application/octet-stream for body_base64."
    )

    @field_validator("method")
    @classmethod
    def is_a_method(cls, value: str | None) -> str | None:
        return None if value is None else checked_method(value)

    @field_validator("path")
    @classmethod
    def is_a_path(cls, value: str | None) -> str | None:
        return None if value is None else checked_path(value)

    @field_validator("query")
    @classmethod
    def are_parameters(cls, value: Query) -> Query:
        return checked_query(value)

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
        """Return the bytes and their content type, or None without a body. Raises ValueError, or TooLarge."""
        return body_bytes(self.body, self.body_base64, self.content_type, given="body" in self.model_fields_set)


class MessageIn(CallIn):
    """A message to queue. The body is ``body`` (any JSON, serialised once) or ``body_base64`` (byte for byte)."""

    ordering_key: ShortText = Field(
        "", description="Messages with the same key are delivered in order, if the service's ordering is key."
    )
    deliver_at: Timestamp | None = Field(None, description="Earliest time of the first attempt; default now.")
    expires_at: Timestamp | None = Field(
        None, description="Time after which no attempt starts and the message is dead; default never."
    )
    tags: dict[ShortText, ShortText] = Field(
        default_factory=dict, max_length=30, description="Tags to search by, such as customer: acme; at most 30."
    )

    @model_validator(mode="after")
    def ends_after_it_begins(self) -> Self:
        if self.expires_at and self.deliver_at and self.expires_at <= self.deliver_at:
            raise ValueError("expires_at must be after deliver_at")
        return self


class ProcessIn(CallIn):
    """A call to make now. The body is ``body`` (any JSON) or ``body_base64`` (byte for byte)."""

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
        description="Seconds for the whole call, including waits and retries; default: the service's total timeout.",
    )

    def as_message(self) -> MessageIn:
        """Return the call as a message, without checking the fields again."""
        content = {name: getattr(self, name) for name in CallIn.model_fields}
        return MessageIn.model_construct(self.model_fields_set & CallIn.model_fields.keys(), **content)


def body_bytes(
    body: Any, body_base64: str | None, content_type: str | None, *, given: bool
) -> tuple[bytes, str] | None:
    if body_base64 is not None:
        try:
            content = b64decode(body_base64, validate=True)
        except (Base64Error, ValueError):
            raise ValueError("body_base64 must be valid base64") from None
        kind = content_type or "application/octet-stream"
    elif given:
        content = json_bytes(body)
        kind = content_type or "application/json"
    else:
        return None
    if len(content) > BODY_LIMIT:
        raise TooLarge(f"the body has {len(content):,} bytes; the limit is {BODY_LIMIT:,}")
    return content, kind


def json_bytes(value: Any) -> bytes:
    """Serialise to compact JSON, as it is stored and sent. Raises ValueError for NaN and infinity."""
    return exact_json.compact(value)


class ReplayIn(StrictModel):
    mode: Literal["as_is", "current"] = Field(
        "as_is", description="as_is repeats the original request; current uses the endpoint's present settings."
    )
    body: Any = Field(None, description="Replacement for the body, as any JSON value.")
    headers: Headers | None = Field(None, description="Replacement for the headers.")
    endpoint: str | None = Field(None, max_length=63, description="Another endpoint of the same service.")

    @field_validator("headers")
    @classmethod
    def are_headers(cls, value: Headers | None) -> Headers | None:
        return None if value is None else checked_headers(value)
