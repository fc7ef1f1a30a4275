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
from integrations.models import Event, Failure, FailureHour, FailureState, Message, Result
from integrations.models.failure import KEPT, FailureUpdate, add_hours
from integrations.models.message import Outgoing
from integrations.policies.fingerprint import FailureDetails, Fingerprint, fingerprint, remainder

log = logging.getLogger("switchboard.failures")
MAX_GROUPS = 200  # unresolved groups of one service and endpoint; further causes share one remainder group


@dataclass(frozen=True, slots=True)
class _FailedAttempt:
    """One failed call, and its message."""

    attempt: Mapping[str, Any]  # the columns of its attempt, without secrets
    message: Outgoing | None

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


def record(attempts: Sequence[Mapping[str, Any]], messages: Sequence[Outgoing | None], now: datetime) -> dict[int, int]:
    """Add the failed calls among ``attempts`` to their groups, and return the group of each by attempt id.

    ``messages`` has the message of each attempt as it was claimed. Call it in the transaction that writes the attempts.
    """
    failed = [
        _FailedAttempt(attempt, message)
        for attempt, message in zip(attempts, messages, strict=True)
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
    members = _members(failed)
    written = Failure.objects.add(
        [_seen(cause, calls, known.get(key), members) for key, (cause, calls) in groups.items()], now
    )
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


def _members(failed: Sequence[_FailedAttempt]) -> set[tuple[int | None, int]]:
    """The lineages of these calls with the groups that they belong to. A group counts a message once, with all its
    replays. Messages that are no replay take no statement."""
    lineages = {call.message.lineage_id for call in failed if call.message and call.message.lineage_id}
    if not lineages:
        return set()
    grouped = Message.objects.filter(lineage_id__any=lineages, failure__isnull=False)
    return set(grouped.order_by().values_list("lineage_id", "failure_id"))


def _is_new(call: _FailedAttempt, group: int | None, members: set[tuple[int | None, int]]) -> bool:
    """Whether the call brings a message into the group; calls without a message bring none."""
    if call.attempt["message_id"] is None or group is None or call.message is None:
        return call.attempt["message_id"] is not None
    return call.message.failure_id != group and (call.message.lineage_id, group) not in members


def _seen(
    cause: Fingerprint, failed: Sequence[_FailedAttempt], group: int | None, members: set[tuple[int | None, int]]
) -> FailureUpdate:
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
        messages=sum(_is_new(call, group, members) for call in failed),
        first_seen=min(starts),
        last_seen=max(starts),
        sample_id=messages[-1] if messages else None,
        attempt_id=attempts[-1]["id"],
    )


def prune(now: datetime) -> int:
    """Delete hourly counts that no page shows any more. Returns how many."""
    return FailureHour.objects.filter(hour__lt=now - KEPT).delete()[0]
