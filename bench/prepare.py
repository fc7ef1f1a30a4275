"""Queues a run's messages, in a process of its own because settings are read once: `python -m bench.prepare 1000 URL`.

One service takes them all. It is paused, so that nothing goes out before the clock starts. With `--tasks` each message
also gets a django-q2 task, in a queue that no worker reads yet.
"""

from __future__ import annotations

import argparse

import django

from bench.messages import body

BATCH = 1_000
HELD_QUEUE = "held"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("messages", type=int)
    parser.add_argument("url", help="address of the sink")
    parser.add_argument("--tasks", action="store_true")
    options = parser.parse_args()
    django.setup()
    ids = queue(options.url, options.messages)
    if options.tasks:
        queue_tasks(ids)


def queue(url: str, count: int) -> list[int]:
    from integrations.models import Draft, Message, Service

    service = Service.objects.create(name="sink", base_url=url, status="paused", limits={"concurrency": 1000})
    ids: list[int] = []
    for start in range(0, count, BATCH):
        drafts = [
            Draft(service=service, method="POST", path="/hook", body=body(number), content_type="application/json")
            for number in range(start, min(start + BATCH, count))
        ]
        ids += [message.pk for message in Message.objects.accept(drafts)]
    return ids


def queue_tasks(ids: list[int]) -> None:
    from django.db import transaction
    from django_q.tasks import async_task

    with transaction.atomic():
        for pk in ids:
            async_task("bench.peers.django_q2.deliver", pk, cluster=HELD_QUEUE)


if __name__ == "__main__":
    main()
