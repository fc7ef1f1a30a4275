"""Group failed calls by their cause, while results are settled.

``record`` is called for failed calls only: a success pays nothing. A group that cannot be written never costs a
delivery its result.
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
from integrations.models.failure import KEPT, Seen, add_hours
from integrations.policies.fingerprint import FailureDetails, Fingerprint, fingerprint, remainder

log = logging.getLogger("switchboard.failures")
KINDS = 200  # groups of one service and endpoint that are not resolved; what is one too many is not kept apart


@dataclass(frozen=True, slots=True)
class Failed:
    """One failed call. ``formerly`` is the group that its message belonged to before."""

    attempt: Mapping[str, Any]  # the columns of its attempt, without secrets
    formerly: int | None = None

    @property
    def facts(self) -> FailureDetails:
        attempt = self.attempt
        return FailureDetails(
            service_id=attempt["service_id"],
            endpoint_id=attempt["endpoint_id"],
            fault=str(attempt["fault"]),
            status_code=attempt["status_code"],
            detail=attempt["detail"],
            body=attempt["response_body"],
            has_answered=attempt["timings"].get("first_byte") is not None,
        )


def record(attempts: Sequence[Mapping[str, Any]], formerly: Sequence[int | None], now: datetime) -> dict[int, int]:
    """Adds failed calls to their groups; answers the groups by the calls' ids. ``formerly`` are the groups of the
    attempts' messages so far. Call it in the transaction that writes the attempts."""
    failed = [
        Failed(attempt, group)
        for attempt, group in zip(attempts, formerly, strict=True)
        if attempt["outcome"] == Result.FAILED
    ]
    if not failed:
        return {}
    try:
        with transaction.atomic():  # a savepoint: what goes wrong in here undoes nothing of the results
            return _record(failed, now)
    except Exception:
        log.exception(line("ungrouped", calls=len(failed)))
        return {}


def _record(failed: Sequence[Failed], now: datetime) -> dict[int, int]:
    groups: dict[str, tuple[Fingerprint, list[Failed]]] = {}
    prints = _fingerprints(failed)
    known = Failure.objects.ids_by_key(sorted({made.key for made in prints}))
    for made, one in zip(_bounded(prints, failed, known), failed, strict=True):
        groups.setdefault(made.key, (made, []))[1].append(one)
    # A group that is not known has no messages yet: whoever makes it meanwhile holds claims of other messages.
    known |= Failure.objects.ids_by_key(sorted(groups.keys() - known.keys())) if groups.keys() - known.keys() else {}
    written = Failure.objects.add([_seen(made, those, known.get(key)) for key, (made, those) in groups.items()], now)
    add_hours({group.pk: len(groups[group.key][1]) for group in written}, now)
    for group in written:
        if group.is_news:
            type_ = "failure.regressed" if group.state == FailureState.REGRESSED else "failure.opened"
            facts = {"title": group.title}
            Event.objects.create(type=type_, at=now, service_id=group.service_id, subject=group.public_id, facts=facts)
    return {one.attempt["id"]: group.pk for group in written for one in groups[group.key][1]}


def _fingerprints(failed: Sequence[Failed]) -> list[Fingerprint]:
    """Of each call; a service that is down answers the same to all of them, which is looked at once."""
    made: dict[FailureDetails, Fingerprint] = {}
    for facts in (asked := [one.facts for one in failed]):
        if facts not in made:
            made[facts] = fingerprint(facts)
    return [made[facts] for facts in asked]


def _bounded(
    prints: Sequence[Fingerprint], failed: Sequence[Failed], known: Mapping[str, int]
) -> Iterator[Fingerprint]:
    """The fingerprints, but for kinds that are too many for their service and endpoint: an upstream that answers
    random text must not fill the list of groups."""
    new = {made.key for made in prints} - known.keys()
    places = [(one.attempt["service_id"], one.attempt["endpoint_id"]) for one in failed]
    taken: Counter[tuple[int, int | None]] = Counter()
    if new:
        services = {place[0] for place, made in zip(places, prints, strict=True) if made.key in new}
        taken.update(Failure.objects.kinds(services))
    admitted: set[str] = set()
    for made, one, place in zip(prints, failed, places, strict=True):
        if made.key in new and made.key not in admitted:
            if taken[place] >= KINDS:
                yield remainder(one.facts)
                continue
            taken[place] += 1
            admitted.add(made.key)
        yield made


def _seen(made: Fingerprint, failed: Sequence[Failed], group: int | None) -> Seen:
    attempts = [one.attempt for one in failed]
    starts = [attempt["started_at"] for attempt in attempts]
    messages = [attempt["message_id"] for attempt in attempts if attempt["message_id"] is not None]
    return Seen(
        key=made.key,
        service_id=attempts[0]["service_id"],
        endpoint_id=attempts[0]["endpoint_id"],
        version=made.version,
        fault=str(attempts[0]["fault"]),
        status_code=attempts[0]["status_code"],
        title=made.title,
        because=json.dumps(made.because),
        count=len(attempts),
        messages=sum(
            one.attempt["message_id"] is not None and (group is None or one.formerly != group) for one in failed
        ),
        first_seen=min(starts),
        last_seen=max(starts),
        sample_id=messages[-1] if messages else None,
        attempt_id=attempts[-1]["id"],
    )


def prune(now: datetime) -> int:
    """Takes away the counts by hour that nobody shows any more; answers how many."""
    return FailureHour.objects.filter(hour__lt=now - KEPT).delete()[0]
