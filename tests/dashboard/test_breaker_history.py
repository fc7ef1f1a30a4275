"""A breaker's history and pace on the pages: causes with their calls, trips, the retry budget, the release."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from dashboard.presenters.breaker_history import CHANGES_READ, latest_open_periods, open_periods_of, paired
from integrations.models import Attempt, Event, Role, Service, Status, Trigger
from integrations.policies.breaker import Transition
from integrations.policies.limits import record
from tests.support.signed_in import a_service, browser, messages_of, trip, words

TIME = r"(?:\d+ \w{3} )?[\d:]+"  # with the date around midnight

pytestmark = pytest.mark.django_db


def failed_calls(service: Service, count: int, status_code: int = 503) -> list[Attempt]:
    now = timezone.now()
    return [
        Attempt.objects.create(
            message=message,
            service=service,
            number=2,
            trigger=Trigger.RETRY,
            started_at=now,
            duration=0.1,
            outcome="failed",
            fault="status",
            status_code=status_code,
        )
        for message in messages_of(service, Status.PENDING, count, due_at=now + timedelta(hours=1))
    ]


def change(service: Service, type_: str, minutes_ago: float, cause: str = "", **given: Any) -> None:
    at = timezone.now() - timedelta(minutes=minutes_ago)
    by = given.pop("by", "")
    Event.objects.record_changes(service, [Transition(type_, cause, **given)], at, by=by)  # type: ignore[arg-type]


def outage(service: Service) -> None:
    """Opened an hour ago, probed in vain twice, closed after ten minutes."""
    change(service, "opened", 60, "5 failures in a row")
    for minutes_ago in (56, 53):
        change(service, "half_opened", minutes_ago, "the open time is over: probing")
        change(service, "opened", minutes_ago - 1, "a probe failed")
    change(service, "closed", 50, "the probe succeeded")


# ---- how periods are built ------------------------------------------------------------------------------------------
def test_a_trip_lasts_from_its_opening_over_its_reopenings_to_its_closing() -> None:
    service = a_service()
    messages_of(service, Status.PENDING, 4, due_at=timezone.now() - timedelta(minutes=55))
    outage(service)
    (found,) = open_periods_of(service)
    assert (found.first.cause, found.last.cause, found.reopened) == ("5 failures in a row", "a probe failed", 2)
    assert found.seconds == pytest.approx(600, abs=1)
    assert found.held == 4
    assert not found.is_ongoing


def test_what_was_only_observed_is_a_history_apart() -> None:
    service = a_service()
    change(service, "opened", 9, "3 failures in a row", observed=True)
    change(service, "opened", 8, "forced open by an operator: x", by="person ada")
    change(service, "closed", 7, "the probe succeeded", observed=True)
    newest, observed = open_periods_of(service)
    assert (newest.first.cause, newest.closed_at) == ("forced open by person ada: x", None)
    assert observed.observed
    assert observed.seconds == pytest.approx(120, abs=1)
    assert observed.held is None  # every call was made


def test_only_the_newest_changes_are_read_and_the_cut_is_said(django_assert_max_num_queries: Any) -> None:
    service = a_service()
    now = timezone.now()
    Event.objects.bulk_create(
        Event(
            type="breaker.opened",
            at=now - timedelta(minutes=minutes),
            service=service,
            facts={"cause": "a probe failed"},
        )
        for minutes in range(CHANGES_READ + 50, 0, -1)
    )
    with django_assert_max_num_queries(3):
        (found,) = open_periods_of(service)
    assert found.began_earlier
    assert found.reopened == CHANGES_READ - 1
    with django_assert_max_num_queries(3):
        assert len(latest_open_periods()) == 1
    assert paired([]) == []


# ---- the page -------------------------------------------------------------------------------------------------------
def test_the_cause_links_the_calls_that_tripped_it() -> None:
    service = a_service()
    calls = failed_calls(service, 7)
    trip(service)
    change(service, "opened", 3, "7 failures in a row", attempts=tuple(call.public_id for call in calls))
    client = browser()
    for path in ("/services/billing/", "/breakers/"):
        page = client.get(path)
        assert "Tripped by 503 at" in words(page)
        assert "and 2 before" in words(page)
        for call in calls[2:]:
            assert call.message is not None
            assert f'href="/messages/{call.message.public_id}/#attempt-2"' in page.content.decode()


def test_a_trip_under_way_holds_what_waits_now() -> None:
    service = a_service()
    change(service, "opened", 3, "5 failures in a row")
    trip(service)
    messages_of(service, Status.PENDING, 7)
    client = browser(Role.VIEWER)
    assert re.search(r"5 failures in a row ongoing 0 7\b", words(client.get("/services/billing/")))
    assert re.search(rf"billing {TIME} 5 failures in a row ongoing 0 7\b", words(client.get("/breakers/")))


def test_a_breaker_changed_by_hand_is_told_with_who_and_why() -> None:
    a_service()
    client = browser()
    client.post("/services/billing/breaker/", {"action": "disable", "reason": "They test"})
    assert "Breaker disabled by person a-operator: They test" in words(client.get("/services/billing/"))


def test_the_retry_budget_and_what_waits_for_it_are_shown() -> None:
    service = a_service()
    service.runtime.recent = [list(row) for row in record((), timezone.now(), 20, 10)]
    service.runtime.save()
    messages_of(service, Status.PENDING, 3, priority=1)
    messages_of(service, Status.PENDING, 2, priority=0)
    client = browser()
    assert "Retry budget 10 of 10 used; 3 waiting" in words(client.get("/services/billing/"))
    assert "10 of 10 used: retries wait" in words(client.get("/breakers/"))


def test_the_release_after_a_closing_is_shown() -> None:
    service = a_service(limits={"concurrency": 8})
    service.runtime.ramp = 2
    service.runtime.save()
    client = browser()
    for path in ("/services/billing/", "/breakers/"):
        assert "Release 2 of 8 concurrent calls" in words(client.get(path))
    service.runtime.ramp = None
    service.runtime.save()
    assert "Release" not in words(client.get("/services/billing/"))


def test_a_service_that_asked_to_wait_says_until_when() -> None:
    service = a_service()
    service.runtime.throttled_until = timezone.now() + timedelta(minutes=2)
    service.runtime.save()
    assert re.search(
        rf"Asked to wait until {TIME} ?, in (2 min|1 min \d+ s)", words(browser().get("/services/billing/"))
    )


def test_the_pages_stay_within_their_queries(django_assert_max_num_queries: Any) -> None:
    for number in range(8):
        service = a_service(f"service-{number}")
        calls = failed_calls(service, 3)
        outage(service)
        change(service, "opened", 3, "3 failures in a row", attempts=tuple(call.public_id for call in calls))
        trip(service)
        service.runtime.recent = [list(row) for row in record((), timezone.now(), 20, 10)]
        service.runtime.save()
    client = browser()
    for path in ("/breakers/", "/_p/breakers/", "/services/service-1/", "/_p/services/service-1/"):
        with django_assert_max_num_queries(13):
            assert "Tripped by" in words(client.get(path))


def test_a_countdown_is_no_news() -> None:
    service = a_service()
    trip(service)
    client = browser()
    fragment = client.get("/_p/services/billing/").content.decode()
    assert "data-countdown" in fragment
    version = fragment.partition('"v": "')[2].partition('"')[0]
    # The text of a time is left out of the comparison, so a second later nothing is sent.
    assert client.get("/_p/services/billing/", {"v": version}).status_code == 204


# ---- by hand --------------------------------------------------------------------------------------------------------
def steer(given: dict[str, str], name: str = "") -> tuple[Any, datetime | None]:
    answer = browser(name=name).post("/services/billing/breaker/", {"reason": "x"} | given)
    return answer, Service.objects.get().runtime.mode_until


def test_a_manual_mode_ends_after_a_span_or_at_a_time() -> None:
    a_service()
    _, until = steer({"action": "open", "ends": "3600"})
    assert until is not None
    assert timedelta(minutes=59) < until - timezone.now() <= timedelta(hours=1)
    at = (timezone.now() + timedelta(hours=5)).replace(second=0, microsecond=0)
    for number, given in enumerate(({"ends": "at"}, {"ends": ""}, {})):  # with and without JavaScript, and a script
        answer, until = steer({"action": "observe", "until": at.strftime("%Y-%m-%dT%H:%M")} | given, f"n{number}")
        assert (answer.status_code, until) == (303, at)
    _, until = steer({"action": "disable", "ends": ""}, "d")
    assert until is None


def test_what_ends_no_mode_takes_no_time() -> None:
    a_service()
    answer, until = steer({"action": "reset", "ends": "3600", "until": "2020-01-01T00:00"})
    assert (answer.status_code, until) == (303, None)


def test_a_wrong_end_is_refused_beside_its_field() -> None:
    a_service()
    answer, _ = steer({"action": "open", "until": "2020-01-01T00:00"})
    assert answer.status_code == 422
    assert "until must be in the future" in words(answer).lower()
    assert steer({"action": "open", "ends": "forever"}, "other")[0].status_code == 422
    assert Service.objects.get().runtime.state == "closed"


def test_the_audit_says_until_when() -> None:
    a_service()
    client = browser(Role.ADMIN)
    client.post("/services/billing/breaker/", {"action": "open", "reason": "Deploy", "ends": "900"})
    page = words(client.get("/audit/?target=billing"))
    assert "Deploy" in page
    assert "until" in page
