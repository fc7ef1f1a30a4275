"""Fields of the actions of operators and admins: pause, resume, rotate, override, triage failures, set retention."""

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

MAX_RETENTION_DAYS = 3650
MAX_BACKUP_HOURS = 31 * 24


class FailureIn(StrictModel):
    """A decision about a failure group. Omitted fields keep their values."""

    state: Literal["open", "resolved", "ignored"] | None = Field(
        None, description="New state. A resolved group becomes regressed when it fails again."
    )
    ignored_until: Timestamp | None = Field(
        None, description="End of ignoring, for the state ignored. Omit it to ignore the group until further notice."
    )
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4000)] = Field(
        "", description="Notes for other operators, such as the address of a runbook."
    )
    assignee: Annotated[str, StringConstraints(strip_whitespace=True, max_length=150)] | None = Field(
        None, description="User name of the person in charge; null for none."
    )


class RetentionIn(StrictModel):
    """How long history is kept; null keeps it forever. Omitted fields keep their values."""

    messages_days: int | None = Field(
        None,
        ge=1,
        le=MAX_RETENTION_DAYS,
        description="Days to keep finished messages with their attempts, and also finished operations, events and "
        "direct calls. Unfinished messages are never deleted.",
    )
    audit_days: int | None = Field(None, ge=1, le=MAX_RETENTION_DAYS, description="Days to keep audit entries.")


class BackupsIn(StrictModel):
    """When workers back up the database, where to, and how many backups they keep."""

    every_hours: int | None = Field(None, ge=1, le=MAX_BACKUP_HOURS, description="Empty: no backups by schedule.")
    folder: Annotated[str, StringConstraints(strip_whitespace=True, max_length=400)] = Field(
        "",
        description="On the machine whose worker writes it, best on another disk. Empty: backups in the data folder.",
    )
    keep: int = Field(7, ge=1, le=1000, description="Older ones are deleted after each new backup.")

    @field_validator("folder")
    @classmethod
    def is_absolute(cls, value: str) -> str:
        if value and (not value.startswith("/") or not value.isprintable() or ".." in value.split("/")):
            raise ValueError("write the whole path from / on, such as /backups/switchboard")
        return value


class PauseIn(StrictModel):
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] = Field(
        description="Reason for the pause, shown to all users."
    )
    until: Timestamp | None = Field(None, description="Time at which the pause ends by itself.")


class ResumeIn(StrictModel):
    release: Literal["all", "none", "newer_than"] = Field(
        "all", description="Which waiting messages to release; the others stay held."
    )
    newer_than: Timestamp | None = Field(
        None, description="Release messages accepted after this time. Required for release newer_than."
    )
    rate: float | None = Field(
        None, gt=0, le=100_000, description="Messages to release per second. Omit it to release them at once."
    )

    @model_validator(mode="after")
    def has_its_time(self) -> ResumeIn:
        if self.release == "newer_than" and self.newer_than is None:
            raise ValueError("release newer_than needs the field newer_than")
        return self


class RotateIn(StrictModel):
    overlap: float = Field(
        86400,
        ge=0,
        le=30 * 86400,
        description="Seconds for which the previous keys also sign; default one day. 0 retires them at once.",
    )


class BreakerIn(StrictModel):
    action: Literal["open", "close", "half_open", "reset", "disable", "observe", "auto"] = Field(
        description="Action on the breaker. `close` and `reset` also clear the service's last `Retry-After`."
    )
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)] = Field(
        description="Reason for the override, shown to all users."
    )
    until: Timestamp | None = Field(
        None, description="Time at which the override ends by itself. Allowed for open, disable and observe."
    )

    @field_validator("until")
    @classmethod
    def ends_an_override(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        action = info.data.get("action")
        if value is not None and action not in (None, "open", "disable", "observe"):
            raise ValueError(f"only open, disable and observe take an end; omit until for {action}")
        return value
