"""Decide when a message is retried, and when it is dead.

A time is decided once, after a call, and stored in the message's row: no worker sleeps until then. The attempts, the
clock and the randomness are parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import lru_cache
from random import Random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

DAY = 86_400.0
RETRY_AFTER_MAX = DAY  # a service may ask for a day; a longer time is probably its mistake
DELAY_MAX = 30 * DAY  # keeps every sum of times far from the end of the calendar
DEADLINE_MAX = 365 * DAY

Delay = Annotated[float, Field(ge=0, le=DELAY_MAX)]
StatusClass = Annotated[str, Field(pattern=r"^[1-5]xx$")]
StatusCode = Annotated[int, Field(ge=100, le=599)]


class DeadReason(StrEnum):
    """The reason why a message is dead, from a fixed set of words (docs/contract.md)."""

    ATTEMPTS = "attempts"
    STATUS = "status"
    GONE = "gone"
    DEADLINE = "deadline"
    EXPIRED = "expired"
    WORKER_LOST = "worker_lost"
    BLOCKED = "blocked"
    CONFIG = "config"


class RetryPolicy(BaseModel):
    """A service's ``retry`` settings; the defaults span about 20 hours. Durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_attempts: int = Field(10, ge=1, le=1000, description="Most attempts of a message, the first one included.")
    initial: float = Field(5, ge=0, le=DELAY_MAX, description="Seconds between the first attempt and its retry.")
    factor: float = Field(4, ge=1, le=1000, description="Each wait is this many times as long as the one before.")
    max: float = Field(21_600, ge=0, le=DELAY_MAX, description="Longest wait in seconds, before jitter.")
    jitter: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Each wait becomes longer or shorter by up to this share, so that retries spread out.",
    )
    schedule: tuple[Delay, ...] | None = Field(
        None,
        max_length=50,
        description="Custom waits in seconds, one for each retry. They replace initial, factor and max.",
    )
    deadline: float | None = Field(
        None,
        gt=0,
        le=DEADLINE_MAX,
        description="No attempt starts later than this many seconds after the message first became due.",
    )
    budget: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Retries may be at most this share of a service's calls in any minute; 1 means no limit.",
    )
    retry_on: tuple[StatusClass | StatusCode, ...] = Field(
        ("5xx", 408, 425, 429),
        max_length=500,
        description="Responses to retry: status codes such as 408, or classes such as 5xx.",
    )
    on_gone: Literal["dead", "pause"] = Field(
        "dead", description="After a 410 response, either the message is dead or the whole service pauses."
    )

    @property
    def attempts_allowed(self) -> int:
        """Most attempts of a message: with a schedule one more than its entries, and never above ``max_attempts``."""
        return self.max_attempts if self.schedule is None else min(self.max_attempts, len(self.schedule) + 1)


def next_attempt(
    policy: RetryPolicy,
    *,
    attempts: int,
    first_due: datetime,
    expires_at: datetime | None,
    now: datetime,
    retry_after: float | None,
    random: Random,
) -> datetime | DeadReason:
    """Return the time of the retry after ``attempts`` used attempts, or the reason against one.

    ``first_due`` is ``max(created_at, deliver_at)``; the deadline counts from there.
    """
    if attempts >= policy.attempts_allowed:
        return DeadReason.ATTEMPTS
    due = now + timedelta(seconds=delay_after(policy, attempts, retry_after=retry_after, random=random))
    return _too_late(policy, due, first_due, expires_at) or due


def delay_after(policy: RetryPolicy, attempts: int, *, retry_after: float | None, random: Random) -> float:
    """Return the seconds to wait after ``attempts`` used attempts; 1 means that the first call has just failed.

    Jitter is added after the cap, so a wait may be up to ``max·(1 + jitter)``. ``retry_after`` can only lengthen the
    wait, to a day at most.
    """
    computed = _delay_without_jitter(policy, attempts) * random.uniform(1 - policy.jitter, 1 + policy.jitter)
    return max(computed, min(retry_after or 0.0, RETRY_AFTER_MAX))


def _too_late(
    policy: RetryPolicy, due: datetime, first_due: datetime, expires_at: datetime | None
) -> DeadReason | None:
    if expires_at is not None and due > expires_at:
        return DeadReason.EXPIRED
    if policy.deadline is not None and due > first_due + timedelta(seconds=policy.deadline):
        return DeadReason.DEADLINE
    return None


def _delay_without_jitter(policy: RetryPolicy, attempts: int) -> float:
    """tenacity's wait_exponential and wait_chain compute the same, but only from the state of a running call."""
    if policy.schedule is not None:
        return policy.schedule[min(attempts, len(policy.schedule)) - 1] if policy.schedule else 0.0
    if policy.initial == 0:
        return 0.0  # 0·factor^999 would overflow to the maximum
    try:
        return float(min(policy.max, policy.initial * policy.factor ** (attempts - 1)))
    except OverflowError:
        return policy.max


def preview(
    policy: RetryPolicy, start: datetime, *, expires_at: datetime | None = None, limit: int = 1000
) -> list[datetime]:
    """Return the times of all attempts, at most ``limit``, as if every call failed at once and without jitter.

    For forms. The first time is always ``start``; after the attempt at the last time the message is dead.
    """
    times = [start]
    for attempts in range(1, min(policy.attempts_allowed, limit)):
        due = times[-1] + timedelta(seconds=_delay_without_jitter(policy, attempts))
        if _too_late(policy, due, start, expires_at):
            break
        times.append(due)
    return times


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds of a ``Retry-After`` header, rounded up; None for junk, a negative number or a past date."""
    text = (value or "").strip()
    if SECONDS.fullmatch(text):
        return float(math.ceil(float(text)))
    date = http_date(text)
    if date is None or date < now:
        return None
    return float(math.ceil((date - now).total_seconds()))


def http_date(text: str) -> datetime | None:
    """Return the time of an HTTP-date, or None for junk."""
    if not DATE.fullmatch(text := text.strip()):
        return None
    try:
        date = parsedate_to_datetime(text)
        # The asctime form has no zone: RFC 9110 reads it as UTC.
        return date.replace(tzinfo=date.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


# RFC 9110 section 10.2.3: delay-seconds or an HTTP-date. Decimals are not in the RFC, but servers send them.
SECONDS = re.compile(r"[0-9]{1,300}(\.[0-9]{0,300})?", re.ASCII)
# All three date forms of RFC 9110 section 5.6.7 begin with the day's name; email.utils accepts much more.
DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .{8,40}", re.ASCII)


def is_named(status_code: int, retry_on: Iterable[str | int]) -> bool:
    """Whether ``retry_on`` contains this status, as a number or by its class."""
    return status_code in _statuses(tuple(retry_on))


@lru_cache(maxsize=1024)
def _statuses(retry_on: tuple[str | int, ...]) -> frozenset[int]:
    named: set[int] = set()
    for entry in retry_on:
        named.update([entry] if isinstance(entry, int) else range(int(entry[0]) * 100, int(entry[0]) * 100 + 100))
    return frozenset(named)
