"""Settings told before they are saved, and tried on the last day."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from dashboard.presenters.sentences import backoff_summary, breaker_rules, open_duration_summary
from integrations.history.recorded_calls import MOST, recorded_calls
from integrations.models import Attempt, AuditEntry, Event, Role, Service, Status, Trigger
from integrations.policies.breaker import BreakerPolicy, Transition
from integrations.policies.retry import RetryPolicy
from tests.support.signed_in import a_service, browser, messages_of, words

pytestmark = pytest.mark.django_db

RETRIES, BREAKER = "/_p/policy/retries/", "/_p/policy/breaker/"


# ---- in words -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "Backoff 5 s, 20 s, 1 min 20 s, 5 min 20 s, 21 min 20 s, 1 h 25 min, 5 h 41 min, 6 h (2 times) (each ±"),
        ({"max_attempts": 3, "jitter": 0}, "Backoff 5 s, 20 s: 25 s in total."),
        ({"schedule": [0, 0, 30], "jitter": 0}, "Backoff 0 ms (2 times), 30 s: 30 s in total."),
        ({"factor": 1.5, "max_attempts": 40}, " … 6 h (each ±"),
        ({"deadline": 60, "jitter": 0}, "Backoff 5 s, 20 s: 25 s in total."),
    ],
)
def test_the_waits_are_told(settings: dict[str, Any], said: str) -> None:
    assert said in backoff_summary(RetryPolicy(**settings))[0]


def test_one_call_waits_for_nothing() -> None:
    assert backoff_summary(RetryPolicy(schedule=())) == []


def test_the_open_times_are_told() -> None:
    assert open_duration_summary(BreakerPolicy()) == "Stays open for 1 min before each probe."
    assert "1 min, 2 min, 4 min, 8 min … at most 1 h" in open_duration_summary(BreakerPolicy(open_factor=2))
    assert "Sends 3 probes after 30 s." in breaker_rules(BreakerPolicy(open_for=30, half_open_calls=3))


# ---- while a person types -------------------------------------------------------------------------------------------
def test_the_present_values_of_a_form_are_told() -> None:
    client = browser()
    page = words(client.post(RETRIES, {"retry.max_attempts": "2", "name": "Not A Name", "breaker.open_for": "x"}))
    assert "Then the message is dead." in page
    assert "Backoff 5 s (each ±20 % jitter)" in page
    assert "Opens when 9 calls in a row fail" in words(client.post(BREAKER, {"breaker.consecutive_failures": "9"}))
    off = client.post(BREAKER, {"breaker.enabled": "false"})
    assert words(off) == "Disabled: calls are never stopped."


def test_what_is_wrong_is_told_by_its_label() -> None:
    client = browser()
    page = words(client.post(RETRIES, {"retry.max_attempts": "0", "retry.schedule": "5, -1"}))
    assert page.startswith("No retry times yet: Max attempts:")
    assert "Custom retry schedule:" in page
    page = words(client.post(BREAKER, {"breaker.minimum_calls": "60", "breaker.open_max": "1"}))
    assert "Minimum calls:" in page
    assert "Max open duration:" in page


def test_the_form_shows_the_preview_of_what_is_in_force() -> None:
    a_service(retry={"max_attempts": 2, "initial": 33, "jitter": 0}, breaker={"open_for": 7})
    client = browser()
    page = words(client.get("/services/billing/edit/?all"))
    assert "Backoff 33 s: 33 s in total." in page
    assert "Stays open for 7 s" in page
    assert "10 attempts, at the earliest at" in words(client.get("/services/new/?all"))
    refused = words(client.post("/services/billing/edit/", {"retry.max_attempts": "0", "retry.initial": "5"}))
    assert "No retry times yet" in refused


def test_the_page_of_a_trial_has_it_fetched() -> None:
    a_service()
    client = browser()
    page = client.get("/services/billing/try/")
    assert 'hx-get="/_p/services/billing/try/" hx-trigger="load"' in page.content.decode()
    assert "these settings cannot be tested" not in words(page)
    assert "these settings cannot be tested" in words(client.get("/_p/services/billing/try/"))
    assert "these settings cannot be tested" in words(client.get("/services/billing/try/?now"))


def test_without_javascript_the_preview_is_a_page() -> None:
    page = words(browser().post("/services/new/preview/", {"name": "x", "retry.max_attempts": "1"}))
    assert "One attempt, no retries." in page
    assert "Nothing is saved." in page
    assert not Service.objects.exists()


def test_a_viewer_previews_nothing() -> None:
    a_service()
    client = browser(Role.VIEWER)
    for path in (RETRIES, BREAKER, "/services/new/preview/", "/services/billing/try/", "/_p/services/billing/try/"):
        assert client.post(path).status_code == 403


# ---- the last day, tried again --------------------------------------------------------------------------------------
def record_calls(
    service: Service, statuses: list[int], *, minutes_ago: float = 60, every: float = 1, **given: Any
) -> None:
    """One call every so many seconds, each of a message of its own."""
    began = timezone.now() - timedelta(minutes=minutes_ago)
    messages = messages_of(service, Status.DELIVERED, len(statuses))
    Attempt.objects.bulk_create(
        Attempt(
            **{
                "message": message,
                "service": service,
                "trigger": Trigger.FIRST,
                "started_at": began + timedelta(seconds=every * place),
                "duration": 0.1,
                "outcome": "succeeded" if status == 200 else "failed",
                "fault": "" if status == 200 else "status",
                "status_code": status,
            }
            | given
        )
        for place, (message, status) in enumerate(zip(messages, statuses, strict=True))
    )


def test_other_settings_are_tried_on_the_last_day_beside_what_happened() -> None:
    service = a_service(breaker={"enabled": False})
    record_calls(service, [200] * 10 + [503] * 100 + [200] * 50)
    Event.objects.record_changes(service, [Transition("opened", "by hand")], timezone.now() - timedelta(hours=3))
    Event.objects.record_changes(service, [Transition("closed", "by hand")], timezone.now() - timedelta(hours=2))
    client = browser()
    form = {"breaker.enabled": "on", "breaker.consecutive_failures": "3", "retry.max_attempts": "5", "owner": "Eve"}
    page = words(client.post("/_p/services/billing/try/", form))
    assert "the breaker would have opened once; it actually opened once" in page
    # Trips at the third failure, 12.1 s; probes at 73 (fails) and 134 (succeeds).
    assert "Calls recorded 160, 100 count as failures" in page
    assert "Calls avoided 120; 24 actually succeeded" in page
    assert "Messages delayed 120, up to 2 min 1 s" in page
    assert "3 failures in a row" in page
    assert "Limits of this test" in page
    service.refresh_from_db()
    assert (service.owner, service.breaker_policy.enabled) == ("", False)
    assert not AuditEntry.objects.filter(action="service.changed").exists()


def test_the_settings_in_force_are_tried_by_looking() -> None:
    service = a_service(breaker={"consecutive_failures": 4})
    record_calls(service, [500] * 5)
    page = words(browser().get("/services/billing/try/?now"))
    assert "Opens when 4 calls in a row fail" in page
    assert "it actually never opened" in page


def test_a_message_that_would_have_been_given_up_earlier_is_told() -> None:
    service = a_service()
    (message,) = messages_of(service, Status.DELIVERED)
    for number, status in ((1, 503), (2, 503), (3, 200)):
        record_calls(service, [status], minutes_ago=10 - number, message=message, number=number)
    page = words(browser().post("/services/billing/try/", {"retry.max_attempts": "2"}))
    assert "Dead earlier 1 message, 1 call fewer; 1 of them was actually delivered" in page


def test_nothing_recorded_and_nothing_valid_are_said_in_words() -> None:
    a_service()
    client = browser()
    assert "these settings cannot be tested" in words(client.post("/services/billing/try/"))
    wrong = words(client.post("/_p/services/billing/try/", {"breaker.failure_rate": "200 %"}))
    assert "Test not run: Failure rate threshold:" in wrong


def test_only_what_the_breaker_sees_of_the_last_day_is_tried() -> None:
    service, other = a_service(), a_service("other")
    record_calls(service, [500], minutes_ago=60 * 25)
    record_calls(service, [500], minutes_ago=60 * 30)
    record_calls(service, [200, 404], minutes_ago=60 * 23)
    record_calls(service, [500], trigger=Trigger.LAB, message=None)
    record_calls(service, [500], trigger=Trigger.HEALTH, message=None)
    record_calls(service, [503], trigger=Trigger.PROCESS, message=None)
    record_calls(other, [500])
    found = recorded_calls(service, timezone.now())
    assert [call.status_code for call in found] == [503, 404, 200]
    assert found[0].message is None
    assert (found[0].ended_at - found[0].started_at).total_seconds() == pytest.approx(0.1)
    assert MOST == 100_000


def test_a_day_with_too_many_calls_says_which_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.history.recorded_calls.MOST", 20)
    monkeypatch.setattr("dashboard.presenters.previews.MOST", 20)
    service = a_service()
    record_calls(service, [200] * 30)
    page = words(browser().get("/services/billing/try/?now"))
    assert "newest 20 only" in page
