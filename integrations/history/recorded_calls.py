"""The recorded calls of a service's last day, for ``policies.backtest`` to simulate other settings on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from integrations.models import Attempt, Service, Trigger
from integrations.policies.backtest import RecordedCall

SPAN = timedelta(days=1)
MOST = 100_000  # the newest calls of that day; more would take longer than an operator waits for a page
LONGEST_CALL = timedelta(minutes=10)  # rows are in the order of their ends, so a row this much older ends the walk
FED = (Trigger.FIRST, Trigger.RETRY, Trigger.PROBE, Trigger.PROCESS)  # the calls that feed the breaker


def recorded_calls(service: Service, now: datetime) -> list[RecordedCall]:
    """The newest calls of the last 24 hours, newest first and at most ``MOST``; reads seven columns of each."""
    return list(_walk(service, now - SPAN))


def _walk(service: Service, since: datetime) -> Iterator[RecordedCall]:
    newest_first = Attempt.objects.filter(service=service).order_by("-pk")
    rows = newest_first.values_list(
        "message_id", "number", "started_at", "duration", "fault", "status_code", "trigger"
    )[:MOST]
    for message, number, started_at, duration, fault, status_code, trigger in rows.iterator(chunk_size=5000):
        if started_at < since:
            if started_at < since - LONGEST_CALL:
                return
        elif trigger in FED:
            ended_at = started_at + timedelta(seconds=duration or 0)
            yield RecordedCall(message, number, started_at, ended_at, fault, status_code)
