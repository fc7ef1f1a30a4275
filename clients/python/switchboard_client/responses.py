"""Types of the API's responses: the JSON objects themselves, so that fields of a newer version are there too."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Status = Literal["pending", "delivering", "delivered", "dead", "cancelled"]


class Last(TypedDict):
    """The last call made for a message."""

    status_code: int | None
    fault: str | None
    detail: str


class WaitingFor(TypedDict):
    kind: str
    until: str | None
    why: str


class Message(TypedDict):
    """A message. Lists leave out the fields that are not required here. Times are RFC 3339 in UTC."""

    id: str
    service: str
    endpoint: str | None
    method: str
    path: str
    status: Status
    attempts: int
    created_at: str
    next_attempt_at: str | None
    finished_at: str | None
    deliver_at: str | None
    expires_at: str | None
    ordering_key: str
    tags: dict[str, str]
    dead_reason: str | None
    last: Last
    replay_of: str | None
    replays: list[str]
    operation: str | None
    waiting_for: WaitingFor | None
    query: NotRequired[dict[str, Any]]
    headers: NotRequired[dict[str, str]]
    content_type: NotRequired[str]
    created_by: NotRequired[str | None]
    body: NotRequired[Any]
    body_base64: NotRequired[str]


class Attempt(TypedDict):
    """One call made for a message. ``duration`` in seconds."""

    id: str
    number: int
    trigger: str
    started_at: str
    duration: float | None
    outcome: Literal["succeeded", "failed", "lost"]
    fault: str | None
    status_code: int | None
    detail: str
    timings: dict[str, float | None]
    request: dict[str, Any]
    response: dict[str, Any]
    retry_at: str | None


class Accepted(TypedDict):
    index: int
    id: str


class Rejected(TypedDict):
    index: int
    error: dict[str, Any]


class BatchResult(TypedDict):
    """``index`` is the position in the batch."""

    accepted: list[Accepted]
    rejected: list[Rejected]


class ProcessError(TypedDict):
    kind: str
    detail: str


class ProcessResult(TypedDict):
    """The result of a direct call: ``result`` if it succeeded, else ``error`` and whether a retry may succeed."""

    success: bool
    attempts: int
    duration: float
    status_code: NotRequired[int]
    result: NotRequired[Any]
    result_base64: NotRequired[str]
    cached: NotRequired[bool]
    error: NotRequired[ProcessError]
    retry: NotRequired[bool]
