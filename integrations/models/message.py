"""Messages: the requests queued for services. Only this module changes a message's status.

            accept                claim                    2xx
   (API/UI) ------> PENDING ----------------> DELIVERING --------> DELIVERED
                     ^  |  ^                      |  |
        not now      |  |  +---- retry at T ------+  +-- attempts spent, 410, expired, 3 lost claims --> DEAD
   (attempt kept) ---+  +---------------- cancel ----------------------------------------------> CANCELLED

A pending message is *due* once ``due_at`` has passed. It has no ``due_at`` while it is *held* (a resume excluded it, or
a restored backup had it unfinished) or *parked* (an earlier message of its ordering key is unfinished). A claim checks
breaker, rate, concurrency, budget and pause for the whole service, and writes nothing here: waiting costs no attempt
and no row.

A claim is fenced by the worker's id and the number of the call: a result is written only if both are unchanged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple, cast

from django.db import connection, models, transaction
from django.db.models import Case, Exists, F, Min, OuterRef, Q, QuerySet, Value, When, Window
from django.db.models.functions import Coalesce, RowNumber

from integrations import wakeup
from integrations.errors import Conflict
from integrations.models import field_value, identifiers, meter, sql, tally
from integrations.models.clock import database_now
from integrations.models.service import Endpoint, Service
from integrations.policies.retry import DeadReason


class Status(models.TextChoices):
    PENDING = "pending"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"


MESSAGES_ENDED = "messages.ended"  # the event of cancelled messages; the stream counts it and never shows it
UNFINISHED = (Status.PENDING, Status.DELIVERING)
FINISHED = (Status.DELIVERED, Status.DEAD, Status.CANCELLED)


class Priority(models.IntegerChoices):
    """The order of claims: first attempts before retries, retries before bulk replays."""

    FIRST = 0
    RETRY = 1
    BULK = 2


SOURCES = {"token": "api", "person": "console"}  # by the first word of an actor


@dataclass(frozen=True, slots=True)
class Draft:
    """A message before it is accepted: everything that stays fixed for its whole life."""

    service: Service
    method: str
    path: str
    body: bytes
    content_type: str
    endpoint: Endpoint | None = None
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)  # its own query and headers, if it is for an endpoint
    ordering_key: str = ""
    deliver_at: datetime | None = None
    expires_at: datetime | None = None
    tags: dict[str, str] = field(default_factory=dict)
    priority: Priority = Priority.FIRST
    replay_of: Message | None = None
    webhook_id: str = ""
    operation_id: int | None = None
    created_by: str = ""

    @property
    def source(self) -> str:
        """The way on which it came, for the metrics."""
        if self.operation_id is not None:
            return "operation"
        if self.replay_of is not None:
            return "replay"
        return SOURCES.get(self.created_by.partition(" ")[0], "other")

    @property
    def lineage_id(self) -> int | None:
        """The lineage that a replay joins; its original may be the first message of it."""
        return None if self.replay_of is None else self.replay_of.lineage_id or self.replay_of.pk


class Named:
    """The identifiers and times that a whole row and a claimed message share."""

    __slots__ = ()
    pk: Any
    nonce: int
    webhook_id: str
    created_at: datetime
    deliver_at: datetime | None

    @property
    def public_id(self) -> str:
        return identifiers.public_id("msg", self.pk, self.nonce)

    @property
    def wire_id(self) -> str:
        """``webhook-id``: the same on every attempt; an unedited replay has that of the first message."""
        return self.webhook_id or self.public_id

    @property
    def first_due(self) -> datetime:
        """The time from which a deadline counts."""
        return max(self.created_at, self.deliver_at) if self.deliver_at else self.created_at


@dataclass(slots=True)
class Outgoing(Named):
    """A claimed message with its content: all data for a call, at a fifth of a model's cost."""

    pk: int
    nonce: int
    service_id: int
    endpoint_id: int | None
    method: str
    path: str
    priority: int
    ordering_key: str
    attempts: int
    calls: int
    webhook_id: str
    created_at: datetime
    deliver_at: datetime | None
    expires_at: datetime | None
    failure_id: int | None
    lineage_id: int | None
    query: dict[str, Any]
    headers: dict[str, str]
    content_type: str
    body: bytes


class Settled(NamedTuple):
    """The new values of a claimed message after its call."""

    pk: int
    status: Status
    priority: Priority
    due_at: datetime | None  # for a retry
    finished_at: datetime | None
    dead_reason: str
    last_status_code: int | None
    last_fault: str
    last_detail: str
    failure_id: int | None = None  # the group of the call, if it failed


# The statements of every delivery, by hand: the ORM took a millisecond of CPU to build each of them.
CLAIM = """UPDATE integrations_message SET status = 'delivering', worker_id = %s, claimed_at = %s
WHERE {these} AND status = 'pending' AND due_at <= %s RETURNING id, priority"""

OUTGOING = """SELECT {columns} FROM integrations_message m JOIN integrations_messagecontent c ON c.message_id = m.id
WHERE {these} AND m.status = 'delivering' AND m.worker_id = %s"""

SETTLE = """UPDATE integrations_message SET status = v.status, priority = v.priority, due_at = v.due_at,
    retry_at = v.due_at, finished_at = v.finished_at, dead_reason = v.dead_reason, last_fault = v.last_fault,
    last_status_code = v.last_status_code, last_detail = v.last_detail, attempts = attempts + 1, calls = calls + 1,
    losses = 0, worker_id = NULL, claimed_at = NULL, probe_generation = NULL,
    failure_id = COALESCE(v.failure_id, integrations_message.failure_id)
FROM {source} WHERE integrations_message.id = v.id"""

# During an upgrade, processes of the version before, which knows no lineages, leave them out of the replays they make.
COMPLETE_LINEAGES = """WITH RECURSIVE lineage(id, first) AS (
    SELECT original.id, COALESCE(original.lineage_id, original.id)
    FROM integrations_message replay JOIN integrations_message original ON original.id = replay.replay_of_id
    WHERE replay.replay_of_id IS NOT NULL AND replay.lineage_id IS NULL
    AND (original.replay_of_id IS NULL OR original.lineage_id IS NOT NULL)
    UNION
    SELECT replay.id, lineage.first
    FROM lineage JOIN integrations_message replay ON replay.replay_of_id = lineage.id WHERE +replay.lineage_id IS NULL
)
UPDATE integrations_message SET lineage_id = lineage.first
FROM lineage WHERE integrations_message.id = lineage.id AND integrations_message.lineage_id IS NULL"""
SETTLED = {
    "id": "bigint",
    "status": "text",
    "priority": "smallint",
    "due_at": "timestamptz",
    "finished_at": "timestamptz",
    "dead_reason": "text",
    "last_status_code": "smallint",
    "last_fault": "text",
    "last_detail": "text",
    "failure_id": "bigint",
}


def _settled_source(settled: Sequence[Settled]) -> tuple[str, list[Any]]:
    """The new values as a table ``v``: one JSON array on SQLite, column arrays on PostgreSQL, where a column with the
    same value in all rows, as most have, is sent as one value."""
    if connection.vendor != "postgresql":
        columns = ", ".join(f"value ->> {index} AS {name}" for index, name in enumerate(SETTLED))
        return f"(SELECT {columns} FROM json_each(%s)) AS v", [json.dumps(settled, default=sql.moment)]  # noqa: S608
    same, different = dict[str, Any](), dict[str, Any]()
    for name, values in zip(SETTLED, zip(*settled, strict=True), strict=True):
        if name != "id" and len(set(values)) == 1:
            same[name] = values[0]
        else:
            different[name] = list(values)
    constants = "".join(f", %s::{SETTLED[name]} AS {name}" for name in same)
    arrays = ", ".join(f"%s::{SETTLED[name]}[]" for name in different)
    source = f"(SELECT u.*{constants} FROM unnest({arrays}) AS u({', '.join(different)})) AS v"  # noqa: S608
    return source, [*same.values(), *different.values()]


@cache
def _outgoing_reader() -> sql.RowReader:
    slots = Outgoing.__slots__
    start = slots.index("query")
    return sql.RowReader(("m", Message, ["id", *slots[1:start]]), ("c", MessageContent, slots[start:]))


class MessageQuerySet(models.QuerySet["Message"]):
    """Operations on many messages."""

    # ---- select ----------------------------------------------------------------------------------------------------
    def pending(self) -> MessageQuerySet:
        return self.filter(status=Status.PENDING)

    def delivering(self) -> MessageQuerySet:
        return self.filter(status=Status.DELIVERING)

    def dead(self) -> MessageQuerySet:
        return self.filter(status=Status.DEAD)

    def unfinished(self) -> MessageQuerySet:
        # Not by status: SQLite cannot match an IN with parameters to the indexes of unfinished messages.
        return self.filter(finished_at=None)

    def unfinished_for(self, service_id: int) -> MessageQuerySet:
        """The service's unfinished messages, found by the index of unfinished ones.

        The ``+`` hides the service's column from SQLite's planner, which would otherwise take the index by service
        and walk through all of its history.
        """
        found = self.unfinished().extra(where=["+integrations_message.service_id = %s"], params=[service_id])
        return cast(MessageQuerySet, found)

    def due(self, now: datetime) -> MessageQuerySet:
        return self.filter(status=Status.PENDING, due_at__lte=now)

    def any_by_index(self) -> bool:
        """Like ``exists`` for due messages, but through their index: see ``queue.HAS_DUE``."""
        return self.order_by("priority", "due_at").values_list("pk").first() is not None

    def for_service(self, service: Service) -> MessageQuerySet:
        return self.filter(service=service)

    def unreplayed(self) -> MessageQuerySet:
        """Leave out messages for which another one of their lineage stands; see ``is_replayed``."""
        return self.filter(~is_replayed())

    def newest_first(self) -> MessageQuerySet:
        return self.order_by("-pk")

    def by_public_id(self, text: str) -> Message | None:
        if (parsed := identifiers.parse("msg", text)) is None:
            return None
        return self.filter(pk=parsed[0], nonce=parsed[1]).first()

    # ---- accept ----------------------------------------------------------------------------------------------------
    def accept(self, drafts: Sequence[Draft]) -> list[Message]:
        """Queue messages in one transaction; after this returns, outside another transaction, they are on disk."""
        if not drafts:
            return []
        # Inside another transaction it commits or rolls back with that one.
        with meter.timed("database", "accept"), transaction.atomic(savepoint=False):
            # Claims ask the database's clock too: by that of a web server ahead of it, messages would wait for nothing.
            now, keys = sql.fresh_keys(Message, len(drafts))
            accepted = [_accepted(draft, key, now) for draft, key in zip(drafts, keys, strict=True)]
            self._begin_lineages([draft.replay_of for draft in drafts if draft.replay_of])
            sql.append(Message, accepted)
            sql.append(MessageContent, [_content(draft, key) for draft, key in zip(drafts, keys, strict=True)])
            field_value.store(
                (key, draft.service.search_fields, draft.body)
                for draft, key in zip(drafts, keys, strict=True)
                if draft.service.search_fields
            )
            wakeup.notify()
            transaction.on_commit(partial(_count_accepted, drafts))
        messages = [Message.from_db(self.db, list(row), list(row.values())) for row in accepted]
        for message, draft in zip(messages, drafts, strict=True):
            message.service, message.endpoint, message.replay_of = draft.service, draft.endpoint, draft.replay_of
        return messages

    # ---- lineages --------------------------------------------------------------------------------------------------
    def lineage_of(self, message_id: int) -> MessageQuerySet:
        """A message and all others of its lineage."""
        lineage_id = self.filter(pk=message_id).values_list("lineage_id", flat=True).first()
        return self.filter(pk=message_id) if lineage_id is None else self.filter(lineage_id=lineage_id)

    def add_standing(self, rows: Sequence[Message]) -> None:
        """Set ``standing`` of each row for which another message of its lineage stands; see ``is_replayed``. One query
        for all rows, and none for rows without a replay."""
        lineages = {row.lineage_id for row in rows if row.lineage_id is not None}
        if not lineages:
            return
        place = Window(RowNumber(), partition_by="lineage_id", order_by=["-status", "-pk"])
        strongest = self.filter(lineage_id__any=lineages).annotate(place=place).filter(place=1)
        by_lineage = {each.lineage_id: each for each in strongest.only("nonce", "status", "finished_at", "lineage_id")}
        for row in rows:
            standing = by_lineage.get(row.lineage_id)
            row.standing = standing if standing and standing.pk != row.pk else None

    def _begin_lineages(self, originals: Sequence[Message]) -> None:
        """Let messages without a lineage be the first of theirs. The caller holds their locks."""
        if firsts := [message.pk for message in originals if message.lineage_id is None]:
            self.filter(pk__any=firsts, lineage_id=None).update(lineage_id=F("pk"))

    def without_lineage(self) -> QuerySet[Message, int]:
        """Replays without a lineage. Only their own index has this order: without it PostgreSQL reads the table."""
        return self.filter(replay_of__isnull=False, lineage_id=None).order_by("created_at").values_list("pk", flat=True)

    def complete_lineages(self) -> None:
        """Add the lineages that are missing: see ``COMPLETE_LINEAGES``. Without any it reads one empty index."""
        if self.without_lineage().first() is not None:
            with connection.cursor() as cursor:
                cursor.execute(COMPLETE_LINEAGES)

    # ---- claim -----------------------------------------------------------------------------------------------------
    def parked(self) -> MessageQuerySet:
        return self.filter(parked=True)

    def sound(self) -> MessageQuerySet:
        """Messages whose last claim was not lost. The others are claimed alone, so that a message that crashes its
        worker takes no other message along."""
        return self.filter(losses=0)

    def suspect(self) -> MessageQuerySet:
        return self.filter(losses__gt=0)

    def unexpired(self, now: datetime) -> MessageQuerySet:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=now))

    def first_due_since(self, moment: datetime) -> MessageQuerySet:
        """By the time from which a deadline counts, the later of acceptance and schedule."""
        return self.filter(Q(created_at__gte=moment) | Q(deliver_at__gte=moment))

    def first_due_before(self, moment: datetime) -> MessageQuerySet:
        return self.filter(Q(created_at__lt=moment) & (Q(deliver_at=None) | Q(deliver_at__lt=moment)))

    def unlocked(self, ids: Sequence[int]) -> set[int]:
        """Lock those of ``ids`` that no other transaction has locked. Deleted messages are among them: no transaction
        holds them up."""
        these = self.filter(pk__any=ids).order_by("pk")
        free = set(these.select_for_update(skip_locked=True).values_list("pk", flat=True))
        locked = set(these.values_list("pk", flat=True)) - free
        return set(ids) - locked

    def claim(self, ids: Sequence[int], *, worker_id: int, now: datetime) -> dict[int, Priority]:
        """PENDING → DELIVERING for one worker, for messages that are still due; returns the claimed ones. The caller
        holds the locks of their services."""
        at = sql.moment(now)
        with sql.prepared() as cursor:
            cursor.execute(CLAIM.format(these=sql.is_any("id")), [worker_id, at, sql.array(ids), at])
            return {pk: Priority(priority) for pk, priority in cursor.fetchall()}

    def outgoing(self, ids: Sequence[int], *, worker_id: int) -> dict[int, Outgoing]:
        """The messages of ``ids`` that the worker has claimed, with their content, by id."""
        reader = _outgoing_reader()
        statement = OUTGOING.format(columns=reader.columns, these=sql.is_any("m.id"))
        with sql.prepared() as cursor:
            cursor.execute(statement, [sql.array(ids), worker_id])
            return {row[0]: Outgoing(*reader.read(row)) for row in cursor.fetchall()}

    def mark_probes(self, ids: Sequence[int], generation: int) -> None:
        """Mark claims as a half-open breaker's probes: the number of probes in flight is counted from these rows."""
        self.filter(pk__any=ids).update(probe_generation=generation)

    def held_by(self, worker_id: int) -> MessageQuerySet:
        return self.filter(status=Status.DELIVERING, worker_id=worker_id)

    # ---- leave a claim ---------------------------------------------------------------------------------------------
    def give_back(self, ids: Sequence[int], *, worker_id: int, now: datetime) -> int:
        """DELIVERING → PENDING for claims that were never sent: no call was made, so nothing is counted."""
        return self.held_by(worker_id).filter(pk__any=ids).update(**_pending(due_at=now))

    def settle(self, settled: Sequence[Settled]) -> None:
        """End the claims after their calls, in one statement; the caller has locked and fenced the rows."""
        if not settled:
            return
        source, parameters = _settled_source(settled)
        with sql.prepared() as cursor:
            cursor.execute(SETTLE.format(source=source), parameters)

    def settle_as(self, ids: Sequence[int], *, changes: dict[str, Any]) -> int:
        """End the claims of ``ids`` with the same changes for all; the caller has locked and fenced the rows."""
        return self.delivering().filter(pk__any=ids).update(**changes)

    # ---- waiting ---------------------------------------------------------------------------------------------------
    def park(self, ids: Sequence[int]) -> int:
        """Make messages wait, not due, until the earlier message of their ordering key is finished."""
        return self.filter(pk__any=ids, status=Status.PENDING).update(parked=True, due_at=None)

    def unpark(self) -> int:
        natural = Case(
            When(held=True, then=Value(None)), default=_natural_due(), output_field=models.DateTimeField(null=True)
        )
        return self.parked().update(parked=False, due_at=natural)

    def promote(self, keys: Iterable[tuple[int, str]]) -> int:
        """Make the head of each (service id, ordering key) due again, if it was parked."""
        keys = {(service_id, key) for service_id, key in keys if key}
        if not keys:
            return 0
        by_service: dict[int, list[str]] = {}
        for service_id, key in sorted(keys):
            by_service.setdefault(service_id, []).append(key)
        heads: list[int] = []
        for service_id, names in by_service.items():
            heads += (
                self.unfinished()
                .filter(service_id=service_id, ordering_key__any=names)
                .values("ordering_key")
                .annotate(head=Min("pk"))
                .values_list("head", flat=True)
            )
        return self.filter(pk__any=heads).unpark()

    def hold(self) -> int:
        """Make pending messages wait for retry-now or cancel."""
        return self.filter(status=Status.PENDING).update(held=True, due_at=None)

    def held_by_restore(self, restored_at: datetime) -> MessageQuerySet:
        """Those that a restore has held and that no operator has released since."""
        return self.unfinished().filter(held=True, created_at__lte=restored_at)

    def retry_now(self, now: datetime, priority: Priority = Priority.FIRST) -> int:
        """Make pending messages due: without schedule, retry time or hold, and outside the retry budget by priority."""
        time = models.DateTimeField(null=True)
        return self.filter(status=Status.PENDING).update(
            held=False,
            retry_at=None,
            # A schedule that has passed stays: the deadline counts from it.
            deliver_at=Case(When(deliver_at__gt=now, then=Value(now)), default=F("deliver_at"), output_field=time),
            priority=priority,
            due_at=Case(When(parked=True, then=Value(None)), default=Value(now), output_field=time),
        )

    # ---- ends ------------------------------------------------------------------------------------------------------
    def cancel(self, now: datetime) -> list[int]:
        """PENDING → CANCELLED; returns the ids of the cancelled messages."""
        return self._finish(Status.CANCELLED, now)

    def bury(self, reason: DeadReason, now: datetime) -> list[int]:
        """PENDING → DEAD without another call."""
        return self._finish(Status.DEAD, now, dead_reason=reason)

    def _finish(self, status: Status, now: datetime, **changes: Any) -> list[int]:
        with transaction.atomic():
            # An operator's cancellation waits for a locked message; the workers bury it at their next look.
            waits = status == Status.CANCELLED
            waiting = self.filter(status=Status.PENDING).select_for_update(skip_locked=not waits)
            messages = list(waiting.values_list("pk", "service_id", "ordering_key"))
            ids = [pk for pk, _, _ in messages]
            done = Message.objects.filter(pk__any=ids, status=Status.PENDING)
            done.update(status=status, finished_at=now, due_at=None, parked=False, held=False, **changes)
            Message.objects.promote((service_id, key) for _, service_id, key in messages)
            counted = Counter(service_id for _, service_id, _ in messages)
            if status == Status.DEAD:
                tally.add({service_id: tally.Counts(dead=count) for service_id, count in counted.items()}, now)
                return ids
            for service_id, count in counted.items():
                # The event stream counts from the tallies, which have no column for this: see history/event_stream.py.
                facts = {status.value: count}
                Service(pk=service_id).events.create(type=MESSAGES_ENDED, at=now, facts=facts)
        return ids

    def expired(self, now: datetime) -> MessageQuerySet:
        return self.filter(status=Status.PENDING, expires_at__lte=now)


def merge_endpoint(endpoint: Endpoint | None, query: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """A draft's ``query``, ``headers`` and ``own``: the message's values override its endpoint's, and are stored apart
    too, so that a replay can resolve the endpoint again. ``own`` also tells a message of a deleted endpoint from a
    message to a path."""
    if endpoint is None:
        return {"query": query, "headers": headers}
    own = {"query": query, "headers": headers}
    return {"query": {**endpoint.query, **query}, "headers": {**endpoint.headers, **headers}, "own": own}


def _accepted(draft: Draft, key: int, now: datetime) -> dict[str, Any]:
    """The row of a new message, with every column in the model's order."""
    return {
        **_blank(),
        "id": key,
        "nonce": identifiers.fresh_nonce(),
        "service_id": draft.service.pk,
        "endpoint_id": draft.endpoint and draft.endpoint.pk,
        "method": draft.method,
        "path": draft.path,
        "tags": draft.tags,
        "priority": draft.priority,
        "due_at": max(now, draft.deliver_at) if draft.deliver_at else now,
        "ordering_key": draft.ordering_key,
        "replay_of_id": draft.replay_of and draft.replay_of.pk,
        "lineage_id": draft.lineage_id,
        "webhook_id": draft.webhook_id,
        "operation_id": draft.operation_id,
        "created_at": now,
        "deliver_at": draft.deliver_at,
        "expires_at": draft.expires_at,
    }


@cache
def _blank() -> dict[str, Any]:
    return {field.attname: field.get_default() for field in Message._meta.concrete_fields}


def _content(draft: Draft, key: int) -> dict[str, Any]:
    return {
        "message_id": key,
        "query": draft.query,
        "headers": draft.headers,
        "own": draft.own,
        "content_type": draft.content_type,
        "body": draft.body,
        "created_by": draft.created_by or None,
    }


def _natural_due() -> Coalesce:
    """When a message is due by itself: its retry time, else its schedule, else its acceptance."""
    return Coalesce(F("retry_at"), F("deliver_at"), F("created_at"))


def _pending(**changes: Any) -> dict[str, Any]:
    """The changes that return a claimed message to PENDING."""
    return {"status": Status.PENDING, "worker_id": None, "claimed_at": None, "probe_generation": None, **changes}


def back_to_pending(due_at: datetime | Case, **changes: Any) -> dict[str, Any]:
    return _pending(due_at=due_at, **changes)


def finished_as(status: Status, now: datetime, **changes: Any) -> dict[str, Any]:
    """The changes that end a claimed message."""
    return {
        "status": status,
        "worker_id": None,
        "claimed_at": None,
        "probe_generation": None,
        "due_at": None,
        "retry_at": None,
        "finished_at": now,
        **changes,
    }


def times_of(times: dict[int, datetime]) -> Case:
    """A different time for each row in one UPDATE (bulk_update was measured four to five times slower)."""
    field = models.DateTimeField()
    return Case(*(When(pk=pk, then=Value(time, field)) for pk, time in times.items()), output_field=field)


class Message(Named, models.Model):
    """One message: the small row that workers claim; its content is in ``MessageContent``."""

    nonce = models.BigIntegerField(default=identifiers.fresh_nonce, editable=False)
    service = models.ForeignKey(Service, on_delete=models.CASCADE, db_index=False, related_name="messages")
    endpoint = models.ForeignKey(Endpoint, null=True, on_delete=models.SET_NULL, db_index=False, related_name="+")
    method = models.CharField(max_length=20)
    path = models.CharField(max_length=2000)
    tags = models.JSONField(default=dict)

    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    dead_reason = models.CharField(max_length=11, blank=True)
    priority = models.SmallIntegerField(choices=Priority.choices, default=Priority.FIRST)
    due_at = models.DateTimeField(null=True)
    held = models.BooleanField(default=False)
    parked = models.BooleanField(default=False)
    ordering_key = models.CharField(max_length=200, blank=True)

    attempts = models.PositiveIntegerField(default=0)  # used attempts, for the retry policy
    calls = models.PositiveIntegerField(default=0)  # all calls, with lost ones: the number of the newest attempt row
    losses = models.PositiveSmallIntegerField(default=0)  # claims lost in a row; with one or more it is claimed alone
    worker_id = models.BigIntegerField(null=True)
    claimed_at = models.DateTimeField(null=True)
    probe_generation = models.IntegerField(null=True)

    last_status_code = models.PositiveSmallIntegerField(null=True)
    last_fault = models.CharField(max_length=11, blank=True)
    last_detail = models.CharField(max_length=500, blank=True)
    # The group of its last failure. Without a constraint, so that a delivery does not check it.
    failure = models.ForeignKey(
        "Failure", null=True, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )

    replay_of = models.ForeignKey("self", null=True, on_delete=models.SET_NULL, db_index=False, related_name="replays")
    # The first message's id, in that message too, once it has a replay. It stays when the first message is deleted.
    lineage_id = models.BigIntegerField(null=True)
    webhook_id = models.CharField(max_length=40, blank=True)  # of the first message, in an unedited replay
    operation_id = models.BigIntegerField(null=True)

    created_at = models.DateTimeField()
    deliver_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    retry_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    standing: Message | None = None  # another message of its lineage that stands for it, after ``add_standing``

    objects: ClassVar[MessageQuerySet] = MessageQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = (
            # due messages of a service, in the order of claims
            models.Index(
                fields=["service", "priority", "due_at", "id"],
                name="message_due",
                condition=Q(status="pending", due_at__isnull=False),
            ),
            # messages in flight: a service's concurrency, a worker's claims
            models.Index(fields=["worker_id"], name="message_claimed", condition=Q(status="delivering")),
            models.Index(fields=["service"], name="message_in_flight", condition=Q(status="delivering")),
            # unfinished messages: of a service, and earlier ones of an ordering key
            models.Index(
                fields=["service", "ordering_key", "id"],
                name="message_unfinished_keyed",
                condition=Q(finished_at__isnull=True),
            ),
            # messages that are claimed alone, and parked messages: few rows, read often
            models.Index(fields=["due_at"], name="message_suspect", condition=Q(status="pending", losses__gt=0)),
            models.Index(fields=["service", "ordering_key"], name="message_parked", condition=Q(parked=True)),
            models.Index(
                fields=["expires_at"], name="message_expiring", condition=Q(status="pending", expires_at__isnull=False)
            ),
            # failed messages by group; few messages fail, so few rows pay for this index
            models.Index(fields=["failure", "-id"], name="message_failure", condition=Q(failure__isnull=False)),
            # few messages are replays, so few rows pay for this index
            models.Index(fields=["replay_of"], name="message_replays", condition=Q(replay_of__isnull=False)),
            models.Index(fields=["lineage_id"], name="message_lineage", condition=Q(lineage_id__isnull=False)),
            # almost always empty: see COMPLETE_LINEAGES
            models.Index(
                fields=["created_at"],
                name="message_without_lineage",
                condition=Q(lineage_id__isnull=True, replay_of__isnull=False),
            ),
            # replays made by an operation: few, too
            models.Index(fields=["operation_id", "-id"], name="message_made", condition=Q(operation_id__isnull=False)),
            # lists for people
            models.Index(fields=["service", "-id"], name="message_of_service"),
            models.Index(fields=["-id"], name="message_unfinished", condition=Q(finished_at__isnull=True)),
            models.Index(fields=["service", "-id"], name="message_dead", condition=Q(status="dead")),
        )

    def __str__(self) -> str:
        return self.public_id

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def next_attempt_at(self) -> datetime | None:
        return self.due_at if self.status == Status.PENDING else None

    @property
    def last(self) -> dict[str, Any]:
        return {
            "status_code": self.last_status_code,
            "fault": self.last_fault or None,
            "detail": self.last_detail,
        }

    def cancel(self) -> None:
        """Cancel a pending message. Raises Conflict in any other status."""
        if not Message.objects.filter(pk=self.pk).cancel(database_now()):
            self.refresh_from_db()
            raise Conflict(f"it is {self.status}; only a pending message can be cancelled")
        self.refresh_from_db()

    def retry_now(self) -> None:
        """Make a pending message due: ends its schedule, retry time and hold, but no pause, breaker, rate or order.

        Raises Conflict in any other status.
        """
        changed = Message.objects.filter(pk=self.pk).retry_now(database_now())
        self.refresh_from_db()
        if not changed:
            raise Conflict(f"it is {self.status}; only a pending message can be retried now")

    def replay(
        self,
        *,
        current: bool = False,
        body: bytes | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        endpoint: Endpoint | None = None,
    ) -> tuple[Message, bool]:
        """Queue a new message with ``replay_of``; returns it and whether it is new. While a replay in its lineage is
        unfinished, that one is returned. ``current`` resolves the endpoint again. Raises Conflict while this message is
        unfinished."""
        with transaction.atomic():
            Message.objects.complete_lineages()
            # The locks turn two clicks at once, on any messages of the lineage, into one replay.
            locked = Message.objects.lineage_of(self.pk).order_by("pk").select_for_update()
            original = next((message for message in locked if message.pk == self.pk), None)
            if original is None:
                raise Conflict("it is no longer kept")
            if not original.is_finished:
                raise Conflict(f"it is {original.status}; only a finished message can be replayed")
            if original.service.is_being_deleted:
                raise Conflict(f"its service {original.service.name} is being deleted")
            # Read again: a replay that was committed while this waited for the locks is not among the locked.
            lineage = Message.objects.lineage_of(self.pk)
            if running := lineage.filter(status__in=UNFINISHED).order_by("pk").first():
                return running, False
            draft = original.as_replay(
                current=current, body=body, content_type=content_type, headers=headers, endpoint=endpoint
            )
            return Message.objects.accept([draft])[0], True

    def as_replay(
        self,
        *,
        current: bool = False,
        body: bytes | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        endpoint: Endpoint | None = None,
        priority: Priority = Priority.FIRST,
        operation_id: int | None = None,
    ) -> Draft:
        """The draft of its replay: values that are not given stay as they are. Raises Conflict if ``current`` needs an
        endpoint that was deleted."""
        content = self.content
        if current and endpoint is None and self.endpoint is None and content.own:
            raise Conflict("its endpoint was deleted; replay it as it is, or to another endpoint")
        target = endpoint or (self.endpoint if current else None)
        edited = body is not None or headers is not None or endpoint is not None
        own = content.own or {"query": content.query, "headers": content.headers}
        own = own if headers is None else {**own, "headers": headers}
        if target:
            parts = merge_endpoint(target, **own)
        else:
            sent = content.headers if headers is None else headers
            parts = {"query": content.query, "headers": sent, "own": content.own and own}
        method, path = (target.method, target.path) if target else (self.method, self.path)
        before = (self.method, self.path, content.query, content.headers)
        edited = edited or (method, path, parts["query"], parts["headers"]) != before
        return Draft(
            service=self.service,
            endpoint=endpoint or self.endpoint,
            method=method,
            path=path,
            **parts,
            body=body if body is not None else bytes(content.body),
            content_type=content_type or content.content_type,
            ordering_key=self.ordering_key,
            tags=self.tags,
            priority=priority,
            replay_of=self,
            webhook_id="" if edited else self.wire_id,
            operation_id=operation_id,
        )


class MessageContent(models.Model):
    """The content of a message, fixed at acceptance, apart from the row that workers claim and update."""

    message = models.OneToOneField(Message, on_delete=models.CASCADE, primary_key=True, related_name="content")
    query = models.JSONField(default=dict)
    headers = models.JSONField(default=dict)
    own = models.JSONField(default=dict)  # query and headers without the endpoint's, if it is for an endpoint
    content_type = models.CharField(max_length=200, blank=True)
    body = models.BinaryField(default=bytes)
    created_by = models.CharField(max_length=200, null=True)  # null: adding it rewrites no table

    def __str__(self) -> str:
        return f"content of {self.message_id}"


def _count_accepted(drafts: Sequence[Draft]) -> None:
    for (service_id, source), number in Counter((draft.service.pk, draft.source) for draft in drafts).items():
        meter.count("accepted", service_id, source, number)


def is_replayed() -> Q:
    """Whether another message of its lineage stands for a message: an unfinished one, else the newest delivered one,
    else the newest dead one, else the newest cancelled one. So at most one message of a lineage is left to replay.

    The statuses have this order in the alphabet: cancelled, dead, delivered, delivering, pending.
    """
    others = Message.objects.filter(lineage_id__isnull=False, lineage_id=OuterRef("lineage_id"))
    stronger = Q(status__gt=OuterRef("status")) | Q(status=OuterRef("status"), pk__gt=OuterRef("pk"))
    # The first condition spares messages that have no replay, almost all, the look into the index.
    return Q(lineage_id__isnull=False) & Q(Exists(others.filter(stronger)))


def parked_without_predecessor() -> QuerySet[Message, int]:
    """Parked messages without an unfinished earlier one of their key: no settlement will make them due again."""
    return Message.objects.parked().filter(~Exists(_ahead())).values_list("pk", flat=True)


def _ahead() -> MessageQuerySet:
    return Message.objects.unfinished().filter(
        service_id=OuterRef("service_id"), ordering_key=OuterRef("ordering_key"), pk__lt=OuterRef("pk")
    )


def behind_their_key(ids: Sequence[int]) -> QuerySet[Message, int]:
    """Those of these messages that have an unfinished earlier message of their ordering key."""
    ordered = Message.objects.filter(pk__any=ids).exclude(ordering_key="")
    return ordered.filter(Exists(_ahead())).values_list("pk", flat=True)
