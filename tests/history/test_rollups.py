"""Hours and days of the counters: made from the minutes, by any worker and any number of times."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from integrations.history import rollups
from integrations.models import Service, Tally, TallyDay, TallyHour
from integrations.models.tally import BOUNDS, COARSER, DURATIONS, Counts, add, quantile

pytestmark = pytest.mark.django_db
OLDER_COLUMNS = (
    *("failures", "retries", "delivered", "dead", "checks", "failed_checks", "seconds"),
    *("within_10ms", "within_20ms", "within_50ms", "within_100ms", "within_200ms", "within_500ms", "within_1s"),
    *("within_2s", "within_5s", "within_10s", "within_30s", "beyond_30s"),
)
BEFORE, ZEROS = ", ".join(OLDER_COLUMNS), ", ".join("0" for _ in OLDER_COLUMNS)
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def service() -> Service:
    return Service.objects.create(name="billing", base_url="http://127.0.0.1:9")


def count(service: Service, at: datetime, calls: int = 1, took: float = 0.03) -> None:
    counts = Counts(calls=calls, delivered=calls)
    for _ in range(calls):
        counts.took(took)
    add({service.pk: counts}, at)


def hours() -> dict[datetime, int]:
    return dict(TallyHour.objects.values_list("start", "calls"))


def test_minutes_become_hours_and_days(service: Service) -> None:
    other = Service.objects.create(name="crm", base_url="http://127.0.0.1:9")
    count(service, NOON + timedelta(minutes=1), calls=2)
    count(service, NOON + timedelta(minutes=59), calls=3, took=1.5)
    count(service, NOON + timedelta(hours=12), calls=4)
    count(other, NOON, calls=7)
    rollups.roll()
    (hour,) = TallyHour.objects.filter(service=service, start=NOON)
    assert (hour.calls, hour.delivered, hour.within_50ms, hour.within_2s) == (5, 5, 2, 3)
    assert hour.seconds == pytest.approx(2 * 0.03 + 3 * 1.5)
    midnight = NOON.replace(hour=0)
    days = set(TallyDay.objects.values_list("service__name", "start", "calls"))
    assert days == {("billing", midnight, 5), ("billing", midnight + timedelta(days=1), 4), ("crm", midnight, 7)}


def test_rolling_again_changes_nothing_and_takes_in_what_came_late(service: Service) -> None:
    count(service, NOON)
    rollups.roll()
    rollups.roll()
    assert hours() == {NOON: 1}
    count(service, NOON + timedelta(hours=1))
    rollups.roll()
    count(service, NOON + timedelta(minutes=59), calls=5)  # a settlement of the hour before, only just committed
    rollups.roll()
    assert hours() == {NOON: 6, NOON + timedelta(hours=1): 1}
    assert TallyDay.objects.get().calls == 7


def test_after_a_long_stop_nothing_is_left_out(service: Service) -> None:
    count(service, NOON)
    rollups.roll()
    later = NOON + timedelta(hours=30)
    count(service, NOON + timedelta(minutes=30), calls=2)  # written before the stop, never rolled
    count(service, later)
    rollups.roll()
    assert hours() == {NOON: 3, later: 1}


def test_minutes_and_hours_go_and_what_was_made_of_them_stays(service: Service) -> None:
    begin = NOON - timedelta(minutes=30)
    for minutes in range(0, 120, 10):
        count(service, begin + timedelta(minutes=minutes))
    rollups.roll()
    before, day = hours(), TallyDay.objects.get().calls
    rollups.prune(NOON + rollups.MINUTES_KEPT + timedelta(minutes=45))
    assert min(Tally.objects.values_list("start", flat=True)) == NOON  # never a part of an hour
    rollups.roll()
    assert hours() == before
    rollups.prune(NOON + rollups.HOURS_KEPT + timedelta(days=1))
    rollups.roll()
    assert not TallyHour.objects.exists()
    assert TallyDay.objects.get().calls == day == 12


@given(st.lists(st.floats(min_value=0.0, max_value=100.0), min_size=1, max_size=200))
def test_a_quantile_lies_within_the_bounds_of_the_true_one(durations: list[float]) -> None:
    counts = Counts()
    for duration in durations:
        counts.took(duration)
    assert sum(counts.durations[list(DURATIONS).index(name)] for name in COARSER) == len(durations)
    true = sorted(durations)[math.ceil(0.95 * len(durations)) - 1]
    found = quantile(0.95, counts.durations)
    above = next(bound for bound in BOUNDS if true <= bound)
    below = max((bound for bound in BOUNDS if bound < above), default=0.0)
    assert found is not None
    assert below <= found <= (above if above < math.inf else below)


def test_everything_fast_read_10_ms() -> None:
    counts = Counts()
    for duration in (0.0008, 0.0015, 0.0025, 0.004, 0.006, 0.009):
        counts.took(duration)
    p50, p95 = quantile(0.5, counts.durations), quantile(0.95, counts.durations)
    assert p50 == pytest.approx(0.003)
    assert p95 == pytest.approx(0.0091)


def test_a_worker_of_the_version_before_writes_beside_this_one(service: Service) -> None:
    """It knows only the coarser columns: its calls count in the last part of each, as all did before."""
    count(service, NOON, calls=3, took=0.0015)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO integrations_tally (service_id, start, calls, {BEFORE}) VALUES (%s, %s, 3, {ZEROS}) "
            "ON CONFLICT (service_id, start) DO UPDATE SET calls = integrations_tally.calls + excluded.calls, "
            "within_10ms = integrations_tally.within_10ms + 1, within_20ms = integrations_tally.within_20ms + 2",
            [service.pk, connection.ops.adapt_datetimefield_value(NOON)],
        )
        cursor.execute(
            f"INSERT INTO integrations_tally (service_id, start, calls, {BEFORE}) VALUES (%s, %s, 0, {ZEROS})",
            [service.pk, connection.ops.adapt_datetimefield_value(NOON + timedelta(minutes=1))],
        )
    rollups.roll()
    for model in (Tally, TallyHour):
        (counted,) = model.objects.filter(service=service, start=NOON)
        assert (counted.calls, counted.within_2ms, counted.within_10ms, counted.within_20ms) == (6, 3, 4, 2)
        durations = [getattr(counted, name) for name in DURATIONS]
        assert quantile(0.5, durations) == pytest.approx(0.002)
        assert quantile(4 / 6, durations) == pytest.approx(0.01)
        assert quantile(0.99, durations) == pytest.approx(0.02, rel=0.05)


def test_without_calls_there_is_no_quantile() -> None:
    assert quantile(0.95, [0] * len(DURATIONS)) is None
