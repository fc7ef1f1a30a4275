"""Rules of the actions of operators and admins: pause, resume, rotate, override, decide about failures, retention."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from integrations.schemas.fields import StrictModel, Timestamp

MAX_RETENTION_DAYS = 3650  # days of history


class FailureIn(StrictModel):
    """What an operator decides about a failure group; what is left out stays."""

    state: Literal["open", "resolved", "ignored"] | None = Field(
        None, description="A resolved group that fails again is regressed."
    )
    ignored_until: Timestamp | None = Field(None, description="With ignored: until when; left out, for ever.")
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)] = Field(
        "", description="What to know about it, such as the address of a runbook."
    )
    assignee: Annotated[str, StringConstraints(strip_whitespace=True, max_length=150)] | None = Field(
        None, description="The account of who sees to it; null for nobody."
    )


class RetentionIn(StrictModel):
    """How long history is kept; null is for ever. What is left out stays as it is."""

    messages_days: int | None = Field(
        None,
        ge=1,
        le=MAX_RETENTION_DAYS,
        description="Days that a finished message is kept, with its attempts; ended operations, events and calls "
        "without a message go by it too. What is not finished always stays.",
    )
    audit_days: int | None = Field(None, ge=1, le=MAX_RETENTION_DAYS, description="Days that audit entries are kept.")


class PauseIn(StrictModel):
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] = Field(
        description="Why; shown to everybody."
    )
    until: Timestamp | None = Field(None, description="When it ends by itself.")


class ResumeIn(StrictModel):
    release: Literal["all", "none", "newer_than"] = Field("all", description="Which of the waiting messages go.")
    newer_than: Timestamp | None = Field(None, description="With release newer_than: accepted after this time.")
    rate: float | None = Field(None, gt=0, le=100_000, description="Messages a second to release.")

    @model_validator(mode="after")
    def says_when(self) -> ResumeIn:
        if self.release == "newer_than" and self.newer_than is None:
            raise ValueError("release newer_than needs newer_than")
        return self


class RotateIn(StrictModel):
    overlap: float = Field(
        86400, ge=0, le=30 * 86400, description="Seconds for which the keys so far sign too; 0 ends them at once."
    )


class BreakerIn(StrictModel):
    action: Literal["open", "close", "half_open", "reset", "disable", "observe", "auto"] = Field(
        description="What to do. `close` and `reset` also forget how long the service asked to wait (`Retry-After`)."
    )
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] = Field(
        description="Why; shown to everybody."
    )
    until: Timestamp | None = Field(
        None, description="When a manual mode ends by itself; for open, disable and observe."
    )

    @field_validator("until")
    @classmethod
    def ends_a_manual_mode(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        action = info.data.get("action")
        if value is not None and action not in (None, "open", "disable", "observe"):
            raise ValueError(f"{action} sets no manual mode that could end")
        return value
