"""Group failed calls by their cause while results are settled.

A success costs nothing here, and an error while grouping never costs a delivery its result.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction

from integrations.logs import line
from integrations.models import Event, Failure, FailureHour, FailureState, Result
from integrations.models.failure import KEPT, FailureUpdate, add_hours
from integrations.policies.fingerprint import FailureDetails, Fingerprint, fingerprint, remainder

log = logging.getLogger("switchboard.failures")
MAX_GROUPS = 200  # unresolved groups of one service and endpoint; further causes share one remainder group


@dataclass(frozen=True, slots=True)
class _FailedAttempt:
    """One failed call, and the group that its message belonged to before."""

    attempt: Mapping[str, Any]  # the columns of its attempt, without secrets
    previous_group: int | None = None

    @property
    def details(self) -> FailureDetails:
        attempt = self.attempt
        return FailureDetails(
            service_id=attempt["service_id"],
            endpoint_id=attempt["endpoint_id"],
            fault=str(attempt["fault"]),
            status_code=attempt["status_code"],
            detail=attempt["detail"],
            body=attempt["response_body"],
            has_responded=attempt["timings"].get("first_byte") is not None,
        )


def record(
    attempts: Sequence[Mapping[str, Any]], previous_groups: Sequence[int | None], now: datetime
) -> dict[int, int]:
    """Add the failed calls among ``attempts`` to their groups, and return the group of each by attempt id.

    ``previous_groups`` has for each attempt the group of its message so far. Call it in the transaction that writes
    the attempts.
    """
    failed = [
        _FailedAttempt(attempt, group)
        for attempt, group in zip(attempts, previous_groups, strict=True)
        if attempt["outcome"] == Result.FAILED
    ]
    if not failed:
        return {}
    try:
        with transaction.atomic():  # a savepoint: an error in here rolls back none of the results
            return _record(failed, now)
    except Exception:
        log.exception(line("ungrouped", calls=len(failed)))
        return {}


def _record(failed: Sequence[_FailedAttempt], now: datetime) -> dict[int, int]:
    groups: dict[str, tuple[Fingerprint, list[_FailedAttempt]]] = {}
    causes = _fingerprints(failed)
    known = Failure.objects.ids_by_key(sorted({cause.key for cause in causes}))
    for cause, call in zip(_bounded(causes, failed, known), failed, strict=True):
        groups.setdefault(cause.key, (cause, []))[1].append(call)
    # An unknown group has no messages yet: if another lane creates it now, it does so for other messages.
    known |= Failure.objects.ids_by_key(sorted(groups.keys() - known.keys())) if groups.keys() - known.keys() else {}
    written = Failure.objects.add([_seen(cause, calls, known.get(key)) for key, (cause, calls) in groups.items()], now)
    add_hours({group.pk: len(groups[group.key][1]) for group in written}, now)
    for group in written:
        if group.is_news:
            type_ = "failure.regressed" if group.state == FailureState.REGRESSED else "failure.opened"
            facts = {"title": group.title}
            Event.objects.create(type=type_, at=now, service_id=group.service_id, subject=group.public_id, facts=facts)
    return {call.attempt["id"]: group.pk for group in written for call in groups[group.key][1]}


def _fingerprints(failed: Sequence[_FailedAttempt]) -> list[Fingerprint]:
    """Compute the fingerprint of each call, once for equal ones: a service that is down fails all calls alike."""
    causes: dict[FailureDetails, Fingerprint] = {}
    for details in (of_calls := [call.details for call in failed]):
        if details not in causes:
            causes[details] = fingerprint(details)
    return [causes[details] for details in of_calls]


def _bounded(
    causes: Sequence[Fingerprint], failed: Sequence[_FailedAttempt], known: Mapping[str, int]
) -> Iterator[Fingerprint]:
    """Replace the fingerprints of new groups beyond MAX_GROUPS of a service and endpoint by their remainder group.

    A receiver that responds with random text must not fill the list of groups.
    """
    new = {cause.key for cause in causes} - known.keys()
    sources = [(call.attempt["service_id"], call.attempt["endpoint_id"]) for call in failed]
    groups: Counter[tuple[int, int | None]] = Counter()
    if new:
        services = {source[0] for source, cause in zip(sources, causes, strict=True) if cause.key in new}
        groups.update(Failure.objects.kinds(services))
    admitted: set[str] = set()
    for cause, call, source in zip(causes, failed, sources, strict=True):
        if cause.key in new and cause.key not in admitted:
            if groups[source] >= MAX_GROUPS:
                yield remainder(call.details)
                continue
            groups[source] += 1
            admitted.add(cause.key)
        yield cause


def _seen(cause: Fingerprint, failed: Sequence[_FailedAttempt], group: int | None) -> FailureUpdate:
    attempts = [call.attempt for call in failed]
    starts = [attempt["started_at"] for attempt in attempts]
    messages = [attempt["message_id"] for attempt in attempts if attempt["message_id"] is not None]
    return FailureUpdate(
        key=cause.key,
        service_id=attempts[0]["service_id"],
        endpoint_id=attempts[0]["endpoint_id"],
        version=cause.version,
        fault=str(attempts[0]["fault"]),
        status_code=attempts[0]["status_code"],
        title=cause.title,
        because=json.dumps(cause.because),
        count=len(attempts),
        messages=sum(
            call.attempt["message_id"] is not None and (group is None or call.previous_group != group)
            for call in failed
        ),
        first_seen=min(starts),
        last_seen=max(starts),
        sample_id=messages[-1] if messages else None,
        attempt_id=attempts[-1]["id"],
    )


def prune(now: datetime) -> int:
    """Delete hourly counts that no page shows any more. Returns how many."""
    return FailureHour.objects.filter(hour__lt=now - KEPT).delete()[0]
