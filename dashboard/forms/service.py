"""The forms of services and endpoints: groups and labels. The rules are in integrations.schemas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from django import forms
from django.forms import BoundField
from pydantic import BaseModel

from dashboard.forms.schema import SchemaForm
from integrations.models import Service
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.retry import RetryPolicy
from integrations.registration import registry
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
    """A group in one form. One that was not sent is fetched when somebody unfolds it, and stays as it is until then."""

    key: str
    title: str
    summary: str
    fields: list[BoundField]
    was_sent: bool
    has_errors: bool

    @property
    def names(self) -> str:
        """Of its fields, as htmx takes them."""
        return ",".join(bound.html_name for bound in self.fields)


NAMED = 3  # changed settings that a closed group names
BASIC = ("name", "base_url", "description", "owner", "tags")
GROUPS = (
    Group("auth", "Authentication", "by default none", ("auth.type", *AUTH_FIELDS)),
    Group(
        "retries",
        "Retries",
        "by default 10 calls over about 20 hours",
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
        "by default opens after 5 failures in a row, or half of 50 calls; probes after a minute",
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
        "Limits and order",
        "by default 10 calls at once, 30 seconds each, no rate limit",
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
        "by default none",
        ("health_check.interval", "health_check.path", "health_check.expect"),
    ),
    Group(
        "content",
        "Headers and search",
        "by default none",
        ("headers", "search_fields"),
    ),
    Group(
        "network",
        "Network",
        "by default the address above, on the public internet",
        ("url_env", "network.allow_private"),
    ),
)


class ServiceForm(SchemaForm):
    """A registration. The address of a service that has it from the environment is not for the form to change."""

    schema = ServiceIn
    names = (*BASIC, *(name for group in GROUPS for name in group.names))
    secret = frozenset({"auth.password", "auth.token", "auth.value", "auth.client_secret", "auth.secret"})
    large = frozenset({"description"})
    shown_for = {name: f"auth.type={kind}" for name, kind in AUTH_FIELDS.items()}
    labels = {
        "base_url": "Address",
        "url_env": "Address from the environment",
        "auth.type": "Authentication",
        "auth.username": "User name",
        "auth.token": "Token",
        "auth.name": "Header",
        "auth.token_url": "Token address",
        "auth.client_id": "Client id",
        "auth.client_secret": "Client secret",
        "auth.header": "Header",
        "auth.secret": "Key",
        "cache.ttl": "Keep GET answers, seconds",
        "retry.max_attempts": "Calls at most",
        "retry.initial": "First wait, seconds",
        "retry.factor": "Growth of the waits",
        "retry.max": "Longest wait, seconds",
        "retry.jitter": "Spread",
        "retry.budget": "Retry budget",
        "retry.schedule": "Waits one by one, seconds",
        "retry.retry_on": "Answers to try again",
        "retry.deadline": "Deadline, seconds",
        "retry.on_gone": "When a service answers 410",
        "breaker.enabled": "The breaker watches this service",
        "breaker.failure_rate": "Share of failures",
        "breaker.window.type": "Window of",
        "breaker.window.size": "Size of the window",
        "breaker.slow_call_rate": "Share of slow calls",
        "breaker.slow_call_duration": "A call is slow after, seconds",
        "breaker.open_for": "Open for, seconds",
        "breaker.open_factor": "Longer each time by",
        "breaker.open_max": "Open at most, seconds",
        "breaker.half_open_calls": "Probes",
        "timeout.connect": "Connect within, seconds",
        "timeout.total": "Whole call within, seconds",
        "limits.rate": "Calls in a period",
        "limits.per": "Length of the period, seconds",
        "health_check.interval": "Seconds between checks",
        "health_check.path": "Path",
        "health_check.expect": "Healthy answers",
        "limits.concurrency": "Calls at the same time",
        "response_cap": "Kept of an answer, bytes",
        "ordering": "Order of messages",
        "headers": "Headers, one “Name: value” a line",
        "search_fields": "Fields of the body to search",
        "network.allow_private": "Private networks",
    }
    choices = {
        "auth.type": {
            "none": "None",
            "basic": "User name and password (basic)",
            "bearer": "Bearer token",
            "header": "Key in a header",
            "oauth2": "OAuth 2 client credentials",
            "hmac": "HMAC of the body",
        },
        "retry.on_gone": {"dead": "the message is dead", "pause": "the service pauses"},
        "breaker.window.type": {"count": "calls", "time": "seconds"},
        "ordering": {"none": "none: as fast as possible", "key": "one after the other for each ordering key"},
    }

    def __init__(
        self,
        given: Any = None,
        *,
        service: Service | None = None,
        present: dict[str, Any] | None = None,
        may_allow_private: bool,
    ) -> None:
        without = set() if may_allow_private else {"network.allow_private"}
        fixed: dict[str, Any] = {}
        if service is not None:
            without.add("name")
            fixed["name"] = service.name
            if service.url_env:
                without |= {"base_url", "url_env"}
                fixed["base_url"] = service.base_url
        super().__init__(given, present=present, without=without, fixed=fixed)
        self.fields["auth.type"].help_text = ServiceIn.model_fields["auth"].description or ""
        if service is not None:
            for name in self.secret & self.fields.keys():
                if service.secret(name) is not None:
                    self.fields[name].help_text = "It is set. Leave empty to keep it."
            if "base_url" in self.fields and any(name.startswith("auth.") for name in service.secrets):
                self.fields["base_url"].help_text = "Another host clears the secrets that were entered for this one."
        for name, words in (
            ("base_url", "https://api.example.com/v1"),
            ("tags", "payments, eu"),
            ("network.allow_private", "10.0.0.0/8"),
            ("search_fields", "order.id, customer"),
            ("url_env", "SWITCHBOARD_SERVICE_BILLING_URL"),
            ("retry.schedule", "5, 30, 120, 600"),
        ):
            if name in self.fields:
                self.fields[name].widget.attrs["placeholder"] = words

    @property
    def given_fields(self) -> set[str]:
        """The top-level fields that were sent; all others stay as they are."""
        return {name.split(".")[0] for name in self.fields if self.was_sent(name)}

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
        changed = [str(bound.label).partition(",")[0].lower() for bound in fields if self.differs(bound.name)]
        more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        return f"changed: {', '.join(changed[:NAMED])}{more}" if changed else ""


class Policies(BaseModel):
    """The settings that can be looked at before they are saved."""

    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()


class PolicyForm(SchemaForm):
    """The fields of some groups of a service's form alone: what else is typed there may still be wrong."""

    schema = Policies
    names = tuple(name for group in GROUPS if group.key in ("retries", "breaker") for name in group.names)
    labels = ServiceForm.labels
    choices = ServiceForm.choices

    def __init__(self, given: Any, *, present: dict[str, Any] | None, groups: Iterable[str]) -> None:
        named = {name for group in GROUPS if group.key in groups for name in group.names}
        super().__init__(given, present=present, without=set(self.names) - named)

    @property
    def complaints(self) -> tuple[tuple[str, str], ...]:
        """What is wrong, each with the label of its field."""
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


def policy_form(given: Any, service: Service | None, *groups: str) -> PolicyForm:
    """A form over the settings in force (the defaults without a service), with the values that were sent."""
    present = registry.configuration(service) if service else None
    return PolicyForm({} if given is None else given, present=present, groups=groups)


class EndpointForm(SchemaForm):
    """A named operation of a service."""

    schema = EndpointIn
    names = ("name", "method", "path", "description", "query", "headers", "content_type", "body")
    large = frozenset({"body", "description"})
    labels = {
        "content_type": "Type of the body",
        "query": "Query, one “name=value” a line",
        "headers": "Headers, one “Name: value” a line",
        "body": "Example body",
    }

    def _field(self, name: str) -> forms.Field:
        made = super()._field(name)
        if name == "method":
            made.widget = forms.Select(choices=[(word, word) for word in METHODS])
        return made
