"""What happened, in commit order: the breaker's history and the source of live updates; and who did what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.db import models
from django.utils import timezone

from integrations.models.message import Message
from integrations.models.service import Service
from integrations.policies.breaker import Transition

HELD_CAP = 10_000  # counting ends here: it is done while the runtime row is locked


class EventManager(models.Manager["Event"]):
    def record_changes(self, service: Service, changes: Sequence[Transition], now: datetime, *, by: str = "") -> None:
        """One event for each change of a breaker, with its cause, the attempts that tripped it and how many messages
        wait."""
        for change in changes:
            facts: dict[str, Any] = {"cause": change.cause, "attempts": list(change.attempts)}
            facts |= {"by": by} if by else {}
            facts |= {"observed": True} if change.observed else {}
            if change.type != "mode" and not change.observed:
                facts["held"] = Message.objects.for_service(service).due(now)[:HELD_CAP].count()
            # A change of mode alone is a change of how the service is run; the stream has no word of its own for it.
            type_ = "service.changed" if change.type == "mode" else f"breaker.{change.type}"
            self.create(type=type_, at=now, service=service, facts=facts)


class Event(models.Model):
    """One change that an operator may care about; types are those of the public event stream."""

    type = models.CharField(max_length=40)
    at = models.DateTimeField(default=timezone.now)
    service = models.ForeignKey(Service, null=True, on_delete=models.CASCADE, db_index=False, related_name="events")
    subject = models.CharField(max_length=60, blank=True)  # public id of the thing, where it is not the service
    facts = models.JSONField(default=dict)
    position = models.BigIntegerField(
        null=True
    )  # in the stream; given after the commit, see integrations/history/event_stream.py

    objects: ClassVar[EventManager] = EventManager()

    class Meta:
        indexes = (
            models.Index(fields=["service", "-id"], name="event_of_service"),
            models.Index(fields=["type", "-id"], name="event_of_type"),
            models.Index(fields=["position"], name="event_in_stream", condition=models.Q(position__isnull=False)),
            models.Index(fields=["id"], name="event_unnumbered", condition=models.Q(position=None)),
        )

    def __str__(self) -> str:
        return f"{self.type} {self.at:%F %T}"


class Feed(models.Model):
    """How far the event stream is numbered. One row: whoever numbers holds its lock until the commit."""

    position = models.BigIntegerField(default=0)  # the last one given
    floor = models.BigIntegerField(default=0)  # everything after it can still be read
    counted_at = models.DateTimeField(null=True)
    readings = models.JSONField(default=dict)  # of the counters that ``messages.changed`` is told from

    def __str__(self) -> str:
        return f"at {self.position}"


class AuditManager(models.Manager["AuditEntry"]):
    def record(
        self,
        actor: str,
        action: str,
        target: str,
        *,
        reason: str = "",
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> AuditEntry:
        """Call it in the transaction of the change. Give no secrets: only that one was set."""
        return self.create(
            actor=actor, action=action, target=target, reason=reason, before=before or {}, after=after or {}
        )


class AuditEntry(models.Model):
    """Who changed what, from what to what, and why."""

    at = models.DateTimeField(default=timezone.now)
    actor = models.CharField(max_length=200)  # "person NAME", "token NAME", "environment", "switchboard"
    action = models.CharField(max_length=60)  # "service.paused", "breaker.open", "message.cancelled" …
    target = models.CharField(max_length=200)
    reason = models.CharField(max_length=500, blank=True)
    before = models.JSONField(default=dict)
    after = models.JSONField(default=dict)

    objects: ClassVar[AuditManager] = AuditManager()

    class Meta:
        verbose_name_plural = "audit entries"
        indexes = (models.Index(fields=["target", "-id"], name="audit_of_target"),)

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.target}"
