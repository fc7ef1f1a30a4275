"""Models of the API's responses, for the OpenAPI document and for tests, which validate every response."""

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
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] | None = Field(None, description="Location and text of each error, for a 422.")


class ListPage(ResponseModel, Generic[Item]):
    items: list[Item]
    next_cursor: str | None = Field(description="Cursor of the next page; null on the last page.")


# ---- services -----------------------------------------------------------------------------------------------------
class SigningOut(Signing):
    public_key: str | None = Field(
        description="Key with which receivers verify `v1a` signatures (`whpk_…`); null before signing was turned on."
    )


class NetworkOut(NetworkRules):
    allowed_by: str | None = Field(
        description="Who allowed these networks, such as `person ada`; null without networks, and for those that a "
        "version allowed which asked for no reason."
    )
    allowed_at: datetime | None = Field(description="Time of it.")


class RotatedOut(ResponseModel):
    secret: str = Field(description="Signing secret (`whsec_…`), returned only here.")
    public_key: str = Field(description="Key with which receivers verify `v1a` signatures (`whpk_…`).")
    previous_valid_until: datetime | None = Field(
        description="Time until which the previous keys also sign; null if there are none."
    )


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
    auth: dict[str, Any] = Field(description="Authentication. Secrets appear only as `set` and `set_at`.")
    signing: SigningOut
    timeout: Timeout
    retry: RetryPolicy
    breaker: BreakerPolicy
    limits: Limits
    cache: Cache
    network: NetworkOut
    health_check: HealthCheck
    status: Literal["active", "paused", "deleting"]
    paused_reason: str | None
    paused_until: datetime | None
    health: Literal["up", "down", "unknown"]
    breaker_state: Literal["closed", "open", "half_open"]
    backlog: int = Field(description="Number of unfinished messages; counting stops at 10,000.")
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
    held: int = Field(description="Number of due messages that the breaker blocks.")


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
    created_by: str | None = Field(
        description="Token or person that queued it, if known: replays are in the audit log."
    )
    body: Any = Field(None, description="Body as a JSON value, if its bytes are compact JSON.")
    body_base64: str | None = Field(None, description="Body as bytes in base64, if they are not.")


class MessagePage(ListPage[ListedMessageOut]):
    """Messages, newest first."""


class BatchIn(StrictModel):
    """Up to 1,000 messages, each validated on its own."""

    messages: list[Any] = Field(
        max_length=BATCH_COUNT,
        description="Messages as for POST /messages.",
        json_schema_extra={"items": {"type": "object"}},
    )

    @field_validator("*", mode="before")
    @classmethod
    def has_no_nul(cls, value: Any, info: ValidationInfo) -> Any:
        return value  # each message is checked on its own, so that a bad one does not reject the others


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
    """The service responded with 2xx."""

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
    result: Any = Field(description="Response body: JSON parsed, other text as a string, null if empty.")
    result_base64: str | None = Field(None, description="Response body in base64, if it is not text.")
    status_code: int
    attempts: int = Field(description="Number of calls made; 0 for a cached response.")
    duration: float = Field(description="Seconds, including waits and retries.")
    cached: bool = Field(description="Whether the response was reused within the service's cache.ttl.")


class ProcessErrorOut(ResponseModel):
    kind: Fault | Literal["breaker_open", "paused", "rate"] = Field(
        description="Fault of the last call, or the reason why none was made. `rate` includes the concurrency limit."
    )
    detail: str


class UnprocessedOut(ResponseModel):
    """The call failed, or none was made."""

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
    retry: bool = Field(description="Whether the same call may succeed later.")
    status_code: int | None = Field(None, description="Omitted if there was no response.")
    attempts: int
    duration: float = Field(description="Seconds, including waits and retries.")


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
    services: dict[str, int] = Field(description="Number of messages by service.")
    delivered: int = Field(description="Messages among them that were already delivered at planning.")
    oldest: datetime | None = Field(description="Time at which the oldest message was accepted.")
    seconds: float | None = Field(
        description="Seconds for the remaining messages at this rate. Null without a rate, before it has begun."
    )


class PaceOut(ResponseModel):
    rate: float = Field(description="Messages per second at present.")
    why: str = Field(description="Reason of the last change.")
    changed_at: datetime


class OperationOut(ResponseModel):
    id: str
    kind: Literal["replay", "cancel", "retry_now", "delete"]
    filter: str
    reason: str
    rate: float | Literal["auto"] | None = Field(
        description="Messages per second; auto: see pace; null: as fast as the database allows."
    )
    pace: PaceOut | None = Field(description="Present pace of an operation with the rate auto.")
    dry_run: bool
    stop_at_failure_rate: float | None
    state: Literal["planning", "running", "paused", "finished", "cancelled", "stopped"]
    note: str = Field(description="Reason why the operation was stopped.")
    total: int = Field(description="Number of messages in the selection so far.")
    done: int
    succeeded: int = Field(description="Messages acted on. The result of a replay is in its new message.")
    failed: int
    skipped: int = Field(description="Messages that the operation could no longer act on.")
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    estimate: EstimateOut


class OperationPage(ListPage[OperationOut]):
    """Operations, newest first."""


class ItemOut(ResponseModel):
    message: str | None = Field(description="Id of the message; null if it was deleted.")
    outcome: Literal["succeeded", "failed", "skipped"] | None = Field(description="Null until the item is done.")
    detail: str
    replay: str | None = Field(description="Id of the new message of a replay.")
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
    fingerprint: str = Field(description="Equal for failures of the same kind.")
    version: int = Field(description="Version of the fingerprint. A new version starts new groups.")
    because: dict[str, Any] = Field(description="Properties that the calls of the group have in common.")
    state: Literal["open", "resolved", "ignored", "regressed"]
    ignored_until: datetime | None
    count: int = Field(description="Number of failed calls.")
    messages: int = Field(description="Number of times that a message entered the group.")
    first_seen: datetime
    last_seen: datetime
    sample: str | None = Field(description="Id of the last message; null if it was deleted.")
    note: str
    assignee: str | None


class FailurePage(ListPage[FailureOut]):
    """Failure groups, newest first."""


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
    token: str = Field(description="The token's secret, returned only here.")


class TokenPage(ListPage[TokenOut]):
    """Tokens, newest first."""


class RetentionOut(ResponseModel):
    messages_days: int | None = Field(description="Days to keep finished messages; null keeps them forever.")
    audit_days: int | None = Field(description="Days to keep audit entries; null keeps them forever.")


class BackupsOut(ResponseModel):
    every_hours: int | None = Field(description="Hours from one backup to the next; null: no backups by schedule.")
    folder: str = Field(description="Folder of the backups; empty: backups in the data folder.")
    keep: int = Field(description="Number of backups that are kept.")
    taken_at: datetime | None = Field(description="Time whose state the last good backup holds.")
    place: str = Field(description="Host and folder of the last good backup.")
    size: int = Field(description="Size of the last good backup in bytes.")
    seconds: float = Field(description="Time that the last good backup took.")
    failed_at: datetime | None = Field(description="Time of a failure after the last good backup.")
    failure: str = Field(description="Why it failed.")
    next_at: datetime | None = Field(description="Time of the next backup.")
    trouble: Literal["failed", "overdue"] | None = Field(description="Why the backups need an operator.")


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
    """Audit entries, newest first."""
