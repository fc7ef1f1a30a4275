"""Charts: what they count, their time ranges and marks, and the table that holds it all without JavaScript."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import pytest
from django.utils import timezone

from dashboard.presenters.charts import chart, time_range_of
from integrations.models import Event, Service, Tally, TallyDay, TallyHour
from integrations.models.tally import Counts, add
from tests.support.signed_in import a_service, browser, page_of, words

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 14, 33, 20, tzinfo=UTC)


def calls_at(service: Service, moment: datetime, *took: float) -> None:
    counts = Counts(calls=len(took), delivered=len(took))
    for seconds in took:
        counts.took(seconds)
    add({service.pk: counts}, moment)


@pytest.mark.parametrize(
    ("start", "end", "unit", "bars", "first"),
    [
        ("2026-03-10T14:03Z", "2026-03-10T14:30Z", "minute", 27, "2026-03-10T14:03Z"),
        ("2026-03-10T10:02Z", "2026-03-10T14:31Z", "5 minutes", 55, "2026-03-10T10:00Z"),
        ("2026-03-08T10:30Z", "2026-03-10T10:00Z", "hour", 48, "2026-03-08T10:00Z"),
        ("2026-03-04T10:00Z", "2026-03-04T10:20Z", "hour", 1, "2026-03-04T10:00Z"),  # its minutes are gone
        ("2025-11-01T10:00Z", "2025-11-03T00:00Z", "day", 2, "2025-11-01T00:00Z"),  # its hours are gone
        ("2026-03-10T14:30Z", "2026-04-01T00:00Z", "minute", 4, "2026-03-10T14:30Z"),  # not beyond now
        ("2016-03-01T00:00Z", "2026-03-10T00:00Z", "day", 366, "2025-03-09T00:00Z"),
    ],
)
def test_a_range_counts_with_the_finest_steps_that_are_kept(
    start: str, end: str, unit: str, bars: int, first: str
) -> None:
    found = time_range_of({"from": start, "until": end}, NOW)
    assert (found.unit, found.bars, found.start) == (unit, bars, datetime.fromisoformat(first))
    assert time_range_of({"from": first, "until": f"{found.end:%Y-%m-%dT%H:%MZ}"}, NOW).query == found.query


@pytest.mark.parametrize(
    "query",
    [
        {"from": "2026-03-10T14:30Z", "until": "2026-03-10T14:03Z"},
        {"from": "2026-03-11T00:00Z", "until": "2026-03-12T00:00Z"},
        {"from": "0001-01-01", "until": "9999-12-31T23:59"},
        {"from": "yesterday", "until": "now"},
        {"from": "2026-03-10T14:30Z"},
        {"span": "century"},
        {},
    ],
)
def test_a_range_that_is_none_shows_the_last_hour(query: dict[str, str]) -> None:
    assert time_range_of(query, NOW).name == "hour"


def test_a_time_without_a_zone_is_the_viewers() -> None:
    with timezone.override("Asia/Tokyo"):
        found = time_range_of({"from": "2026-03-10T23:03", "until": "2026-03-10T23:30"}, NOW)
        assert found.label == "from 23:03 to 23:30"
    assert found.query == "from=2026-03-10T14:03Z&until=2026-03-10T14:30Z"


def test_a_chart_counts_its_own_time_and_service_only() -> None:
    service, other = a_service("billing"), a_service("crm")
    for minutes in (2, 3, 4, 29, 30):
        calls_at(service, NOW.replace(minute=minutes), 0.02)
    calls_at(other, NOW.replace(minute=5), 0.02)
    time_range = time_range_of({"from": "2026-03-10T14:03Z", "until": "2026-03-10T14:30Z"}, NOW)
    assert [bar.start.minute for bar in chart(time_range, service).bars] == [3, 4, 29]
    assert chart(time_range).whole.calls == 4


def test_five_minutes_are_one_bar_with_the_percentiles_of_all_their_calls() -> None:
    service = a_service()
    calls_at(service, NOW.replace(hour=10, minute=0), *[0.02] * 90)
    calls_at(service, NOW.replace(hour=10, minute=4), *[2.0] * 10)
    calls_at(service, NOW.replace(hour=10, minute=5), 0.02)
    time_range = time_range_of({"from": "2026-03-10T10:00Z", "until": "2026-03-10T14:00Z"}, NOW)
    first, second = chart(time_range, service).bars
    assert (first.calls, second.calls) == (100, 1)
    assert first.p50 is not None
    assert first.p95 is not None
    assert first.p50 <= 0.02
    assert 1.0 < first.p95 <= 2.0


def test_a_page_and_its_panel_stay_with_the_chosen_range() -> None:
    service, now = a_service(), timezone.now()
    start = now.replace(second=0, microsecond=0) - timedelta(minutes=30)
    calls_at(service, start, 0.02, 0.02)
    calls_at(service, now, 0.02)
    query = f"from={start:%Y-%m-%dT%H:%MZ}&until={start + timedelta(minutes=5):%Y-%m-%dT%H:%MZ}"
    client = browser()
    for path in ("/", "/_p/overview/", "/services/billing/", "/_p/services/billing/"):
        page = client.get(f"{path}?{query}").content.decode()
        assert "Calls per minute: 2 calls, 0 failed" in page
        assert query.replace("&", "&amp;") in page  # the panel reloads with it


def test_a_bar_leads_to_the_messages_accepted_then() -> None:
    service, now = a_service(), timezone.now()
    calls_at(service, now, 0.02)
    page = unquote(page_of(browser(), "/services/billing/"))
    start = now.replace(second=0, microsecond=0)
    found = f"after:{start:%Y-%m-%dT%H:%MZ} before:{start + timedelta(minutes=1):%Y-%m-%dT%H:%MZ}"
    assert f'href="/messages/?service=billing&amp;q={found}"' in page
    assert browser(name="another").get("/messages/", {"service": "billing", "q": found}).status_code == 200


def test_changes_of_a_service_are_marked_in_its_own_chart() -> None:
    billing, crm = a_service("billing"), a_service("crm")
    Event.objects.all().delete()
    for service, minutes, field in ((billing, 5, "timeout"), (crm, 6, "base_url"), (billing, 90, "retry")):
        facts = {"fields": [field], "by": "mary"}
        moment = timezone.now() - timedelta(minutes=minutes)
        Event.objects.create(type="service.changed", at=moment, service=service, facts=facts)
    Event.objects.create(type="breaker.opened", service=billing)
    page = words(browser().get("/services/billing/"))
    assert "1 change of the service Settings changed by mary: timeout" in page


def test_the_charts_go_back_an_hour_a_day_or_thirty_days() -> None:
    service, now = a_service(), timezone.now()
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    TallyHour.objects.create(service=service, start=this_hour, calls=30, failures=10, seconds=6, within_200ms=30)
    TallyDay.objects.create(service=service, start=this_hour.replace(hour=0), calls=400, failures=1, within_1s=400)
    client = browser()
    told = {"hour": "0 calls, 0 failed", "day": "30 calls, 10 failed", "month": "400 calls, 1 failed"}
    for span, calls in told.items():
        for path in ("/", "/_p/overview/", "/services/billing/", "/_p/services/billing/"):
            page = client.get(path, {"span": span}).content.decode()
            assert calls in page
            assert f"?span={span}&" in page or f'?span={span}"' in page  # the panel goes on with the same span
    assert "Calls in the last hour" in words(client.get("/", {"span": "century"}))
    assert "P50 175 ms, P95 198 ms, P99 200 ms" in client.get("/", {"span": "day"}).content.decode()


def test_only_pages_that_draw_a_chart_load_its_library() -> None:
    a_service()
    client = browser()
    assert "uPlot" in page_of(client, "/")
    assert "uPlot" in page_of(client, "/services/billing/")
    for path in ("/services/", "/messages/", "/failures/", "/breakers/", "/status/"):
        assert "uPlot" not in page_of(client, path)


def test_the_table_has_every_value_without_javascript() -> None:
    service = a_service()
    Tally.objects.create(
        service=service, start=timezone.now().replace(second=0, microsecond=0), calls=4, failures=1, within_20ms=4
    )
    page = words(browser().get("/services/billing/"))
    assert "Minute Calls Failed P50 P95 P99" in page
    assert "4 1 18 ms 20 ms 20 ms" in page
