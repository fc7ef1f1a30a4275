"""How long a claim takes on the configured database: `python -m bench.claims SERVICE`; the answer is JSON.

Claims the due messages of one service again and again, gives them back, and asks the database for its query plans. No
other process may use the database during the run.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from statistics import median
from typing import Any

import django

CLAIMS = 40
CAPACITY = 256
MESSAGES = "integrations_message"


def main() -> None:
    django.setup()
    from django.db import connection

    from integrations.delivery.claim import claim
    from integrations.models import Message, Service, Worker, database_now

    Service.objects.filter(name=sys.argv[1]).update(status="active")
    now = database_now()
    worker = Worker.objects.create(
        cluster="claims", host="", pid=0, started_at=now, heartbeat_at=now, lease_until=now + timedelta(hours=1)
    )
    took, claimed = [], 0
    statements: dict[str, tuple[str, Any]] = {}
    for number in range(CLAIMS):
        began = time.perf_counter()
        if number < CLAIMS - 1:
            claims = claim(worker.pk, CAPACITY)
            took.append(time.perf_counter() - began)
        else:
            with connection.execute_wrapper(_collector(statements)):
                claims = claim(worker.pk, CAPACITY)
        claimed += len(claims)
        Message.objects.give_back([claim.message.pk for claim in claims], worker_id=worker.pk, now=now)
    Service.objects.filter(name=sys.argv[1]).update(status="paused")
    Worker.objects.filter(pk=worker.pk).delete()
    print(json.dumps({"milliseconds": median(took) * 1000, "claimed": claimed, "scans": _scans(statements)}))


def _collector(statements: dict[str, tuple[str, Any]]) -> Callable[..., Any]:
    def collect(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if MESSAGES in sql and not many:
            statements[sql[:60]] = (sql, params)
        return execute(sql, params, many, context)

    return collect


def _scans(statements: dict[str, tuple[str, Any]]) -> list[str]:
    """The statements of a claim that read the table of messages from end to end, as the database plans them."""
    from django.db import connection

    explain, whole = "EXPLAIN QUERY PLAN ", f"SCAN {MESSAGES}"
    if connection.vendor == "postgresql":
        explain, whole = "EXPLAIN ", f"Seq Scan on {MESSAGES}"
    found = []
    with connection.cursor() as cursor:
        for sql, params in statements.values():
            cursor.execute(explain + sql, params)
            plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
            if any(whole in line and "USING" not in line for line in plan.splitlines()):
                found.append(f"{sql[:300]}\n{plan[:1500]}")
    return found


if __name__ == "__main__":
    main()
