"""Events and audit entries: what happened, in commit order, and the actor of each change.

Events are the history of breakers and the source of live updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, NamedTuple

from django.db import connection, models, transaction
from django.utils import timezone

from integrations.models import sql
from integrations.models.message import MESSAGES_ENDED, Message
from integrations.models.service import Service
from integrations.policies.breaker import Transition

MESSAGES_CHANGED = "messages.changed"  # the counts of changes, once a second
SERVICE_CHANGES = ("service.created", "service.changed", "service.paused", "service.resumed")
HELD_CAP = 10_000  # counting stops here, because it runs while the runtime row is locked

ACTIVITY = """SELECT (SELECT MAX(id) FROM integrations_message),
    (SELECT SUM(calls + delivered + dead) FROM integrations_tally WHERE start >= %s),
    EXISTS (SELECT 1 FROM integrations_event WHERE position IS NULL AND type = %s),
    EXISTS (SELECT 1 FROM integrations_event WHERE position IS NULL AND type <> %s)"""

NUMBER = """UPDATE integrations_event SET position = numbered.position FROM (
    SELECT id, %s + ROW_NUMBER() OVER (ORDER BY id) AS position FROM integrations_event
    WHERE position IS NULL AND type <> %s ORDER BY id LIMIT %s
) AS numbered WHERE integrations_event.id = numbered.id"""


class Activity(NamedTuple):
    """Signs of new events, read in one statement: twice a second while a subscriber follows, and mostly nothing has
    happened."""

    newest: int  # the highest message id
    tallied: int  # the sum of all counters that can have changed
    has_ended: bool  # an event of cancelled messages waits to be counted
    is_unnumbered: bool  # another event waits for its position

    def differs_from(self, readings: dict[str, Any]) -> bool:
        """Whether counting would find a change. Counters only grow, so an equal sum means equal counters."""
        known = sum(sum(counters) for counters in readings["tallies"].values())
        is_equal = self.newest <= readings["message"] and self.tallied == known
        return not is_equal or self.has_ended or bool(readings["skipped"])


class EventQuerySet(models.QuerySet["Event"]):
    def to_number(self) -> EventQuerySet:
        """Committed events that have no position yet."""
        return self.filter(position=None).exclude(type=MESSAGES_ENDED)

    def to_count(self) -> EventQuerySet:
        """Events of cancelled messages that are not counted yet."""
        return self.filter(position=None, type=MESSAGES_ENDED)

    def number_after(self, position: int, limit: int) -> int:
        """Give positions to at most ``limit`` events without one; returns how many. The caller holds the ``Feed``
        row's lock."""
        with connection.cursor() as cursor:
            cursor.execute(NUMBER, [position, MESSAGES_ENDED, limit])
            count: int = cursor.rowcount
        return count

    def changes_between(self, start: datetime, end: datetime) -> EventQuerySet:
        """Registrations, changed settings, pauses and resumptions of services, newest first."""
        return self.filter(type__in=SERVICE_CHANGES, at__gte=start, at__lt=end).order_by("-pk")

    def activity(self, tallied_from: datetime) -> Activity:
        """Read the signs of new events, with the counters from this minute on."""
        with connection.cursor() as cursor:
            cursor.execute(ACTIVITY, [sql.moment(tallied_from), MESSAGES_ENDED, MESSAGES_ENDED])
            newest, tallied, has_ended, is_unnumbered = cursor.fetchone()
        return Activity(newest or 0, tallied or 0, bool(has_ended), bool(is_unnumbered))

    def record_changes(self, service: Service, changes: Sequence[Transition], now: datetime, *, by: str = "") -> None:
        """Record each change of a breaker as an event, with its cause, the attempts that tripped it and the number of
        waiting messages."""
        for change in changes:
            facts: dict[str, Any] = {"cause": change.cause, "attempts": list(change.attempts)}
            facts |= {"by": by} if by else {}
            facts |= {"observed": True} if change.observed else {}
            if change.type != "mode" and not change.observed:
                facts["held"] = Message.objects.for_service(service).due(now)[:HELD_CAP].count()
            # A change of mode alone changes how the service is run; the stream has no event type of its own for it.
            type_ = "service.changed" if change.type == "mode" else f"breaker.{change.type}"
            self.create(type=type_, at=now, service=service, facts=facts)


class Event(models.Model):
    """One change that an operator may care about; types are those of the public event stream."""

    type = models.CharField(max_length=40)
    at = models.DateTimeField(default=timezone.now)
    service = models.ForeignKey(Service, null=True, on_delete=models.CASCADE, db_index=False, related_name="events")
    subject = models.CharField(max_length=60, blank=True)  # public id of the subject, unless it is the service
    facts = models.JSONField(default=dict)
    # In the stream; given after the commit, see integrations/history/event_stream.py.
    position = models.BigIntegerField(null=True)

    objects: ClassVar[EventQuerySet] = EventQuerySet.as_manager()  # type: ignore[assignment]

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
    """How far the event stream is numbered. One row: the process that numbers events locks it until the commit."""

    position = models.BigIntegerField(default=0)  # the last position given to an event
    floor = models.BigIntegerField(default=0)  # every event after it can still be read
    counted_at = models.DateTimeField(null=True)
    readings = models.JSONField(default=dict)  # of the counters behind ``messages.changed``

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
        """Record a change, in the change's own transaction. Pass no secrets, only that one was set."""
        return self.create(
            actor=actor, action=action, target=target, reason=reason, before=before or {}, after=after or {}
        )

    @transaction.atomic
    def record_counted(self, actor: str, action: str, target: str, *, within: timedelta) -> None:
        """Add one to the latest such entry, or record a new one if it is older than ``within``."""
        newer = self.filter(target=target, action=action, at__gt=timezone.now() - within)
        if entry := newer.select_for_update().order_by("-id").first():
            entry.after["count"] += 1
            entry.save(update_fields=["after"])
        else:
            self.record(actor, action, target, after={"count": 1})


class AuditEntry(models.Model):
    """An actor's change of something, with the values before and after, and the reason."""

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
