"""Operations: the same action on many messages, or work on a whole service, as a job for the workers.

    planning ----> running ----> finished        a dry run is finished when it is planned; an operator may start it then
        ^             ^
        +-- paused ---+         cancelled by an operator, or stopped by an error: from any of the three

Planning makes *items* of the messages that the filter finds: the selection is frozen, and messages that are accepted
later are not touched. Each item ends once, in the transaction of its action. A deletion and an index have no items:
they count the service's messages, and walk through them until none is left.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.core.exceptions import EmptyResultSet
from django.db import connection, models
from django.db.models import Q
from django.utils import timezone

from integrations.models import identifiers


class Kind(models.TextChoices):
    REPLAY = "replay"
    CANCEL = "cancel"
    RETRY_NOW = "retry_now"
    DELETE = "delete"  # a service with all its messages; begun by registration/deletion.py alone
    INDEX = "index"  # a field of a service's bodies in its older messages; begun by registration/indexing.py alone


class State(models.TextChoices):
    PLANNING = "planning"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    STOPPED = "stopped"


class ItemOutcome(models.TextChoices):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


ACTIVE = (State.PLANNING, State.RUNNING)
OPEN = (*ACTIVE, State.PAUSED)
NO_LIMIT = 1_000_000.0  # messages a second: as fast as the database allows. Not null: processes of before multiply it.


ADD_ITEMS = """INSERT INTO integrations_item (operation_id, message_id, outcome, detail)
SELECT %s, found.id, '', '' FROM ({found}) AS found"""


class OperationQuerySet(models.QuerySet["Operation"]):
    def active(self) -> OperationQuerySet:
        """Operations with work for the workers."""
        return self.filter(state__in=ACTIVE)

    def deleting(self, service_id: int) -> OperationQuerySet:
        """The open deletion of a service; none or one."""
        return self.filter(kind=Kind.DELETE, service_id=service_id, state__in=OPEN)

    def indexing(self, service_id: int, path: str) -> OperationQuerySet:
        """The open index of a field; none or one."""
        return self.filter(kind=Kind.INDEX, service_id=service_id, state__in=OPEN, pace__path=path)

    def stopped_since(self, since: datetime) -> OperationQuerySet:
        """Operations that an error stopped, the newest first."""
        return self.filter(state=State.STOPPED, finished_at__gte=since).order_by("-finished_at")

    def by_public_id(self, text: str) -> Operation | None:
        if (parsed := identifiers.parse("op", text)) is None:
            return None
        return self.filter(pk=parsed[0], nonce=parsed[1]).first()

    def public_ids(self, ids: set[int]) -> dict[int, str]:
        """The public ids by row id; without ids, without a query."""
        rows = self.filter(pk__in=ids).values_list("pk", "nonce") if ids else ()
        return {pk: identifiers.public_id("op", pk, nonce) for pk, nonce in rows}


class Operation(models.Model):
    """One action on many messages: its kind, filter, reason, rate and progress."""

    nonce = models.BigIntegerField(default=identifiers.fresh_nonce, editable=False)
    kind = models.CharField(max_length=9, choices=Kind.choices)
    filter = models.TextField()  # in the grammar of integrations/search
    reason = models.CharField(max_length=500, blank=True)
    rate = models.FloatField()  # messages a second; NO_LIMIT for none
    # Of a deletion, at whose end the service is gone, and of an index: the service.
    service_id = models.BigIntegerField(null=True)
    # Share of the latest calls whose failure stops it; null: none does.
    stop_at_failure_rate = models.FloatField(null=True)
    pace = models.JSONField(null=True)  # how far it is: its next item, the calls it has seen, its adaptive pace
    dry_run = models.BooleanField(default=False)
    state = models.CharField(max_length=9, choices=State.choices, default=State.PLANNING)
    note = models.CharField(max_length=500, blank=True)  # the reason why it stopped

    planned_to = models.BigIntegerField(default=0)  # the last message that was read
    planned_until = models.BigIntegerField(default=0)  # the newest message at its creation
    estimate = models.JSONField(default=dict)  # of the messages found: by service, already delivered, the oldest

    total = models.PositiveIntegerField(default=0)
    succeeded = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)

    created_by = models.CharField(max_length=200)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    paced_at = models.DateTimeField(null=True)  # its rate is used up to this time; without a limit: it rests until then
    told_at = models.DateTimeField(null=True)  # the time of the last progress event

    objects: ClassVar[OperationQuerySet] = OperationQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = (
            models.Index(fields=["id"], name="operation_active", condition=Q(state__in=["planning", "running"])),
            models.Index(fields=["finished_at"], name="operation_by_end"),
        )

    def __str__(self) -> str:
        return self.public_id

    @property
    def public_id(self) -> str:
        return identifiers.public_id("op", self.pk, self.nonce)

    @property
    def done(self) -> int:
        return self.succeeded + self.failed + self.skipped

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def is_deletion(self) -> bool:
        return self.kind == Kind.DELETE

    @property
    def is_index(self) -> bool:
        return self.kind == Kind.INDEX

    @property
    def has_items(self) -> bool:
        """Whether its selection is frozen as items; else it walks through a service."""
        return not (self.is_deletion or self.is_index)

    @property
    def is_adaptive(self) -> bool:
        """Whether it finds its rate by itself."""
        return bool((self.pace or {}).get("auto"))

    @property
    def has_limit(self) -> bool:
        return self.rate < NO_LIMIT

    @property
    def is_planned(self) -> bool:
        return self.planned_to >= self.planned_until

    @property
    def may_start(self) -> bool:
        """Whether it is a finished dry run."""
        return self.dry_run and self.state == State.FINISHED

    def add_items(self, messages: models.QuerySet[Any, Any]) -> int:
        """Make items of the messages that this query finds; returns how many. One INSERT … SELECT, so that no id
        leaves the database."""
        try:
            found, parameters = messages.order_by("id").values("id").query.sql_with_params()
        except EmptyResultSet:
            return 0
        with connection.cursor() as cursor:
            cursor.execute(ADD_ITEMS.format(found=found), [self.pk, *parameters])
            count: int = cursor.rowcount
        return count

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for its events."""
        return {
            "kind": self.kind,
            "state": self.state,
            **{name: getattr(self, name) for name in ("total", "done", "succeeded", "failed", "skipped")},
        }


class Item(models.Model):
    """One message of an operation's selection, with its outcome. A replay is found by ``replay_of``."""

    operation = models.ForeignKey(Operation, on_delete=models.CASCADE, db_index=False, related_name="items")
    message_id = models.BigIntegerField()
    outcome = models.CharField(max_length=9, choices=ItemOutcome.choices, blank=True)  # blank: not done yet
    detail = models.CharField(max_length=200, blank=True)  # the reason why it was skipped or failed
    done_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["operation", "message_id"], name="item_of_operation"),)
        indexes = (  # by id, the order of their messages and of the lists
            models.Index(fields=["operation", "-id"], name="item_newest_first"),
            models.Index(fields=["operation", "outcome", "-id"], name="item_by_outcome"),
        )

    def __str__(self) -> str:
        return f"{self.message_id} of {self.operation_id}: {self.outcome or 'not done yet'}"
