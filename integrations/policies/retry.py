"""When a message is tried again, and when it is given up.

Times are decided once, after a call, and stored in the row: no worker sleeps. tenacity's wait strategies are the
arithmetic; everything they may depend on (attempts, the clock, randomness) comes in.
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
from tenacity import RetryCallState
from tenacity.wait import wait_base, wait_chain, wait_exponential, wait_fixed

DAY = 86_400.0
RETRY_AFTER_MAX = DAY  # a service may ask for a day; more is taken for a mistake on its side
DELAY_MAX = 30 * DAY  # keeps every sum of times far from the end of the calendar
DEADLINE_MAX = 365 * DAY

Delay = Annotated[float, Field(ge=0, le=DELAY_MAX)]
StatusClass = Annotated[str, Field(pattern=r"^[1-5]xx$")]
StatusCode = Annotated[int, Field(ge=100, le=599)]


class DeadReason(StrEnum):
    """Why a message is dead. The words are fixed: docs/contract.md."""

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

    max_attempts: int = Field(
        10, ge=1, le=1000, description="How many calls a message gets at most, the first one included."
    )
    initial: float = Field(5, ge=0, le=DELAY_MAX, description="Seconds to wait after the first failed call.")
    factor: float = Field(4, ge=1, le=1000, description="Each wait is this many times as long as the one before it.")
    max: float = Field(21_600, ge=0, le=DELAY_MAX, description="No wait is longer than this many seconds.")
    jitter: float = Field(
        0.2, ge=0, le=1, description="Each wait is made up to this share longer or shorter, so that retries spread out."
    )
    schedule: tuple[Delay, ...] | None = Field(
        None,
        max_length=50,
        description="The waits in seconds, one by one; when given it alone decides how often and when to try again.",
    )
    deadline: float | None = Field(
        None,
        gt=0,
        le=DEADLINE_MAX,
        description="No call starts later than this many seconds after the message was due for the first time.",
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
        description="Answers that are worth another try: status codes such as 408, or classes such as 5xx.",
    )
    on_gone: Literal["dead", "pause"] = Field(
        "dead", description="What a 410 answer does: the message is dead, or the whole service pauses."
    )

    @property
    def attempts_allowed(self) -> int:
        """Calls a message gets at most: with a schedule one, then one per entry, and never over ``max_attempts``."""
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
    """When to try again after ``attempts`` used attempts, or why not.

    ``first_due`` is ``max(created_at, deliver_at)``; the deadline counts from there.
    """
    if attempts >= policy.attempts_allowed:
        return DeadReason.ATTEMPTS
    due = now + timedelta(seconds=delay_after(policy, attempts, retry_after=retry_after, random=random))
    return _too_late(policy, due, first_due, expires_at) or due


def delay_after(policy: RetryPolicy, attempts: int, *, retry_after: float | None, random: Random) -> float:
    """Seconds to wait after ``attempts`` used attempts (1 = the first call has just failed).

    Jitter comes on top of the cap, so a wait may be up to ``max·(1 + jitter)``. ``retry_after`` only ever prolongs
    the wait, by a day at most.
    """
    computed = _plain_delay(policy, attempts) * random.uniform(1 - policy.jitter, 1 + policy.jitter)
    return max(computed, min(retry_after or 0.0, RETRY_AFTER_MAX))


def preview(
    policy: RetryPolicy, start: datetime, *, expires_at: datetime | None = None, limit: int = 1000
) -> list[datetime]:
    """The times of all attempts, as if every call failed at once and without jitter; the last one is the end.

    For forms: "tries at …; gives up after the one at …". At most ``limit`` times; ``start`` is always the first.
    """
    times = [start]
    for attempts in range(1, min(policy.attempts_allowed, limit)):
        due = times[-1] + timedelta(seconds=_plain_delay(policy, attempts))
        if _too_late(policy, due, start, expires_at):
            break
        times.append(due)
    return times


# RFC 9110, 10.2.3: delay-seconds or an HTTP-date. Decimals are outside the RFC and seen in the wild.
_SECONDS = re.compile(r"[0-9]{1,300}(\.[0-9]{0,300})?", re.ASCII)
# All three date forms of RFC 9110, 5.6.7 begin with the name of the day; email.utils alone would take far more.
_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .{8,40}", re.ASCII)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, rounded up; ``None`` for junk, a negative or a past date."""
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        return float(math.ceil(float(text)))
    date = http_date(text)
    if date is None or date < now:
        return None
    return float(math.ceil((date - now).total_seconds()))


def http_date(text: str) -> datetime | None:
    """The moment that an HTTP-date names; ``None`` for junk."""
    if not _DATE.fullmatch(text := text.strip()):
        return None
    try:
        date = parsedate_to_datetime(text)
        # asctime's form has no zone; RFC 9110 reads it as UTC.
        return date.replace(tzinfo=date.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def is_named(status_code: int, retry_on: Iterable[str | int]) -> bool:
    """Whether ``retry_on`` has this status, as a number or through its class."""
    return status_code in _statuses(tuple(retry_on))


def _too_late(
    policy: RetryPolicy, due: datetime, first_due: datetime, expires_at: datetime | None
) -> DeadReason | None:
    if expires_at is not None and due > expires_at:
        return DeadReason.EXPIRED
    if policy.deadline is not None and due > first_due + timedelta(seconds=policy.deadline):
        return DeadReason.DEADLINE
    return None


def _plain_delay(policy: RetryPolicy, attempts: int) -> float:
    """Seconds after ``attempts`` attempts, before jitter."""
    formula = _formula(policy.initial, policy.factor, policy.max, policy.schedule)
    # tenacity as a formula: a wait strategy reads nothing but the attempt number of the call's state.
    call = RetryCallState(retry_object=None, fn=None, args=(), kwargs={})  # type: ignore[arg-type]
    call.attempt_number = attempts
    return float(formula(call))


@lru_cache(maxsize=1024)  # one entry per distinct setting, so about one per service
def _formula(initial: float, factor: float, longest: float, schedule: tuple[float, ...] | None) -> wait_base:
    if schedule:
        return wait_chain(*(wait_fixed(seconds) for seconds in schedule))
    if schedule is not None or initial == 0:
        # 0·factor^999 overflows inside wait_exponential, which then answers its maximum instead of 0.
        return wait_fixed(0)
    return wait_exponential(multiplier=initial, exp_base=factor, max=longest)


@lru_cache(maxsize=1024)
def _statuses(retry_on: tuple[str | int, ...]) -> frozenset[int]:
    named: set[int] = set()
    for entry in retry_on:
        named.update([entry] if isinstance(entry, int) else range(int(entry[0]) * 100, int(entry[0]) * 100 + 100))
    return frozenset(named)
