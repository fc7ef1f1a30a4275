"""What is due, in SQL: the two questions that every claim asks, each one statement for all services.

The ORM has no word for "the first few of each": a query for every service took 250 µs of CPU, and a claim may look at
hundreds. Both go by the index ``message_due``, so they cost the same with ten messages waiting as with a million.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection

from integrations.models.message import Priority

HAS_DUE = """EXISTS (SELECT 1 FROM integrations_message m WHERE m.service_id = r.service_id AND m.priority = {priority}
    AND m.status = 'pending' AND m.due_at <= %s)"""

# Services that are not paused, not throttled and whose breaker is not open for longer; the least lately served first.
SERVING = f"""
SELECT service_id, {", ".join(f"due_{priority}" for priority in Priority.values)} FROM (
    SELECT r.service_id, r.turn, {", ".join(f"{HAS_DUE.format(priority=p)} AS due_{p}" for p in Priority.values)}
    FROM integrations_runtime r JOIN integrations_service s ON s.id = r.service_id
    WHERE s.status = 'active' AND (r.throttled_until IS NULL OR r.throttled_until <= %s)
        AND (r.state <> 'open' OR r.retry_at <= %s)
) AS serving WHERE {" OR ".join(f"due_{priority}" for priority in Priority.values)}
ORDER BY turn LIMIT %s
"""  # noqa: S608 - names and numbers of ours

FIRST_OF = """SELECT * FROM (
    SELECT {place} AS place, due_at, id FROM integrations_message
    WHERE service_id = {service_id} AND priority = {priority} AND status = 'pending' AND due_at <= %s AND losses = 0
        AND (expires_at IS NULL OR expires_at > %s){in_time}
    ORDER BY due_at, id LIMIT {limit}
) AS part_{place}"""

IN_TIME = " AND (created_at >= %s OR deliver_at >= %s)"
PARTS_AT_ONCE = 400  # SQLite takes 500 parts in one statement


class Want(NamedTuple):
    """How many messages of one service and priority are wanted; ``since`` is what a deadline leaves."""

    service_id: int
    priority: int
    limit: int
    since: datetime | None = None


def serving(now: datetime, limit: int) -> dict[int, list[Priority]]:
    """The services that may be called now and have something due, in their turn, and of which priorities."""
    with connection.cursor() as cursor:
        cursor.execute(SERVING, [*[_moment(now)] * (len(Priority) + 2), limit])
        return {
            service_id: [priority for priority, is_due in zip(Priority, flags, strict=True) if is_due]
            for service_id, *flags in cursor.fetchall()
        }


def first_of(wants: Sequence[Want], now: datetime) -> list[list[int]]:
    """For each want the ids that it gets, the ones due longest first."""
    found: list[list[int]] = [[] for _ in wants]
    for start in range(0, len(wants), PARTS_AT_ONCE):
        parts, parameters = [], list[Any]()
        for place, want in enumerate(wants[start : start + PARTS_AT_ONCE], start):
            in_time = IN_TIME if want.since else ""
            parts.append(FIRST_OF.format(place=place, in_time=in_time, **want._asdict()))
            parameters += [_moment(now)] * 2 + ([_moment(want.since)] * 2 if want.since else [])
        with connection.cursor() as cursor:
            cursor.execute(" UNION ALL ".join(parts), parameters)
            for place, _, pk in sorted(cursor.fetchall()):
                found[place].append(pk)
    return found


def _moment(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)
