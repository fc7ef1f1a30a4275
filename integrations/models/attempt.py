"""Attempts: the append-only record of every call."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, ClassVar

from django.db import models

from integrations.models import identifiers
from integrations.models.message import Message
from integrations.models.service import Endpoint, Service
from integrations.outbound.outcome import Fault


class Trigger(models.TextChoices):
    """The reason for a call."""

    FIRST = "first"
    RETRY = "retry"
    PROBE = "probe"
    LAB = "lab"
    PROCESS = "process"
    HEALTH = "health"


class Result(models.TextChoices):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"


class AttemptQuerySet(models.QuerySet["Attempt"]):
    def oldest_first(self) -> AttemptQuerySet:
        return self.order_by("number", "pk")

    def newest_first(self) -> AttemptQuerySet:
        return self.order_by("-pk")

    def from_lab(self) -> AttemptQuerySet:
        return self.filter(trigger=Trigger.LAB)

    def without_message(self) -> AttemptQuerySet:
        """Calls that were made without a message: process, health, lab."""
        return self.filter(message=None)

    def by_public_id(self, text: str) -> Attempt | None:
        if (parsed := identifiers.parse("att", text)) is None:
            return None
        return self.filter(pk=parsed[0], nonce=parsed[1]).first()


class Attempt(models.Model):
    """One call: the request (redacted), the response (capped), the time of each phase, and the time of the retry."""

    nonce = models.BigIntegerField(default=identifiers.fresh_nonce, editable=False)
    message = models.ForeignKey(
        Message, null=True, on_delete=models.CASCADE, db_index=False, related_name="attempt_rows"
    )
    service = models.ForeignKey(Service, on_delete=models.CASCADE, db_index=False, related_name="attempt_rows")
    endpoint = models.ForeignKey(Endpoint, null=True, on_delete=models.SET_NULL, db_index=False, related_name="+")
    number = models.PositiveIntegerField(default=1)
    trigger = models.CharField(max_length=7, choices=Trigger.choices)
    worker_id = models.BigIntegerField(null=True)
    actor = models.CharField(max_length=150, blank=True)  # the caller of lab and process calls

    started_at = models.DateTimeField()
    duration = models.FloatField(null=True)  # seconds; unknown while a lost call has no result
    outcome = models.CharField(max_length=9, choices=Result.choices)
    fault = models.CharField(max_length=11, choices=[(fault.value, fault.value) for fault in Fault], blank=True)
    status_code = models.PositiveSmallIntegerField(null=True)
    detail = models.CharField(max_length=500, blank=True)
    timings = models.JSONField(default=dict)  # {"dns", "connect", "tls", "first_byte", "total"} in seconds
    retry_at = models.DateTimeField(null=True)

    method = models.CharField(max_length=20, blank=True)
    url = models.CharField(max_length=4500, blank=True)
    request_headers = models.JSONField(default=list)  # [[name, value]], redacted
    request_body = models.BinaryField(null=True)  # of lab and process calls; the body of a message is in its content
    request_size = models.PositiveIntegerField(default=0)
    response_headers = models.JSONField(default=list)  # [[name, value]], redacted
    response_body = models.BinaryField(default=bytes)
    response_size = models.PositiveBigIntegerField(default=0)  # bytes read from the socket
    truncated = models.BooleanField(default=False)

    objects: ClassVar[AttemptQuerySet] = AttemptQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = (
            models.Index(fields=["message", "number"], name="attempt_of_message"),
            models.Index(fields=["service", "-id"], name="attempt_of_service"),
            models.Index(fields=["service", "-id"], name="attempt_without_message", condition=models.Q(message=None)),
            models.Index(fields=["-id"], name="attempt_of_lab", condition=models.Q(trigger="lab")),
            models.Index(fields=["service", "-id"], name="attempt_of_health", condition=models.Q(trigger="health")),
        )

    def __str__(self) -> str:
        return self.public_id

    @property
    def public_id(self) -> str:
        return identifiers.public_id("att", self.pk, self.nonce)

    @property
    def succeeded(self) -> bool:
        return self.outcome == Result.SUCCEEDED

    def as_json(self, request_body: bytes | None = None) -> dict[str, Any]:
        """The attempt with the field names of docs/contract.md; bodies as text if they are UTF-8, else in base64."""
        sent = bytes(self.request_body) if self.request_body is not None else request_body
        return {
            "id": self.public_id,
            "number": self.number,
            "trigger": self.trigger,
            "started_at": self.started_at,
            "duration": self.duration,
            "outcome": self.outcome,
            "fault": self.fault or None,
            "status_code": self.status_code,
            "detail": self.detail,
            "timings": self.timings,
            "request": {
                "method": self.method,
                "url": self.url,
                "headers": self.request_headers,
                **_shown(sent or b""),
                "truncated": False,
                "size": self.request_size,
            },
            "response": {
                "headers": self.response_headers,
                **_shown(bytes(self.response_body)),
                "truncated": self.truncated,
                "size": self.response_size,
            },
            "retry_at": self.retry_at,
        }


def _shown(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": b64encode(body).decode()}
