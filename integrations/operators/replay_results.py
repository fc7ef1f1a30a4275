"""The results of bulk replays: the messages that they made, by status.

A result is counted when a page asks for it, and kept with its operation once all its messages are finished. So it
outlives the messages, which retention deletes, and lists of operations need not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from django.db.models import Count, F

from integrations.models import Event, Message, Operation
from integrations.models.message import UNFINISHED
from integrations.models.operation import OPEN, Kind

COUNTED_AT_ONCE = 10_000  # messages of an operation that a page counts, in some 10 ms
COUNTED = 100_000  # the same for a worker; the result of a larger operation is the search for its messages
LOOKED_AT = 3  # operations, twice a minute
KEPT_WITHIN = timedelta(days=30)  # after the end of the operation; messages that wait for longer leave it without one


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """The messages that an operation made, by status. Those that retention has deleted are in none."""

    delivered: int = 0
    dead: int = 0
    cancelled: int = 0
    unfinished: int = 0

    @property
    def total(self) -> int:
        return self.delivered + self.dead + self.cancelled + self.unfinished


def results_of(operations: Iterable[Operation], *, count: bool = True) -> dict[int, ReplayResult]:
    """The results of the replays among ``operations``, by their row ids: the kept ones and, in one query for all, those
    that are counted. An operation that is too large to be counted now is left out."""
    results, uncounted = dict[int, ReplayResult](), list[int]()
    for operation in operations:
        if operation.kind != Kind.REPLAY or not operation.succeeded:
            continue
        if kept := operation.estimate.get("result"):
            results[operation.pk] = ReplayResult(**kept)
        elif count and operation.succeeded <= COUNTED_AT_ONCE:
            uncounted.append(operation.pk)
    return results | _counted(uncounted)


def _counted(ids: list[int]) -> dict[int, ReplayResult]:
    counts: dict[int, dict[str, int]] = {pk: defaultdict(int) for pk in ids}
    made = Message.objects.filter(operation_id__in=ids).order_by() if ids else Message.objects.none()
    for pk, status, count in made.values_list("operation_id", "status").annotate(Count("pk")):
        counts[pk or 0]["unfinished" if status in UNFINISHED else status] += count
    return {pk: ReplayResult(**found) for pk, found in counts.items()}


def keep(now: datetime) -> int:
    """Keep the results of ended operations whose messages are all finished, a few by turns. Return how many."""
    ended = Operation.objects.exclude(state__in=OPEN).filter(kind=Kind.REPLAY, estimate__result__isnull=True)
    countable = ended.filter(finished_at__gte=now - KEPT_WITHIN, succeeded__gt=0, succeeded__lte=COUNTED)
    kept = 0
    for operation in countable.order_by(F("told_at").asc(nulls_first=True))[:LOOKED_AT]:
        result = _counted([operation.pk])[operation.pk]
        changes = {} if result.unfinished else {"estimate": operation.estimate | {"result": asdict(result)}}
        same = Operation.objects.filter(pk=operation.pk, estimate__result__isnull=True)
        if same.update(told_at=now, **changes) and changes:
            Event.objects.create(
                type="operation.progressed", at=now, subject=operation.public_id, facts=operation.facts
            )
            kept += 1
    return kept
