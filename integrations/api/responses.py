"""Shapes of what the API answers, for its description and for the tests that hold every answer against it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from integrations.models import Role
from integrations.outbound.outcome import Fault
from integrations.policies.breaker import BreakerPolicy
from integrations.policies.limits import Limits, Timeout
from integrations.policies.retry import DeadReason, RetryPolicy
from integrations.schemas.fields import StrictModel
from integrations.schemas.service import Cache, HealthCheck, NetworkRules, Signing

Item = TypeVar("Item")
BATCH_COUNT = 1000  # messages in one batch: one transaction of a few milliseconds


class ResponseModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProblemOut(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = Field(None, description="For a 422: where, and which rule.")


class ListPage(ResponseModel, Generic[Item]):
    items: list[Item]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null on the last.")


# ---- services -----------------------------------------------------------------------------------------------------
class SigningOut(Signing):
    public_key: str | None = Field(description="What a receiver checks `v1a` with (`whpk_…`); null before any keys.")


class RotatedOut(ResponseModel):
    secret: str = Field(description="The secret itself (`whsec_…`): shown now and never again.")
    public_key: str = Field(description="What a receiver checks `v1a` with (`whpk_…`).")
    previous_valid_until: datetime | None = Field(description="Until then the earlier keys sign too; null: none do.")


class ServiceOut(ResponseModel):
    name: str
    base_url: str
    url_env: str | None
    description: str
    owner: str
    tags: list[str]
    headers: dict[str, str]
    search_fields: list[str]
    response_cap: int
    ordering: Literal["none", "key"]
    auth: dict[str, Any] = Field(description="Secrets show only `set` and `set_at`.")
    signing: SigningOut
    timeout: Timeout
    retry: RetryPolicy
    breaker: BreakerPolicy
    limits: Limits
    cache: Cache
    network: NetworkRules
    health_check: HealthCheck
    status: Literal["active", "paused"]
    paused_reason: str | None
    paused_until: datetime | None
    health: Literal["up", "down", "unknown"]
    breaker_state: Literal["closed", "open", "half_open"]
    backlog: int = Field(description="Messages that are not finished; counting stops at 10,000.")
    oldest_due_age: float | None = Field(description="Seconds since the oldest waiting message was due.")
    source: Literal["form", "api", "file", "environment"]
    created_at: datetime
    updated_at: datetime


class ServicePage(ListPage[ServiceOut]):
    """Services, newest first."""


class EndpointOut(ResponseModel):
    name: str
    method: str
    path: str
    query: dict[str, Any]
    headers: dict[str, str]
    content_type: str
    body: str
    description: str
    created_at: datetime
    updated_at: datetime


class EndpointPage(ListPage[EndpointOut]):
    """Endpoints of a service, newest first."""


class BreakerWindow(ResponseModel):
    calls: int
    failures: int
    slow: int
    failure_rate: float


class BreakerProbes(ResponseModel):
    allowed: int
    in_flight: int
    succeeded: int


class BreakerOut(ResponseModel):
    state: Literal["closed", "open", "half_open"]
    mode: Literal["auto", "forced_open", "disabled", "observe"]
    mode_until: datetime | None
    reason: str
    opened_at: datetime | None
    retry_at: datetime | None
    reopenings: int
    observed_open: bool
    window: BreakerWindow
    probes: BreakerProbes
    held: int = Field(description="Due messages that the breaker holds back.")


# ---- messages -----------------------------------------------------------------------------------------------------
class LastOut(ResponseModel):
    status_code: int | None
    fault: Fault | None
    detail: str


class WaitingOut(ResponseModel):
    kind: Literal[
        "schedule", "retry", "breaker", "rate", "concurrency", "budget", "paused", "held", "ordering", "worker"
    ]
    until: datetime | None
    why: str


class ListedMessageOut(ResponseModel):
    id: str
    service: str
    endpoint: str | None
    method: str
    path: str
    status: Literal["pending", "delivering", "delivered", "dead", "cancelled"]
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None
    finished_at: datetime | None
    deliver_at: datetime | None
    expires_at: datetime | None
    ordering_key: str
    tags: dict[str, str]
    dead_reason: DeadReason | None
    last: LastOut
    replay_of: str | None
    replays: list[str]
    operation: str | None
    waiting_for: WaitingOut | None


class MessageOut(ListedMessageOut):
    query: dict[str, Any]
    headers: dict[str, str]
    content_type: str
    body: Any = Field(None, description="Where the body is JSON as we write it.")
    body_base64: str | None = Field(None, description="Where it is not: its bytes.")


class MessagePage(ListPage[ListedMessageOut]):
    """Messages, newest first."""


class BatchIn(StrictModel):
    """Up to 1,000 messages; each is checked by itself."""

    messages: list[Any] = Field(
        max_length=BATCH_COUNT,
        description="Each as for POST /messages.",
        json_schema_extra={"items": {"type": "object"}},
    )

    @field_validator("*", mode="before")
    @classmethod
    def holds_no_nul(cls, value: Any, info: ValidationInfo) -> Any:
        return value  # each message is asked by itself, so that a bad one does not reject the others


class AcceptedOut(ResponseModel):
    index: int
    id: str


class RejectedOut(ResponseModel):
    index: int
    error: ProblemOut


class BatchOut(ResponseModel):
    accepted: list[AcceptedOut]
    rejected: list[RejectedOut]


class ProcessedOut(ResponseModel):
    """The service answered 2xx."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": True,
                    "result": {"id": 42, "total": 1200},
                    "status_code": 200,
                    "attempts": 1,
                    "duration": 0.084,
                    "cached": False,
                }
            ]
        }
    )

    success: Literal[True]
    result: Any = Field(description="A JSON answer parsed, another text as a string; null where there is none.")
    result_base64: str | None = Field(None, description="In its place the bytes of an answer that is no text.")
    status_code: int
    attempts: int = Field(description="Calls that were made; 0 where the answer was kept from before.")
    duration: float = Field(description="Seconds, waits and retries included.")
    cached: bool = Field(description="Whether it is an earlier answer, within the service's cache.ttl.")


class ProcessErrorOut(ResponseModel):
    kind: Fault | Literal["breaker_open", "paused", "rate"] = Field(
        description="A fault word, or why no call was made; `rate` also where all places for calls are taken."
    )
    detail: str


class UnprocessedOut(ResponseModel):
    """The call did not go well, or none was made."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": False,
                    "error": {"kind": "status", "detail": "answered 503 Service Unavailable"},
                    "retry": True,
                    "status_code": 503,
                    "attempts": 3,
                    "duration": 0.71,
                },
                {
                    "success": False,
                    "error": {
                        "kind": "breaker_open",
                        "detail": "The breaker of billing is open (5 failures in a row).",
                    },
                    "retry": True,
                    "attempts": 0,
                    "duration": 0.004,
                },
            ]
        }
    )

    success: Literal[False]
    error: ProcessErrorOut
    retry: bool = Field(description="Whether the same call may go well later.")
    status_code: int | None = Field(None, description="Left out where there was no answer.")
    attempts: int
    duration: float = Field(description="Seconds, waits and retries included.")


class AttemptOut(ResponseModel):
    id: str
    number: int
    trigger: Literal["first", "retry", "probe", "lab", "process", "health"]
    started_at: datetime
    duration: float | None
    outcome: Literal["succeeded", "failed", "lost"]
    fault: Fault | None
    status_code: int | None
    detail: str
    timings: dict[str, float | None]
    request: dict[str, Any]
    response: dict[str, Any]
    retry_at: datetime | None


class AttemptPage(ListPage[AttemptOut]):
    """Calls made for a message, oldest first."""


# ---- operations ---------------------------------------------------------------------------------------------------
class EstimateOut(ResponseModel):
    services: dict[str, int] = Field(description="How many messages of each service.")
    delivered: int = Field(description="Of them delivered when it was planned.")
    oldest: datetime | None = Field(description="When the oldest was accepted.")
    seconds: float = Field(description="How long the rest takes at this rate.")


class OperationOut(ResponseModel):
    id: str
    kind: Literal["replay", "cancel", "retry_now"]
    filter: str
    reason: str
    rate: float = Field(description="Messages a second.")
    dry_run: bool
    stop_at_failure_rate: None
    state: Literal["planning", "running", "paused", "finished", "cancelled", "stopped"]
    note: str = Field(description="Why it was stopped.")
    total: int = Field(description="Messages in the selection, as far as it is planned.")
    done: int
    succeeded: int = Field(description="The act was done; what becomes of a replay is in its message.")
    failed: int
    skipped: int = Field(description="The act did not fit them any more.")
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    estimate: EstimateOut


class OperationPage(ListPage[OperationOut]):
    """Operations, newest first."""


class ItemOut(ResponseModel):
    message: str | None = Field(description="Null where it is no longer kept.")
    outcome: Literal["succeeded", "failed", "skipped"] | None = Field(description="Null: not yet done.")
    detail: str
    replay: str | None = Field(description="The new message.")
    done_at: datetime | None


class ItemPage(ListPage[ItemOut]):
    """Messages of an operation, newest first."""


# ---- failures -----------------------------------------------------------------------------------------------------
class FailureOut(ResponseModel):
    id: str
    service: str
    endpoint: str | None
    fault: Fault
    status_code: int | None
    title: str
    fingerprint: str = Field(description="The same for failures of the same kind.")
    version: int = Field(description="Of the fingerprint; a new one makes new groups.")
    because: dict[str, Any] = Field(description="What its calls have in common: why they are one group.")
    state: Literal["open", "resolved", "ignored", "regressed"]
    ignored_until: datetime | None
    count: int = Field(description="Failed calls.")
    messages: int = Field(description="How often a message came into this group.")
    first_seen: datetime
    last_seen: datetime
    sample: str | None = Field(description="Its last message.")
    note: str
    assignee: str | None


class FailurePage(ListPage[FailureOut]):
    """Failure groups, the newest kind first."""


# ---- administration -----------------------------------------------------------------------------------------------
class TokenOut(ResponseModel):
    id: int
    name: str
    role: Role
    prefix: str
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    last_used_at: datetime | None


class IssuedTokenOut(TokenOut):
    token: str = Field(description="The token itself: shown now and never again.")


class TokenPage(ListPage[TokenOut]):
    """Tokens, newest first."""


class RetentionOut(ResponseModel):
    messages_days: int | None = Field(description="Days that finished messages are kept; null is for ever.")
    audit_days: int | None = Field(description="Days that audit entries are kept; null is for ever.")


class AuditEntryOut(ResponseModel):
    id: int
    at: datetime
    actor: str
    action: str
    target: str
    reason: str
    before: dict[str, Any]
    after: dict[str, Any]


class AuditPage(ListPage[AuditEntryOut]):
    """Who changed what, newest first."""
