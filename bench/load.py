"""Registers services and queues messages for a scenario, in a process of its own because settings are read once.

`python -m bench.load FILE` reads a list of loads, as JSON, and ends when all of it is queued:

    [{"service": {"name": "s1", "base_url": …, "limits": …}, "messages": 1000, "keys": 0, "priority": 0}, …]

A service that is there already keeps its settings. The messages of a service are numbered from ``start`` in their
bodies; with ``keys``, number n has the ordering key n modulo keys. With `--rate` messages are accepted one by one, so
many a second, the services in turn, and FILE.accepted says when each one was: [[service, number, seconds], …].
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

from bench.messages import body
from bench.places import Database

if TYPE_CHECKING:
    from integrations.models import Draft

BATCH = 1_000
NEVER_OPENS = {"breaker": {"enabled": False}, "retry": {"budget": 1}}


def queue(database: Database, loads: Sequence[dict[str, Any]], *arguments: str) -> None:
    """Queues the loads on a database, from another process."""
    database.run("-m", "bench.load", str(written(database, loads)), *arguments)


def written(database: Database, loads: Sequence[dict[str, Any]]) -> Path:
    """The loads as a file in the run's folder."""
    path = database.folder / f"loads-{secrets.token_hex(4)}.json"
    path.write_text(json.dumps(list(loads)))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loads", type=Path)
    parser.add_argument("--rate", type=float, help="messages a second; default: all at once")
    options = parser.parse_args()
    django.setup()
    from integrations.models import Message

    streams = [list(drafts_of(load)) for load in json.loads(options.loads.read_text())]
    if options.rate:
        accepted = send_at(options.rate, [draft for turn in zip_longest(*streams) for draft in turn if draft])
        Path(f"{options.loads}.accepted").write_text(json.dumps(accepted))
        return
    for drafts in streams:
        for first in range(0, len(drafts), BATCH):
            Message.objects.accept(drafts[first : first + BATCH])


def drafts_of(load: dict[str, Any]) -> Iterator[Draft]:
    from integrations.models import Draft, Priority, Service

    service, _ = Service.objects.get_or_create(name=load["service"].pop("name"), defaults=NEVER_OPENS | load["service"])
    keys = load.get("keys", 0)
    for number in range(load.get("start", 0), load.get("start", 0) + load["messages"]):
        yield Draft(
            service=service,
            method="POST",
            path="/hook",
            body=body(number),
            content_type="application/json",
            ordering_key=f"key-{number % keys}" if keys else "",
            priority=Priority(load.get("priority", Priority.FIRST)),
        )


def send_at(rate: float, drafts: list[Draft]) -> list[tuple[str, int, float]]:
    """Accepts at a steady pace; a late one does not delay the ones after it. Return when each was on disk."""
    from integrations.models import Message

    accepted = []
    began = time.monotonic()
    for index, draft in enumerate(drafts):
        if (ahead := began + index / rate - time.monotonic()) > 0:
            time.sleep(ahead)
        Message.objects.accept([draft])
        accepted.append((draft.service.name, json.loads(draft.body)["n"], time.time()))
    return accepted


if __name__ == "__main__":
    main()
