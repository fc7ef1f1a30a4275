"""Rows that operators and the engine leave in addition to messages: `python -m bench.history`, after `bench.seed`.

Failure groups with their messages, operations with their items, searchable fields of bodies, health checks, calls of
the lab, audit entries and events: in the numbers of an installation that has been busy for a month.
"""

from __future__ import annotations

import time
from datetime import timedelta

import django
from django.db import connection

KINDS = 6  # failure groups of each service
OPERATIONS = 60
ITEMS = 5_000  # messages of each operation
SEARCHABLE = 3  # services whose bodies are searched
SERVICES = 980  # in addition to those with messages, each with a quiet hour
AUDIT_ENTRIES, EVENTS, CHECKS = 20_000, 100_000, 200


def main() -> None:
    django.setup()
    began = time.monotonic()
    for fill in (_failures, _operations, _field_values, _people, _checks, _services):
        fill()
    from bench.seed import analyze

    analyze()
    print(f"history in {time.monotonic() - began:.0f} s")


def _run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement.replace("%", "%%"), [])


def _failures() -> None:
    from django.utils import timezone

    from integrations.models import Attempt, Failure, FailureHour, Message, Service

    now = timezone.now()
    for service in Service.objects.filter(name__startswith="seeded-"):
        dead = Message.objects.filter(service=service, status="dead").order_by("-pk")
        if (newest := dead.first()) is None:
            continue
        attempt = Attempt.objects.filter(message=newest).order_by("-number").first()
        for kind in range(KINDS):
            group = Failure.objects.create(
                key=f"{service.pk}-{kind}",
                version=1,
                service=service,
                fault="status",
                status_code=503,
                title=f"503 from POST /orders ({kind})",
                count=1000,
                messages=200,
                first_seen=now - timedelta(days=20),
                last_seen=now - timedelta(hours=kind),
                opened_at=now - timedelta(days=20),
                sample_id=newest.pk,
                attempt_id=attempt.pk if attempt else 0,
                state=("open", "open", "regressed", "ignored", "resolved", "resolved")[kind],
            )
            FailureHour.objects.bulk_create(
                FailureHour(
                    failure=group,
                    hour=(now - timedelta(hours=hours)).replace(minute=0, second=0, microsecond=0),
                    count=7,
                )
                for hours in range(24)
            )
            _run(
                f"UPDATE integrations_message SET failure_id = {group.pk}"
                f" WHERE service_id = {service.pk} AND status = 'dead' AND id % {KINDS} = {kind}"
            )


def _operations() -> None:
    from django.utils import timezone

    from integrations.models import Item, Message, Operation

    newest, now = Message.objects.order_by("-pk").values_list("pk", flat=True).first() or 0, timezone.now()
    for number in range(OPERATIONS):
        operation = Operation.objects.create(
            kind="replay",
            filter=f"service:seeded-{number % 20:02} status:dead"
            if number % 3
            else f"failure:fail_{number}_0000001 status:dead",
            reason="they are back",
            rate=50,
            state="finished",
            planned_to=newest,
            planned_until=newest,
            total=ITEMS,
            succeeded=ITEMS,
            created_by="person ada",
            created_at=now - timedelta(hours=OPERATIONS - number),
            finished_at=now,
        )
        first = max(1, newest - (number + 1) * ITEMS)
        Item.objects.bulk_create(
            (
                Item(operation=operation, message_id=first + place, outcome="succeeded", done_at=now)
                for place in range(ITEMS)
            ),
            batch_size=5000,
        )


def _field_values() -> None:
    from integrations.models import Endpoint, Service

    services = list(Service.objects.filter(name__startswith="seeded-").order_by("pk")[:SEARCHABLE])
    Service.objects.filter(pk__in=[service.pk for service in services]).update(search_fields=["order.id"])
    Endpoint.objects.bulk_create(Endpoint(service=service, name="seeded", path="/orders") for service in services)
    ids = ", ".join(str(service.pk) for service in services)
    _run(
        "INSERT INTO integrations_fieldvalue (path, text, number, message_id)"
        f" SELECT 'order.id', '' || id % 1000000, id % 1000000, id FROM integrations_message"
        f" WHERE service_id IN ({ids})"
    )


def _people() -> None:
    from django.utils import timezone

    from integrations.models import Account, AuditEntry, Event, SavedView, Service

    now = timezone.now()
    services = list(Service.objects.all())
    account = Account.objects.create(username="ada", role="admin")
    for number in range(20):
        SavedView.objects.create(account=account, name=f"view {number}", query=f"service:seeded-{number:02}")
    AuditEntry.objects.bulk_create(
        (
            AuditEntry(
                at=now - timedelta(minutes=number), actor="person ada", action="service.changed", target="seeded-01"
            )
            for number in range(AUDIT_ENTRIES)
        ),
        batch_size=5000,
    )
    kinds = ("breaker.opened", "breaker.half_opened", "breaker.closed", "service.changed")
    Event.objects.bulk_create(
        (
            Event(
                type=kinds[number % 4],
                at=now - timedelta(minutes=EVENTS - number),
                service=services[number % len(services)],
                facts={"cause": "5 calls in a row failed", "attempts": []},
                position=number + 1,
            )
            for number in range(EVENTS)
        ),
        batch_size=5000,
    )


def _checks() -> None:
    from django.utils import timezone

    from integrations.models import Attempt, Service

    now = timezone.now()
    Attempt.objects.bulk_create(
        Attempt(
            service=service,
            trigger=trigger,
            number=1,
            started_at=now,
            outcome="succeeded",
            status_code=200,
            method="GET",
        )
        for service in Service.objects.all()
        for trigger in ("health", "process", "lab")
        for _ in range(CHECKS)
    )


def _services() -> None:
    from django.utils import timezone

    from integrations.models import Event, Runtime, Service, Tally

    minute = timezone.now().replace(second=0, microsecond=0)
    services = Service.objects.bulk_create(
        Service(name=f"quiet-{number:03}", base_url="https://quiet.example.com", tags=[("money", "people")[number % 2]])
        for number in range(SERVICES)
    )
    Runtime.objects.bulk_create(
        Runtime(
            service=service,
            state="open" if number % 90 == 0 else "closed",
            opened_at=minute if number % 90 == 0 else None,
        )
        for number, service in enumerate(services)
    )
    opened = [service for number, service in enumerate(services) if number % 90 == 0]
    facts = {"cause": "5 calls in a row failed", "attempts": []}
    Event.objects.bulk_create(
        Event(type="breaker.opened", at=minute, service=service, facts=facts, position=EVENTS + place)
        for place, service in enumerate(opened, 1)
    )
    Tally.objects.bulk_create(
        (
            Tally(service=service, start=minute - timedelta(minutes=age), calls=number % 50, within_100ms=number % 50)
            for number, service in enumerate(services)
            for age in range(60)
        ),
        batch_size=2000,
    )


if __name__ == "__main__":
    main()
