"""What a backlog costs the database: statements are counted, which no neighbour on the machine disturbs."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from integrations import delivery
from integrations.client import Client
from integrations.models import Draft, Message, Service, Worker, database_now
from integrations.models.worker import LEASE

BACKLOG = 500
AT_ONCE = 250  # what a pump claims at a time


@pytest.mark.django_db(transaction=True)
def test_fifty_messages_of_a_backlog_take_six_statements_at_most() -> None:
    service = Service.objects.create(name="sink", base_url="https://api.example.com", limits={"concurrency": 500})
    Message.objects.accept([Draft(service, "POST", "/hook", b"{}", "application/json") for _ in range(BACKLOG)])
    now = database_now()
    worker = Worker.objects.create(
        cluster="test", host="test", pid=1, started_at=now, heartbeat_at=now, lease_until=now + LEASE
    )
    client = Client(transport=httpx.MockTransport(lambda request: httpx.Response(204)))

    with CaptureQueriesContext(connection) as captured:
        while claims := delivery.claim(worker.pk, AT_ONCE):
            delivery.settle([asyncio.run(delivery.send(client, claimed, timezone.now())) for claimed in claims])

    assert Message.objects.filter(status="delivered").count() == BACKLOG
    statements = [query["sql"] for query in captured if query["sql"].split()[0] not in ("BEGIN", "COMMIT")]
    assert len(statements) <= 6 * BACKLOG / 50, "\n".join(statement[:200] for statement in statements)
