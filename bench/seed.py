"""Fills the configured database with finished messages, as long use would: `python -m bench.seed --messages N`.

Contents, attempts and the counters of each minute come with them, spread over services, statuses and the last days:
few services have most of the messages, 96 % were delivered, 3 % are dead, 1 % was cancelled, one in twelve needed a
retry. `--pending N` adds messages that are due now, of a service that is paused. The database makes the rows itself
(INSERT … SELECT), so that 5 million take minutes; needs a migrated database that no other process uses.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import django

if TYPE_CHECKING:
    from django.db import models

BATCH = 250_000
SERVICES = 20
DAYS = 30
BODY = 300  # bytes
BACKLOG = "backlog"  # the service of the pending messages


def main() -> None:
    options = _options()
    django.setup()
    began = time.monotonic()
    if options.messages:
        seed(options.messages, services=options.services, days=options.days, body=options.body)
    if options.pending:
        seed_pending(options.pending, body=options.body)
    analyze()
    print(f"{options.messages:,} finished and {options.pending:,} due messages in {time.monotonic() - began:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.seed", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=0, help="finished ones")
    parser.add_argument("--pending", type=int, default=0, help="due ones")
    parser.add_argument("--services", type=int, default=SERVICES)
    parser.add_argument("--days", type=float, default=DAYS, help="the span of their acceptance")
    parser.add_argument("--body", type=int, default=BODY, help="bytes of each body, about")
    return parser.parse_args()


def seed(messages: int, *, services: int = SERVICES, days: float = DAYS, body: int = BODY) -> None:
    """Adds so many finished messages."""
    from integrations.models import Attempt, Message, MessageContent

    ids = [_service(f"seeded-{number:02}", "active") for number in range(services)]
    end = time.time() - 3600  # the newest is an hour old
    start, step = end - days * 86_400, days * 86_400 / max(1, messages)
    words = _Words()
    tried_before = words.greatest("integrations_attempt")
    for first in range(0, messages, BATCH):
        count = min(BATCH, messages - first)
        begins_at = words.greatest("integrations_message")
        # Fixed arithmetic in place of chance: the same rows every time, on both databases.
        created = f"{start:f} + n * {step:f}"
        ended = f"{created} + 0.2 + n % 13 * n % 7"
        _insert(
            Message,
            f"FROM ({words.numbers(first, count)}) AS numbers",
            nonce="(n * 1103515245 + 12345) % 2147483648",
            service_id=f"CASE n % {services} % (1 + n * 31 % {services}) "
            + " ".join(f"WHEN {place} THEN {pk}" for place, pk in enumerate(ids))
            + " END",
            method="'POST'",
            path="'/orders/' || (n % 1000)",  # SQLite would join before it divides
            tags=words.json("""'{"customer": "c' || (n % 5000) || '"}'"""),
            status="CASE WHEN n % 100 < 96 THEN 'delivered' WHEN n % 100 < 99 THEN 'dead' ELSE 'cancelled' END",
            dead_reason="CASE WHEN n % 100 BETWEEN 96 AND 98 THEN 'attempts' ELSE '' END",
            attempts=(
                calls := "CASE WHEN n % 100 >= 99 THEN 0 WHEN n % 100 >= 96 THEN 5 WHEN n % 12 = 0 THEN 2 ELSE 1 END"
            ),
            calls=calls,
            last_status_code="CASE WHEN n % 100 < 96 THEN 200 WHEN n % 100 < 99 THEN 503 END",
            last_fault="CASE WHEN n % 100 BETWEEN 96 AND 98 THEN 'status' ELSE '' END",
            created_at=words.moment(created),
            finished_at=words.moment(ended),
        )
        fresh = f"FROM integrations_message m WHERE m.id > {begins_at}"
        _insert(MessageContent, fresh, **_content(words, body))
        tried = f"JOIN ({words.numbers(1, 5)}) AS tries ON tries.n <= m.calls WHERE m.id > {begins_at}"
        good = "m.status = 'delivered' AND tries.n = m.calls"
        _insert(
            Attempt,
            f"FROM integrations_message m {tried}",
            nonce="(m.id * 1103515245 + tries.n) % 2147483648",
            message_id="m.id",
            service_id="m.service_id",
            number="tries.n",
            trigger="CASE WHEN tries.n = 1 THEN 'first' ELSE 'retry' END",
            worker_id="1",
            started_at="m.created_at",
            duration="0.02 + m.id % 89 * 0.004",
            outcome=f"CASE WHEN {good} THEN 'succeeded' ELSE 'failed' END",
            fault=f"CASE WHEN {good} THEN '' ELSE 'status' END",
            status_code=f"CASE WHEN {good} THEN 200 ELSE 503 END",
            method="m.method",
            url="'https://api.example.com' || m.path",
            request_headers=words.json(
                """'[["Content-Type", "application/json"], ["webhook-id", "msg_' || m.id || '"]]'"""
            ),
            request_size=str(body),
            response_headers=words.json("""'[["Content-Type", "application/json"], ["Server", "nginx"]]'"""),
            response_body=words.blob("""'{"ok": true}'"""),
            response_size="12",
        )
        words.commit()
        print(f"{first + count:,} messages", flush=True)
    _tally(words, tried_before)


def seed_pending(messages: int, *, body: int = BODY) -> None:
    """Adds messages that are due, of a paused service."""
    from integrations.models import Message, MessageContent

    service_id, words, now = _service(BACKLOG, "paused"), _Words(), time.time()
    begins_at = words.greatest("integrations_message")
    _insert(
        Message,
        f"FROM ({words.numbers(0, messages)}) AS numbers",
        nonce="(n * 1103515245 + 12345) % 2147483648",
        service_id=str(service_id),
        method="'POST'",
        path="'/orders'",
        status="'pending'",
        created_at=(due := words.moment(f"{now - 60:f} + n * {50 / messages:f}")),
        due_at=due,
    )
    _insert(MessageContent, f"FROM integrations_message m WHERE m.id > {begins_at}", **_content(words, body))
    words.commit()


def analyze() -> None:
    """Tells the database's planner about all the rows, and waits until they are on disk."""
    from django.db import connection

    with connection.cursor() as cursor:
        for statement in ("VACUUM ANALYZE", "CHECKPOINT") if connection.vendor == "postgresql" else ("ANALYZE",):
            cursor.execute(statement)
    os.sync()


def _service(name: str, status: str) -> int:
    from integrations.models import Service

    service, _ = Service.objects.get_or_create(
        name=name, defaults={"base_url": "http://127.0.0.1:9", "status": status, "limits": {"concurrency": 500}}
    )
    return service.pk


def _content(words: _Words, body: int) -> dict[str, str]:
    filling = words.repeated(max(0, body - 40))
    return {
        "message_id": "m.id",
        "content_type": "'application/json'",
        "body": words.blob(f"""'{{"n": ' || m.id || ', "event": "order.created", "text": "' || {filling} || '"}}'"""),
    }


def _tally(words: _Words, tried_before: int) -> None:
    """The counters of each service and minute, counted from the attempts once; those that are there stay."""
    from integrations.history import rollups
    from integrations.models import Tally, TallyDay, TallyHour
    from integrations.models.tally import COARSER, DURATIONS, FINER

    succeeded = "CASE WHEN a.outcome = 'succeeded' THEN 1 ELSE 0 END"
    _insert(
        Tally,
        f"FROM integrations_attempt a WHERE a.id > {tried_before} GROUP BY 1, 2 ON CONFLICT DO NOTHING",
        service_id="a.service_id",
        start=words.minute("a.started_at"),
        calls="count(*)",
        failures=f"count(*) - sum({succeeded})",
        retries="sum(CASE WHEN a.number > 1 THEN 1 ELSE 0 END)",
        delivered=f"sum({succeeded})",
        dead="sum(CASE WHEN a.number = 5 THEN 1 ELSE 0 END)",
        seconds="sum(a.duration)",
        **{
            name: f"sum(CASE WHEN a.duration > {above} AND a.duration <= {bound} THEN 1 ELSE 0 END)"
            for columns, chosen in ((COARSER, set(COARSER)), (DURATIONS, FINER))
            for (name, bound), above in zip(columns.items(), (-1.0, *columns.values()), strict=False)
            if bound < math.inf and name in chosen
        },
    )
    words.commit()
    TallyHour.objects.all().delete()  # computed again: these minutes are older than the existing ones
    TallyDay.objects.all().delete()
    rollups.roll()


def _insert(model: type[models.Model], source: str, **expressions: str) -> None:
    """INSERT … SELECT; a column that is not named gets the default of the model."""
    from django.db import connection

    parameters: list[Any] = []
    columns, selected = [], []
    fields = {field.attname: field for field in model._meta.concrete_fields}
    # Grouped columns are named by their places, so they come first.
    for name in [*expressions, *(name for name in fields if name not in expressions)]:
        field = fields[name]
        if field.primary_key and name not in expressions:
            continue
        columns.append(connection.ops.quote_name(str(field.column)))
        if name in expressions:
            selected.append(expressions[name].replace("%", "%%"))
        else:
            selected.append("%s")
            parameters.append(field.get_db_prep_save(None if field.null else field.get_default(), connection))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {model._meta.db_table} ({', '.join(columns)}) SELECT {', '.join(selected)} "
            + source.replace("%", "%%"),
            parameters,
        )


class _Words:
    """How the database at hand says what the rows are made of."""

    def __init__(self) -> None:
        from django.db import DatabaseError, connection

        self._connection = connection
        self._is_postgres = connection.vendor == "postgresql"
        with connection.cursor() as cursor:
            if self._is_postgres:
                cursor.execute("SET synchronous_commit = off")
                with suppress(DatabaseError):  # a superuser may leave the foreign keys unchecked: half the time
                    cursor.execute("SET session_replication_role = replica")
            else:
                cursor.execute("PRAGMA synchronous = OFF")
                cursor.execute("PRAGMA foreign_keys = OFF")
                cursor.execute("PRAGMA cache_size = -500000")

    def numbers(self, first: int, count: int) -> str:
        """A table with one column, n."""
        if self._is_postgres:
            return f"SELECT n::bigint AS n FROM generate_series({first}, {first + count - 1}) AS n"
        return (
            f"WITH RECURSIVE counted(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM counted"
            f" WHERE n < {first + count - 1}) SELECT n FROM counted"
        )

    def moment(self, seconds: str) -> str:
        """A time column from seconds since the epoch."""
        if self._is_postgres:
            return f"to_timestamp({seconds})"
        return f"strftime('%Y-%m-%d %H:%M:%f', {seconds}, 'unixepoch') || '000'"

    def minute(self, column: str) -> str:
        return f"date_trunc('minute', {column})" if self._is_postgres else f"substr({column}, 1, 16) || ':00'"

    def json(self, text: str) -> str:
        return f"({text})::jsonb" if self._is_postgres else text

    def blob(self, text: str) -> str:
        return f"convert_to({text}, 'UTF8')" if self._is_postgres else f"CAST({text} AS BLOB)"

    def repeated(self, count: int) -> str:
        return f"repeat('x', {count})" if self._is_postgres else f"printf('%.*c', {count}, 'x')"

    def greatest(self, table: str) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(f"SELECT coalesce(max(id), 0) FROM {table}")
            return int(cursor.fetchone()[0])

    def commit(self) -> None:
        """Frees the write-ahead log; every statement is its own transaction."""
        if not self._is_postgres:
            with self._connection.cursor() as cursor:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    main()
