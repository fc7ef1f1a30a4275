"""Forms of services and endpoints: groups, labels and choices. The rules are in integrations.schemas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from django import forms
from django.forms import BoundField
from pydantic import BaseModel

from dashboard.forms.fields import as_name, as_path
from dashboard.forms.schema import SchemaForm
from integrations.errors import Invalid
from integrations.models import Service
from integrations.outbound.addresses import Network
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.retry import RetryPolicy
from integrations.registration import address_check
from integrations.registration.address_check import AddressCheck
from integrations.schemas.fields import METHODS
from integrations.schemas.service import EndpointIn, ServiceIn

AUTH_FIELDS = {
    "auth.username": "basic",
    "auth.password": "basic",
    "auth.token": "bearer",
    "auth.name": "header",
    "auth.value": "header",
    "auth.token_url": "oauth2",
    "auth.client_id": "oauth2",
    "auth.client_secret": "oauth2",
    "auth.scope": "oauth2",
    "auth.header": "hmac",
    "auth.secret": "hmac",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Fields that belong together; ``key`` is the id of their details element."""

    key: str
    title: str
    summary: str  # the defaults, readable while the group is closed
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """A group in one form. A group that the page left out is fetched when the operator opens it; until then the form
    does not change its settings."""

    key: str
    title: str
    summary: str
    fields: list[BoundField]
    was_sent: bool
    has_errors: bool

    @property
    def names(self) -> str:
        """Names of its fields, as htmx takes them."""
        return ",".join(bound.html_name for bound in self.fields)


PERMISSION = "allow_networks"  # the box next to a refused base URL
NETWORK_FIELDS = ("network.allow_private", "network.reason", "network.until")  # for admins
DURATIONS = frozenset(
    {
        "retry.initial",
        "retry.max",
        "retry.schedule",
        "retry.deadline",
        "breaker.slow_call_duration",
        "breaker.open_for",
        "breaker.open_max",
        "timeout.connect",
        "timeout.total",
        "limits.per",
        "health_check.interval",
        "cache.ttl",
    }
)
SHARES = frozenset({"retry.jitter", "retry.budget", "breaker.failure_rate", "breaker.slow_call_rate"})
HELP_TEXTS = {
    "name": "Used in URLs and searches. “My Orders” becomes my-orders.",
    "retry.initial": "Between the first attempt and its retry, such as 5s.",
    "retry.max": "Longest wait before jitter, such as 6h.",
    "retry.schedule": "Waits one by one, such as 5s, 30s, 10m. They replace the backoff.",
    "retry.deadline": "No attempt starts later than this after the message first became due.",
    "retry.budget": "Retries may be at most this share of a service's calls in any minute; 100 % means no limit.",
    "breaker.open_for": "Time without calls after opening, until the first probe.",
    "breaker.open_max": "Longest open time, however often it reopens.",
    "timeout.connect": "Longest time to connect, such as 5s.",
    "timeout.total": "Longest time of a whole call, from the DNS lookup to the last byte.",
    "limits.per": "The length of that period, such as 1s.",
    "health_check.interval": "Time between checks, at least 5s. 0: no health checks.",
    "cache.ttl": "How long the response to a GET by /process may be reused. A shorter Cache-Control of the response "
    "wins. 0: never.",
}
NAMED = 3  # changed settings that a closed group names
BASIC = ("name", "base_url", "description", "owner", "tags")
GROUPS = (
    Group("auth", "Authentication", "default: none", ("auth.type", *AUTH_FIELDS)),
    Group(
        "retries",
        "Retries",
        "default: 10 attempts over about 20 hours",
        (
            "retry.max_attempts",
            "retry.initial",
            "retry.factor",
            "retry.max",
            "retry.jitter",
            "retry.budget",
            "retry.schedule",
            "retry.retry_on",
            "retry.deadline",
            "retry.on_gone",
        ),
    ),
    Group(
        "breaker",
        "Circuit breaker",
        "default: opens after 5 failures in a row or 50 % of 50 calls; probes after 1 min",
        (
            "breaker.enabled",
            "breaker.consecutive_failures",
            "breaker.failure_rate",
            "breaker.window.type",
            "breaker.window.size",
            "breaker.minimum_calls",
            "breaker.half_open_calls",
            "breaker.slow_call_rate",
            "breaker.slow_call_duration",
            "breaker.open_for",
            "breaker.open_factor",
            "breaker.open_max",
        ),
    ),
    Group(
        "limits",
        "Limits and ordering",
        "default: 10 concurrent calls, 30 s timeout, no rate limit",
        (
            "timeout.connect",
            "timeout.total",
            "limits.concurrency",
            "response_cap",
            "limits.rate",
            "limits.per",
            "ordering",
            "cache.ttl",
        ),
    ),
    Group(
        "health",
        "Health check",
        "default: none",
        ("health_check.interval", "health_check.path", "health_check.expect"),
    ),
    Group(
        "content",
        "Headers and search",
        "default: none",
        ("headers", "search_fields"),
    ),
    Group(
        "network",
        "Network",
        "default: the base URL above, public internet only",
        ("url_env", *NETWORK_FIELDS),
    ),
)


class ServiceForm(SchemaForm):
    """A registration. If the environment sets a service's base URL, the form does not offer it."""

    schema = ServiceIn
    names = (*BASIC, *(name for group in GROUPS for name in group.names))
    secret = frozenset({"auth.password", "auth.token", "auth.value", "auth.client_secret", "auth.secret"})
    large = frozenset({"description"})
    durations = DURATIONS
    shares = SHARES
    help_texts = HELP_TEXTS
    tidied = {"name": as_name, "health_check.path": as_path}
    stand_ins = {"name": "name", "base_url": "https://stand-in.invalid"}
    shown_for = {name: f"auth.type={kind}" for name, kind in AUTH_FIELDS.items()}
    labels = {
        "base_url": "Base URL",
        "url_env": "Base URL from environment variable",
        "auth.type": "Authentication",
        "auth.username": "Username",
        "auth.token": "Token",
        "auth.name": "Header",
        "auth.token_url": "Token URL",
        "auth.client_id": "Client ID",
        "auth.client_secret": "Client secret",
        "auth.header": "Header",
        "auth.secret": "Key",
        "cache.ttl": "Cache GET responses",
        "retry.max_attempts": "Max attempts",
        "retry.initial": "Initial backoff",
        "retry.factor": "Backoff multiplier",
        "retry.max": "Max backoff",
        "retry.jitter": "Jitter",
        "retry.budget": "Retry budget",
        "retry.schedule": "Custom retry schedule",
        "retry.retry_on": "Retry on status codes",
        "retry.deadline": "Retry deadline",
        "retry.on_gone": "On 410 Gone",
        "breaker.enabled": "Circuit breaker enabled",
        "breaker.consecutive_failures": "Consecutive failures",
        "breaker.failure_rate": "Failure rate threshold",
        "breaker.window.type": "Window type",
        "breaker.window.size": "Window size",
        "breaker.minimum_calls": "Minimum calls",
        "breaker.slow_call_rate": "Slow call rate threshold",
        "breaker.slow_call_duration": "Slow call threshold",
        "breaker.open_for": "Open duration",
        "breaker.open_factor": "Open duration multiplier",
        "breaker.open_max": "Max open duration",
        "breaker.half_open_calls": "Probe calls",
        "timeout.connect": "Connect timeout",
        "timeout.total": "Total timeout",
        "limits.rate": "Rate limit (calls per period)",
        "limits.per": "Rate period",
        "health_check.interval": "Check interval",
        "health_check.path": "Path",
        "health_check.expect": "Healthy status codes",
        "limits.concurrency": "Max concurrent calls",
        "response_cap": "Max stored response (bytes)",
        "ordering": "Message ordering",
        "headers": "Headers (one per line)",
        "search_fields": "Searchable body fields",
        "network.allow_private": "Allowed private networks",
        "network.reason": "Reason for these networks",
        "network.until": "Networks allowed until",
    }
    choices = {
        "auth.type": {
            "none": "None",
            "basic": "Basic (username and password)",
            "bearer": "Bearer token",
            "header": "API key header",
            "oauth2": "OAuth 2 client credentials",
            "hmac": "HMAC of the body",
        },
        "retry.on_gone": {"dead": "Mark the message dead", "pause": "Pause the service"},
        "breaker.window.type": {"count": "Calls", "time": "Seconds"},
        "ordering": {"none": "Unordered (fastest)", "key": "In order per ordering key"},
    }

    def __init__(
        self,
        given: Any = None,
        *,
        service: Service | None = None,
        present: dict[str, Any] | None = None,
        may_allow_private: bool,
    ) -> None:
        without = set() if may_allow_private else {*NETWORK_FIELDS}
        fixed: dict[str, Any] = {}
        if service is not None:
            without.add("name")
            fixed["name"] = service.name
            if service.url_env:
                without |= {"base_url", "url_env"}
                fixed["base_url"] = service.base_url
        self._allowed: tuple[Network, ...] = (service or Service()).allowed_networks
        self.ticked = str(given.get(PERMISSION, "")) if given and may_allow_private else ""
        super().__init__(given, present=present, without=without, fixed=fixed)
        self.fields["auth.type"].help_text = ServiceIn.model_fields["auth"].description or ""
        if service is not None:
            for name in self.secret & self.fields.keys():
                if service.secret(name) is not None:
                    self.fields[name].help_text = "Set. Leave empty to keep the current value."
            if "base_url" in self.fields and any(name.startswith("auth.") for name in service.secrets):
                self.fields["base_url"].help_text = "Changing the host clears the stored secrets of this service."
        for name, placeholder in (
            ("base_url", "https://api.example.com/v1"),
            ("tags", "payments, eu"),
            ("network.allow_private", "10.0.0.0/8"),
            ("search_fields", "order.id, customer"),
            ("url_env", "SWITCHBOARD_SERVICE_BILLING_URL"),
            ("retry.schedule", "5s, 30s, 2m, 10m"),
        ):
            if name in self.fields:
                self.fields[name].widget.attrs["placeholder"] = placeholder

    @cached_property
    def address(self) -> AddressCheck:
        """The check of the typed base URL; empty before the form was sent."""
        url = str(self.data.get("base_url", "")).strip() if self.is_bound else ""
        return address_check.check(url, self._allowed) if url else AddressCheck()

    @property
    def permits(self) -> bool:
        """Whether the box “Allow 127.0.0.1/32 for this service” is ticked, for the address that is still there."""
        return bool(self.ticked) and self.ticked == self.address.permission

    def _typed(self, name: str, value: Any) -> tuple[bool, Any]:
        is_given, typed = super()._typed(name, value)
        if name == "network.allow_private" and self.permits:
            return True, list(dict.fromkeys([*(typed or []), *map(str, self.address.networks)]))
        if name == "network.reason" and self.permits and not typed:
            return True, f"The base URL {self.data['base_url'].strip()} leads there."
        return is_given, typed

    def refuse(self, errors: Invalid | Iterable[tuple[Sequence[str], str]]) -> None:
        rows = errors.errors if isinstance(errors, Invalid) else errors
        no_address = "either base_url or url_env"
        super().refuse(
            (("base_url",), "Enter the address that calls go to, such as https://api.example.com/v1.")
            if text.lower().startswith(no_address) and "base_url" in self.fields
            else (location, text)
            for location, text in rows
        )

    @property
    def given_fields(self) -> set[str]:
        """The top-level fields in the request; the others keep their settings."""
        ticked = {"network"} if self.permits else set()
        return {name.split(".")[0] for name in self.fields if self.was_sent(name)} | ticked

    @property
    def basic(self) -> list[BoundField]:
        return [self[name] for name in BASIC if name in self.fields]

    @property
    def groups(self) -> Iterator[ShownGroup]:
        for group in GROUPS:
            if fields := [self[name] for name in group.names if name in self.fields]:
                yield ShownGroup(
                    group.key,
                    group.title,
                    self._changed_summary(fields) or group.summary,
                    fields,
                    was_sent=any(self.was_sent(bound.name) for bound in fields),
                    has_errors=any(bound.errors for bound in fields),
                )

    def group(self, key: str) -> ShownGroup | None:
        return next((group for group in self.groups if group.key == key), None)

    def _changed_summary(self, fields: list[BoundField]) -> str:
        changed = [str(bound.label).partition(" (")[0].lower() for bound in fields if self.differs(bound.name)]
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        return f"changed: {', '.join(changed[:NAMED])}{more}" if changed else ""


class Policies(BaseModel):
    """The settings that have a preview."""

    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()


class PolicyForm(SchemaForm):
    """The fields of some groups of a service's form alone, because other fields may still be invalid."""

    schema = Policies
    names = tuple(name for group in GROUPS if group.key in ("retries", "breaker") for name in group.names)
    labels = ServiceForm.labels
    durations = DURATIONS
    shares = SHARES
    help_texts = HELP_TEXTS
    choices = ServiceForm.choices

    def __init__(self, given: Any, *, present: dict[str, Any] | None, groups: Iterable[str]) -> None:
        named = {name for group in GROUPS if group.key in groups for name in group.names}
        super().__init__(given, present=present, without=set(self.names) - named)

    @property
    def labelled_errors(self) -> tuple[tuple[str, str], ...]:
        """Each error with the label of its field."""
        return tuple(
            (str(self.fields[name].label) if name in self.fields else "", str(error))
            for name, errors in self.errors.items()
            for error in errors
        )

    @property
    def retry(self) -> RetryPolicy:
        return cast(Policies, self.value).retry

    @property
    def breaker(self) -> BreakerPolicy:
        return cast(Policies, self.value).breaker


def policy_form(given: Any, present: dict[str, Any] | None, *groups: str) -> PolicyForm:
    """A form over the present settings (None: the defaults), with the values of the request."""
    return PolicyForm({} if given is None else given, present=present, groups=groups)


class EndpointForm(SchemaForm):
    """A named call of a service."""

    schema = EndpointIn
    names = ("name", "method", "path", "description", "query", "headers", "content_type", "body")
    large = frozenset({"body", "description"})
    tidied = {"name": as_name, "path": as_path}
    labels = {
        "content_type": "Content type",
        "query": "Query (one name=value per line)",
        "headers": "Headers (one per line)",
        "body": "Example body",
    }

    def _field(self, name: str) -> forms.Field:
        made = super()._field(name)
        if name == "method":
            made.widget = forms.Select(choices=[(method, method) for method in METHODS])
        return made
