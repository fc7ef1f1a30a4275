"""Sum the counters by minute into hours, and those into days, before the minutes are deleted.

Each run sums the hours and days that may have changed again and overwrites them, so it may run twice, in two workers at
once, and after any pause. After a minute is over, only a settlement in progress still adds to it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max, Sum
from django.db.models.functions import TruncDay, TruncHour

from integrations.models import Tally, TallyDay, TallyHour
from integrations.models.tally import COUNTER_COLUMNS, TallyBase

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
MINUTES_KEPT = timedelta(days=3)
HOURS_KEPT = timedelta(days=40)


def roll() -> None:
    """Bring the hours up to date, and from them the days."""
    _roll(Tally, TallyHour, TruncHour("start", tzinfo=UTC), HOUR)
    _roll(TallyHour, TallyDay, TruncDay("start", tzinfo=UTC), DAY)


def prune(now: datetime) -> None:
    """Delete the minutes and hours that no page reads any more."""
    # Whole hours and days: the rest of a partly deleted hour would be summed as the whole hour.
    Tally.objects.filter(start__lt=(now - MINUTES_KEPT).replace(minute=0, second=0, microsecond=0)).delete()
    TallyHour.objects.filter(start__lt=(now - HOURS_KEPT).replace(hour=0, minute=0, second=0, microsecond=0)).delete()


def _roll(parts: type[TallyBase], wholes: type[TallyBase], whole: TruncHour | TruncDay, length: timedelta) -> None:
    """Sum from the whole before the newest on, since it may have changed after the last run."""
    newest: datetime | None = wholes._default_manager.aggregate(newest=Max("start"))["newest"]
    counted = parts._default_manager.filter(start__gte=newest - length) if newest else parts._default_manager.all()
    sums: Any = counted.annotate(whole=whole).values_list("service_id", "whole").order_by()
    wholes._default_manager.bulk_create(
        [
            wholes(service_id=service_id, start=start, **dict(zip(COUNTER_COLUMNS, row, strict=True)))
            for service_id, start, *row in sums.annotate(*(Sum(name) for name in COUNTER_COLUMNS))
        ],
        update_conflicts=True,
        unique_fields=["service", "start"],
        update_fields=COUNTER_COLUMNS,
        batch_size=500,
    )
