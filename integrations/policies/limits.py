"""How fast and how much: rate, concurrency, time limits, the retry budget, and a fair share between services."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

SLOWEST_PACE = 7 * 86_400.0  # one call in a week; who wants less pauses the service
USED_OF_RATE = 0.97  # slots are spaced for so much of a rate; sends on a busy machine were seen 20 ms late
EXACT_RATE = 200  # calls in a period up to which one more is all that a receiver may ever see; above, so much:
EXCESS = 0.02
CLOCK_SKEW = timedelta(seconds=5)  # clocks of several machines may differ so much before a slot is taken for a mistake
NO_LIMIT = sys.maxsize
BUDGET_SPAN = 60  # seconds a retry budget looks back
BUDGET_BUCKET = 5  # seconds per bucket: twelve small rows, and at most 5 s are forgotten early

Recent = tuple[tuple[int, int, int], ...]  # (start of the bucket in epoch seconds, calls, retries among them)


class Limits(BaseModel):
    """A service's ``limits`` settings: ``rate`` calls every ``per`` seconds, ``concurrency`` at the same time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: float | None = Field(
        None, gt=0, le=100_000, description="How many calls may be sent in each period; empty means no limit."
    )
    per: float = Field(1, gt=0, le=86_400, validate_default=True, description="The length of that period in seconds.")
    concurrency: int = Field(10, ge=1, le=1000, description="How many calls may be under way at the same time.")

    @field_validator("per")
    @classmethod
    def _is_a_usable_pace(cls, per: float, info: ValidationInfo) -> float:
        rate = info.data.get("rate")
        if rate is not None and per / rate > SLOWEST_PACE:
            raise PydanticCustomError("pace", "less than one call a week: pause the service instead")
        return per

    @property
    def interval(self) -> timedelta:
        """Time between two sends: a little longer than the rate asks for, because no call arrives on the dot."""
        return timedelta(seconds=self.per / self.rate / USED_OF_RATE) if self.rate else timedelta(0)

    @property
    def patience(self) -> timedelta:
        """How late a send may be before its slot is given back.

        If all calls arrive within twice this time after their slots, no period has more than the rate allows and one
        call (above ``EXACT_RATE``: 2 %). Half of it is for the way from the send to the receiver.
        """
        if not self.rate:
            return timedelta(0)
        excess = 1 if self.rate <= EXACT_RATE else self.rate * EXCESS - 1  # less one for the slot that opens a period
        return timedelta(seconds=self.per * (excess / self.rate + 1 - USED_OF_RATE) / 2)


class Timeout(BaseModel):
    """A service's ``timeout`` settings, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connect: float = Field(5, ge=0.05, le=60, description="Seconds to reach the service before the call is given up.")
    total: float = Field(
        30, ge=0.05, le=300, description="Seconds a whole call may take, from looking up the name to the last byte."
    )

    @property
    def connect_within(self) -> float:
        """Seconds for connecting: never more than the whole call has."""
        return min(self.connect, self.total)


def slots(
    limits: Limits, next_slot: datetime | None, now: datetime, wanted: int, horizon: timedelta
) -> tuple[tuple[datetime, ...], datetime | None]:
    """Up to ``wanted`` times to send at, evenly spaced and none after ``now + horizon``, and the new ``next_slot``.

    The generic cell rate algorithm without a burst: the row holds one time, the earliest free slot. ``next_slot`` is
    for the rate alone; what a ``Retry-After`` asks for belongs in a column of its own, because a slot further away
    than this function can give out is taken for a clock that moved back and is pulled in.
    """
    if limits.rate is None:
        return (now,) * max(0, wanted), None
    interval, last = limits.interval, now + horizon
    first = max(next_slot or now, now)
    if first > last + interval + CLOCK_SKEW:
        first = last + interval
    fitting = 0 if first > last else (last - first) // interval + 1
    given = min(max(0, wanted), fitting)
    return tuple(first + interval * index for index in range(given)), first + interval * given


def budget_left(recent: Recent, policy_budget: float, now: datetime, floor: int = 10) -> int:
    """How many more retries this minute may have, never negative; a share of 1 is no limit.

    Counted out, it would be one: where nothing but retries is left, there are never more calls than retries.
    """
    if policy_budget >= 1:
        return NO_LIMIT
    used, allowed = budget_use(recent, policy_budget, now, floor)
    return max(0, allowed - used)


def budget_use(recent: Recent, policy_budget: float, now: datetime, floor: int = 10) -> tuple[int, int]:
    """The last minute's retries, and how many it may have: a share of its calls, ``floor`` at least."""
    kept = _last_minute(recent, _bucket(now))
    calls, retries = sum(row[1] for row in kept), sum(row[2] for row in kept)
    return retries, max(floor, math.floor(policy_budget * calls + 1e-9))  # 0.29·100 is 28.999999999999996


def record(recent: Recent, now: datetime, calls: int, retries: int) -> Recent:
    """``recent`` with ``calls`` more calls, ``retries`` of them retries, and without what is over a minute old."""
    bucket = _bucket(now)
    kept = _last_minute(recent, bucket)
    if kept and kept[-1][0] == bucket:
        calls, retries, kept = calls + kept[-1][1], retries + kept[-1][2], kept[:-1]
    return (*kept, (bucket, calls, retries)) if calls or retries else kept


def share(capacity: int, wants: Sequence[int]) -> list[int]:
    """Max-min fair split of ``capacity`` places: nobody gets more while somebody who wants more has less.

    Places that don't divide evenly go to those who come first, so callers rotate the order.
    """
    given = [0] * len(wants)
    left = max(0, capacity)
    hungry = [index for index, want in enumerate(wants) if want > 0]
    while hungry and left >= len(hungry):
        portion = left // len(hungry)
        for index in hungry:
            portion_here = min(portion, wants[index] - given[index])
            given[index] += portion_here
            left -= portion_here
        hungry = [index for index in hungry if given[index] < wants[index]]
    for index in hungry[:left]:
        given[index] += 1
    return given


def _last_minute(recent: Recent, bucket: int) -> Recent:
    """The buckets that still count, oldest first.

    A bucket of the future means that the clock moved back: what it holds is recent, so it counts as of now and ages
    from there, neither forgotten nor stuck.
    """
    counted: dict[int, tuple[int, int]] = {}
    for start, calls, retries in recent:
        if bucket - start < BUDGET_SPAN:
            had = counted.get(min(start, bucket), (0, 0))
            counted[min(start, bucket)] = (had[0] + calls, had[1] + retries)
    return tuple((start, *counted[start]) for start in sorted(counted))


def _bucket(now: datetime) -> int:
    return math.floor(now.timestamp()) // BUDGET_BUCKET * BUDGET_BUCKET
