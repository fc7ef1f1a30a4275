"""Limits of a service: rate, concurrency, timeouts and retry budget; and the fair share between services."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

SLOWEST_PACE = 7 * 86_400.0  # one call in a week; for less, pause the service
USED_OF_RATE = 0.97  # slots are spaced for this share of a rate; sends on a busy machine were measured 20 ms late
EXACT_RATE = 200  # calls in a period: up to this rate a receiver may see one call too many, above it EXCESS of the rate
EXCESS = 0.02
CLOCK_SKEW = timedelta(seconds=5)  # machines' clocks may differ by this before a slot is taken for a mistake
NO_LIMIT = sys.maxsize
BUDGET_SPAN = 60  # seconds that a retry budget looks back
BUDGET_BUCKET = 5  # seconds per bucket: twelve small rows, and at most 5 s too few count

Recent = tuple[tuple[int, int, int], ...]  # (start of the bucket in epoch seconds, calls, retries among them)


class Limits(BaseModel):
    """A service's ``limits`` settings: ``rate`` calls every ``per`` seconds, ``concurrency`` at the same time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rate: float | None = Field(
        None, gt=0, le=100_000, description="How many calls may be sent in each period; empty means no limit."
    )
    per: float = Field(1, gt=0, le=86_400, validate_default=True, description="The length of that period in seconds.")
    concurrency: int = Field(10, ge=1, le=1000, description="How many calls may be in flight at the same time.")

    @field_validator("per")
    @classmethod
    def _is_a_usable_pace(cls, per: float, info: ValidationInfo) -> float:
        rate = info.data.get("rate")
        if rate is not None and per / rate > SLOWEST_PACE:
            raise PydanticCustomError("pace", "less than one call a week: pause the service instead")
        return per

    @property
    def interval(self) -> timedelta:
        """Time between two sends: a little longer than the rate requires, because calls arrive early or late."""
        return timedelta(seconds=self.per / self.rate / USED_OF_RATE) if self.rate else timedelta(0)

    @property
    def patience(self) -> timedelta:
        """How late a send may be. Later than this, it gives its slot back.

        If all calls arrive within twice this time after their slots, no period has more calls than the rate plus one
        (above ``EXACT_RATE``: plus 2 %). Half of that time is for the way from the send to the receiver.
        """
        if not self.rate:
            return timedelta(0)
        excess = 1 if self.rate <= EXACT_RATE else self.rate * EXCESS - 1  # less one for the slot that opens a period
        return timedelta(seconds=self.per * (excess / self.rate + 1 - USED_OF_RATE) / 2)


class Timeout(BaseModel):
    """A service's ``timeout`` settings, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    connect: float = Field(5, ge=0.05, le=60, description="Seconds to connect to the service before the call fails.")
    total: float = Field(
        30, ge=0.05, le=300, description="Seconds for a whole call, from the DNS lookup to the last byte."
    )

    @property
    def connect_within(self) -> float:
        """Seconds for connecting: never more than for the whole call."""
        return min(self.connect, self.total)


def slots(
    limits: Limits, next_slot: datetime | None, now: datetime, wanted: int, horizon: timedelta
) -> tuple[tuple[datetime, ...], datetime | None]:
    """Return up to ``wanted`` send times, evenly spaced and none after ``now + horizon``, and the new ``next_slot``.

    The generic cell rate algorithm without a burst: the row holds one time, the earliest free slot. ``next_slot`` is
    for the rate alone; a ``Retry-After`` needs a column of its own, because this function takes a slot beyond its
    horizon for a clock that moved back, and pulls it in.
    """
    if limits.rate is None:
        return (now,) * max(0, wanted), None
    interval, last = limits.interval, now + horizon
    first = max(next_slot or now, now)
    if first > last + interval + CLOCK_SKEW:
        first = last  # granted, so that it is saved: a time that only this call saw would stay far away in the row
    fitting = 0 if first > last else (last - first) // interval + 1
    granted = min(max(0, wanted), fitting)
    return tuple(first + interval * index for index in range(granted)), first + interval * granted


def budget_left(recent: Recent, policy_budget: float, now: datetime, floor: int = 10) -> int:
    """Return how many more retries this minute may have, at least 0. A share of 1 is no limit.

    By the formula it would be a limit: when only retries are left, there are never more calls than retries.
    """
    if policy_budget >= 1:
        return NO_LIMIT
    used, allowed = budget_use(recent, policy_budget, now, floor)
    return max(0, allowed - used)


def budget_use(recent: Recent, policy_budget: float, now: datetime, floor: int = 10) -> tuple[int, int]:
    """Return the retries of the last minute, and how many are allowed: a share of its calls, at least ``floor``."""
    kept = _last_minute(recent, _bucket(now))
    calls, retries = sum(row[1] for row in kept), sum(row[2] for row in kept)
    return retries, max(floor, math.floor(policy_budget * calls + 1e-9))  # 0.29·100 is 28.999999999999996


def record(recent: Recent, now: datetime, calls: int, retries: int) -> Recent:
    """Add ``calls``, ``retries`` of them retries, to ``recent``, and drop buckets that are over a minute old."""
    bucket = _bucket(now)
    kept = _last_minute(recent, bucket)
    if kept and kept[-1][0] == bucket:
        calls, retries, kept = calls + kept[-1][1], retries + kept[-1][2], kept[:-1]
    return (*kept, (bucket, calls, retries)) if calls or retries else kept


def share(capacity: int, wants: Sequence[int]) -> list[int]:
    """Split ``capacity`` places max-min fairly: no service gets more while another wants more and has less.

    Places that do not divide evenly go to the first services, so callers rotate the order.
    """
    shares = [0] * len(wants)
    left = max(0, capacity)
    hungry = [index for index, want in enumerate(wants) if want > 0]
    while hungry and left >= len(hungry):
        portion = left // len(hungry)
        for index in hungry:
            portion_here = min(portion, wants[index] - shares[index])
            shares[index] += portion_here
            left -= portion_here
        hungry = [index for index in hungry if shares[index] < wants[index]]
    for index in hungry[:left]:
        shares[index] += 1
    return shares


def _last_minute(recent: Recent, bucket: int) -> Recent:
    """Return the buckets that still count, oldest first.

    A bucket in the future means that the clock moved back. Its calls are recent: they count as of now and age from
    now, so they are neither lost nor counted forever.
    """
    counted: dict[int, tuple[int, int]] = {}
    for start, calls, retries in recent:
        if bucket - start < BUDGET_SPAN:
            had = counted.get(min(start, bucket), (0, 0))
            counted[min(start, bucket)] = (had[0] + calls, had[1] + retries)
    return tuple((start, *counted[start]) for start in sorted(counted))


def _bucket(now: datetime) -> int:
    return math.floor(now.timestamp()) // BUDGET_BUCKET * BUDGET_BUCKET
