"""Fields, defaults and help texts of services and endpoints, for the API, the forms and services files."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from integrations.outbound.addresses import parse_networks
from integrations.outbound.headers import header_refusal
from integrations.outbound.urls import check_url
from integrations.policies import health
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.limits import Limits, Timeout
from integrations.policies.retry import RetryPolicy
from integrations.schemas.fields import (
    BODY_LIMIT,
    Headers,
    Query,
    ShortText,
    Slug,
    StrictModel,
    Timestamp,
    checked_content_type,
    checked_field,
    checked_headers,
    checked_method,
    checked_path,
    checked_query,
)

SEARCH_FIELD_LIMIT = 10  # per service


class Auth(StrictModel):
    """How Switchboard authenticates to the service. Secret fields are write-only; omitted ones keep their values."""

    type: Literal["none", "basic", "bearer", "header", "oauth2", "hmac"] = Field(
        "none", description="Authentication method; default none."
    )
    username: ShortText | None = Field(None, description="User name for basic authentication.")
    password: str | None = Field(None, max_length=4000, description="Password for basic authentication.")
    token: str | None = Field(None, max_length=8000, description="Bearer token.")
    name: ShortText | None = Field(None, description="Header that carries the key, such as X-Api-Key.")
    value: str | None = Field(None, max_length=8000, description="Value of that header.")
    token_url: str | None = Field(None, max_length=2000, description="URL that issues OAuth 2 access tokens.")
    client_id: ShortText | None = Field(None, description="OAuth 2 client ID.")
    client_secret: str | None = Field(None, max_length=4000, description="OAuth 2 client secret.")
    scope: ShortText | None = Field(None, description="OAuth 2 scopes, separated by spaces.")
    header: ShortText | None = Field(None, description="Header that carries the HMAC of the body.")
    secret: str | None = Field(None, max_length=4000, description="HMAC key.")
    algorithm: Literal["sha256"] | None = Field(None, description="HMAC hash function; default sha256.")

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
                raise ValueError("a secret must not contain line breaks or control characters")
        return self


class Signing(StrictModel):
    enabled: bool = Field(
        False,
        description="Sign every call as Standard Webhooks specify. Keys are created when signing is first turned on; "
        "rotate them to see the secret.",
    )


class Cache(StrictModel):
    ttl: float = Field(
        0,
        ge=0,
        le=86400,
        description="Seconds for which the response to a GET by /process may be reused. A shorter Cache-Control of "
        "the response wins. Default 0: never.",
    )


class NetworkRules(StrictModel):
    allow_private: list[ShortText] = Field(
        default_factory=list,
        max_length=50,
        description="Private networks that calls may reach, in CIDR notation, such as 10.0.0.0/8.",
    )
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = Field(
        "",
        description="Why these networks are allowed; in the audit log. Required to allow one, or to change the end.",
    )
    until: Timestamp | None = Field(
        None, description="Time, to the minute, from which calls to these networks are refused. Default: never."
    )

    @field_validator("allow_private")
    @classmethod
    def are_networks(cls, value: list[str]) -> list[str]:
        return [str(network) for network in parse_networks(",".join(value))]

    @field_validator("until")
    @classmethod
    def is_a_whole_minute(cls, value: datetime | None) -> datetime | None:
        """A form has minutes: an end with seconds would change whenever a form is saved."""
        return value and value.replace(second=0, microsecond=0)


class HealthCheck(StrictModel):
    """A regular GET outside the breaker and the limits. Two failed checks in a row mark the service down."""

    path: str = Field("/", max_length=2000, description="Path to check, below the service's address.")
    interval: float = Field(
        0, ge=0, le=86400, description="Seconds between checks, at least 5. Default 0: no health checks."
    )
    expect: ShortText = Field("2xx", description="Status codes that count as healthy, such as 2xx or 200, 204, 3xx.")

    _path = field_validator("path")(checked_path)

    @field_validator("interval")
    @classmethod
    def is_not_too_often(cls, value: float) -> float:
        if 0 < value < 5:
            raise ValueError("must be at least 5 seconds, or 0 to turn health checks off")
        return value

    @field_validator("expect")
    @classmethod
    def names_statuses(cls, value: str) -> str:
        if not health.EXPECTED.fullmatch(value):
            raise ValueError("must list status codes such as 2xx, or 200, 204, 3xx")
        return value


class ServiceIn(StrictModel):
    """A service registration."""

    name: Slug
    base_url: str | None = Field(
        None, max_length=2000, description="Base URL of the service, such as https://api.example.com/v1."
    )
    url_env: str | None = Field(
        None,
        pattern=r"^SWITCHBOARD_SERVICE_[A-Z0-9_]+_URL$",
        description="Environment variable that holds the base URL; used instead of one given here.",
    )
    description: str = Field("", max_length=5000, description="Purpose of the service and the messages it receives.")
    owner: ShortText = Field("", description="Person or team to contact when the service is down.")
    tags: list[ShortText] = Field(default_factory=list, max_length=30, description="Tags to search by; at most 30.")
    headers: Headers = Field(default_factory=dict, description="Headers sent with every call.")
    search_fields: list[ShortText] = Field(
        default_factory=list,
        max_length=SEARCH_FIELD_LIMIT,
        description="Fields of JSON bodies that operators can search by, such as order.id or items.*.sku. At most "
        f"{SEARCH_FIELD_LIMIT}. Applies to messages accepted after the change.",
    )
    auth: Auth = Field(default_factory=Auth, description="How Switchboard authenticates to the service.")
    signing: Signing = Field(default_factory=Signing, description="Signatures on every call.")
    timeout: Timeout = Field(default_factory=Timeout, description="Timeouts of a call, in seconds.")
    response_cap: int = Field(
        65536, ge=0, le=1024 * 1024, description="Bytes to store of each response; default 65,536, at most 1,048,576."
    )
    retry: RetryPolicy = Field(default_factory=RetryPolicy, description="When and how often failed calls are retried.")
    breaker: BreakerPolicy = Field(
        default_factory=BreakerPolicy, description="When failures stop calls, and when they resume."
    )
    limits: Limits = Field(default_factory=Limits, description="Concurrency and rate of calls.")
    ordering: Literal["none", "key"] = Field(
        "none", description="Deliver messages with the same ordering key in order (key), or in any order (none)."
    )
    cache: Cache = Field(default_factory=Cache, description="Reuse of responses by /process.")
    network: NetworkRules = Field(
        default_factory=NetworkRules, description="Networks that calls may reach in addition to public addresses."
    )
    health_check: HealthCheck = Field(
        default_factory=HealthCheck, description="Regular checks of the service's health."
    )

    @field_validator("name")
    @classmethod
    def is_not_a_page(cls, value: str) -> str:
        if value == "new":
            raise ValueError("new is reserved for a page of the console; choose another name")
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
            raise ValueError("either base_url or url_env is required")
        return self


class EndpointIn(StrictModel):
    """A named operation of a service."""

    name: Slug
    method: str = Field("POST", description="HTTP method.")
    path: str = Field("/", max_length=2000, description="Path below the service's address, such as /orders.")
    query: Query = Field(default_factory=dict, description="Query parameters.")
    headers: Headers = Field(default_factory=dict, description="Headers in addition to those of the service.")
    content_type: ShortText = Field("application/json", description="Content type of the body.")
    body: str = Field("", max_length=BODY_LIMIT, description="Example body; sent if a message has no body.")
    description: str = Field("", max_length=5000, description="Purpose of the endpoint.")

    _method = field_validator("method")(checked_method)
    _path = field_validator("path")(checked_path)
    _query = field_validator("query")(checked_query)
    _headers = field_validator("headers")(checked_headers)

    @field_validator("content_type")
    @classmethod
    def is_a_header_value(cls, value: str) -> str:
        return checked_content_type(value)
