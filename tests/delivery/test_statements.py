"""The cost of a backlog, in statements: their number does not depend on the load of the machine."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from integrations.delivery.claim import claim
from integrations.delivery.send import send
from integrations.delivery.settle import settle
from integrations.models import Draft, Message, Service, queue, sql
from integrations.outbound.client import Client
from tests.support.records import a_worker

BACKLOG = 500
AT_ONCE = 250  # what a pump claims at a time


@pytest.mark.django_db(transaction=True)
def test_fifty_messages_of_a_backlog_take_six_statements_at_most() -> None:
    service = Service.objects.create(name="sink", base_url="https://api.example.com", limits={"concurrency": 500})
    Message.objects.accept([Draft(service, "POST", "/hook", b"{}", "application/json") for _ in range(BACKLOG)])
    worker = a_worker()
    client = Client(transport=httpx.MockTransport(lambda request: httpx.Response(204)))

    with CaptureQueriesContext(connection) as captured:
        while claims := claim(worker.pk, AT_ONCE):
            settle([asyncio.run(send(client, claimed, timezone.now())) for claimed in claims])

    assert Message.objects.filter(status="delivered").count() == BACKLOG
    statements = [query["sql"] for query in captured if query["sql"].split()[0] not in ("BEGIN", "COMMIT")]
    assert len(statements) <= 6 * BACKLOG / 50, "\n".join(statement[:200] for statement in statements)


@pytest.mark.servers_only
@pytest.mark.django_db(transaction=True)
def test_a_plan_that_was_made_for_an_empty_table_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a delivery asks is prepared, and so planned for a table as it was."""
    monkeypatch.setattr(sql, "PLANNED_FOR", 3600)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE growing (id bigint PRIMARY KEY, pad text)")
        cursor.execute("ANALYZE growing")

    def ask() -> None:
        with sql.prepared() as cursor:
            cursor.execute("SELECT pad FROM growing WHERE id = ANY(%s::bigint[])", [[1, 2]])

    def plan() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM pg_prepared_statements WHERE statement LIKE 'SELECT pad%'")
            cursor.execute(f"EXPLAIN EXECUTE \"{cursor.fetchone()[0]}\" ('{{1,2}}')")
            return "\n".join(line for (line,) in cursor.fetchall())

    for _ in range(10):
        ask()
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO growing SELECT n, repeat('x', 200) FROM generate_series(1, 20000) AS n")
    ask()
    assert "Seq Scan" in plan(), plan()
    monkeypatch.setattr(sql._planned, "until", 0.0)
    ask()
    assert "Index" in plan(), plan()


@pytest.mark.servers_only
@pytest.mark.django_db(transaction=True)
def test_what_is_due_is_found_by_its_index_behind_much_that_was_delivered() -> None:
    """Where any due message will do, the planner hopes to meet one soon if it begins with the table's first page."""
    service = Service.objects.create(name="sink", base_url="https://api.example.com")
    draft = Draft(service, "POST", "/hook", b"{}", "application/json")
    Message.objects.accept([draft] * 2000)
    Message.objects.update(status="delivered", due_at=None, finished_at=timezone.now())
    Message.objects.accept([draft] * 4000)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE integrations_message")
        cursor.execute("EXPLAIN " + queue.SERVING.format(now="statement_timestamp()"), [200])
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "message_due" in plan
    assert "Seq Scan on integrations_message" not in plan, plan
