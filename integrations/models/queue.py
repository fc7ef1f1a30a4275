"""Due messages and calls in flight, in SQL: the queries of every claim, each one statement for all services.

The ORM cannot express "the first few of each": a query for every service took 250 µs of CPU, and a claim may look at
hundreds. The index ``message_due`` finds the due messages, so a claim costs the same with ten messages waiting as with
a million.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.db import connection
from django.utils import timezone

from integrations.models import sql
from integrations.models.attempt import Attempt
from integrations.models.clock import database_now
from integrations.models.message import Priority

# Not EXISTS, and ordered: for EXISTS PostgreSQL may read all due messages once; without an order it may look for any
# due message through the table, which begins with messages that were delivered long ago.
HAS_DUE = """(SELECT 1 FROM integrations_message m WHERE m.service_id = r.service_id AND m.priority = {priority}
    AND m.status = 'pending' AND m.due_at <= {{now}} ORDER BY m.due_at LIMIT 1) IS NOT NULL"""

# Services that are not paused and not throttled, with a breaker that is not open or is due to probe; the least recently
# served first.
SERVING = f"""
SELECT {{now}}, service_id, {", ".join(f"due_{priority}" for priority in Priority.values)} FROM (
    SELECT r.service_id, r.turn, {", ".join(f"{HAS_DUE.format(priority=p)} AS due_{p}" for p in Priority.values)}
    FROM integrations_runtime r JOIN integrations_service s ON s.id = r.service_id
    WHERE s.status = 'active' AND (r.throttled_until IS NULL OR r.throttled_until <= {{now}})
        AND (r.state <> 'open' OR r.retry_at <= {{now}})
) AS serving WHERE {" OR ".join(f"due_{priority}" for priority in Priority.values)}
ORDER BY turn LIMIT %s
"""  # noqa: S608 - names and numbers of ours

FENCE = "SELECT id, worker_id, calls FROM integrations_message WHERE status = 'delivering' AND {these}"
FENCE_AND_KEYS = """SELECT id, worker_id, calls, nextval('integrations_attempt_id_seq'),
    CAST(EXTRACT(epoch FROM statement_timestamp()) AS float8)
FROM integrations_message WHERE status = 'delivering' AND id = ANY(%s::bigint[]) FOR UPDATE"""

LOAD = """SELECT service_id, probe_generation, count(*) FROM integrations_message
WHERE status = 'delivering' AND {of_services} GROUP BY service_id, probe_generation"""

FIRST_OF = """SELECT * FROM (
    SELECT {place} AS place, {due}, id FROM integrations_message
    WHERE service_id = %s AND priority = {priority} AND status = 'pending' AND due_at <= %s AND losses = 0
        AND (expires_at IS NULL OR expires_at > %s){in_time}
    ORDER BY due_at, id LIMIT %s
) AS part_{place}"""

IN_TIME = " AND (created_at >= %s OR deliver_at >= %s)"
PARTS_AT_ONCE = 400  # SQLite takes 500 parts in one statement


class Want(NamedTuple):
    """A number of messages wanted of one service and priority; a deadline leaves those first due after ``since``."""

    service_id: int
    priority: int
    limit: int
    since: datetime | None = None


class Fence(NamedTuple):
    """A claim's worker, the number of earlier calls, and the id for the attempt of this call."""

    worker_id: int
    calls: int
    attempt_id: int


def serving(limit: int) -> tuple[datetime, dict[int, list[Priority]]]:
    """The time by the database's clock, and the services that may be called now and have due messages: in the order of
    their turns, each with the priorities of its due messages."""
    now = timezone.now()
    by_database = connection.vendor == "postgresql"  # its clock in the same statement: one query less
    # Text and no parameters on SQLite: the time stands there five times, and comes back with each row.
    clock = "statement_timestamp()" if by_database else f"'{sql.moment(now)}'"
    due: dict[int, list[Priority]] = {}
    with sql.prepared() as cursor:
        cursor.execute(SERVING.format(now=clock), [limit])
        for moment, service_id, *flags in cursor.fetchall():
            due[service_id] = [priority for priority, is_due in zip(Priority, flags, strict=True) if is_due]
            now = moment.astimezone(UTC) if by_database else now
    return now, due


def fence(ids: Sequence[int]) -> tuple[datetime, dict[int, Fence]]:
    """Lock those of ``ids`` that are in flight; returns the time by the database's clock, and their fences."""
    parameters = [sql.array(ids)]
    with sql.prepared() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(FENCE_AND_KEYS, parameters)
            if not (found := cursor.fetchall()):
                return database_now(), {}
            now = datetime.fromtimestamp(found[0][-1], UTC)
            return now, {pk: Fence(worker, calls, key) for pk, worker, calls, key, _ in found}
        cursor.execute(FENCE.format(these=sql.is_any("id")), parameters)
        found = cursor.fetchall()
    now, keys = sql.fresh_keys(Attempt, len(found))
    return now, {pk: Fence(worker, calls, key) for (pk, worker, calls), key in zip(found, keys, strict=True)}


def load(service_ids: Iterable[int]) -> dict[int, dict[int | None, int]]:
    """The number of claims in flight, by service and by the breaker generation that they probe for."""
    found: dict[int, dict[int | None, int]] = defaultdict(dict)
    with sql.prepared() as cursor:
        cursor.execute(LOAD.format(of_services=sql.is_any("service_id")), [sql.array(service_ids)])
        for service_id, generation, calls in cursor.fetchall():
            found[service_id][generation] = calls
    return found


def first_of(wants: Sequence[Want], now: datetime) -> list[list[int]]:
    """The ids for each want, the longest due first."""
    found: list[list[int]] = [[] for _ in wants]
    # Only to sort by: Python datetimes would cost as much as the rest of this function.
    due = "CAST(EXTRACT(epoch FROM due_at) AS float8)" if connection.vendor == "postgresql" else "due_at"
    for start in range(0, len(wants), PARTS_AT_ONCE):
        parts, parameters = [], list[Any]()
        for place, want in enumerate(wants[start : start + PARTS_AT_ONCE], start):
            in_time = IN_TIME if want.since else ""
            parts.append(FIRST_OF.format(place=place, due=due, in_time=in_time, priority=want.priority))
            since = [sql.moment(want.since)] * 2 if want.since else []
            parameters += [want.service_id, sql.moment(now), sql.moment(now), *since, want.limit]
        with sql.prepared() as cursor:
            cursor.execute(" UNION ALL ".join(parts), parameters)
            for place, _, pk in sorted(cursor.fetchall()):
                found[place].append(pk)
    return found
