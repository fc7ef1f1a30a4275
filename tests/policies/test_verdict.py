"""The verdict on each outcome, alone. tests/delivery/test_outcome_table.py tests it with its effects."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from integrations.outbound.outcome import Fault, Outcome
from integrations.policies.retry import DeadReason, RetryPolicy
from integrations.policies.verdict import Verdict, judge

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RETRY_FAILURE = Verdict("retry", None, "failure")
DEAD_STATUS = Verdict("bury", DeadReason.STATUS, "neutral")


def answer(status_code: int, retry_after: str | None = None) -> Outcome:
    headers = () if retry_after is None else (("Retry-After", retry_after),)
    return Outcome(Fault.STATUS if status_code >= 300 else None, status_code, headers=headers)


@pytest.mark.parametrize("status_code", [200, 201, 204, 299])
def test_a_2xx_is_delivered(status_code: int) -> None:
    assert judge(answer(status_code), RetryPolicy(), NOW) == Verdict("deliver", None, "success")


def test_a_2xx_whose_body_went_on_is_delivered() -> None:
    assert judge(Outcome(None, 200, truncated=True), RetryPolicy(), NOW).action == "deliver"


@pytest.mark.parametrize("fault", ["dns", "connect", "tls", "reset", "protocol", "timeout"])
def test_trouble_on_the_wire_is_retried_and_counts(fault: str) -> None:
    assert judge(Outcome(Fault(fault)), RetryPolicy(), NOW) == RETRY_FAILURE


@pytest.mark.parametrize("status_code", [500, 502, 503, 504, 599, 408, 425])
def test_a_5xx_408_or_425_is_retried_and_counts(status_code: int) -> None:
    assert judge(answer(status_code), RetryPolicy(), NOW) == RETRY_FAILURE


@pytest.mark.parametrize(("status_code", "breaker"), [(429, "neutral"), (503, "failure")])
def test_retry_after_makes_the_whole_service_wait(status_code: int, breaker: str) -> None:
    verdict = judge(answer(status_code, "30"), RetryPolicy(), NOW)
    assert verdict == Verdict("retry", None, breaker, throttle=30, retry_after=30)  # type: ignore[arg-type]


def test_a_429_without_retry_after_is_retried_without_a_wait_for_the_service() -> None:
    assert judge(answer(429), RetryPolicy(), NOW) == Verdict("retry", None, "neutral")


@pytest.mark.parametrize("header", ["junk", "-1", "0"])
def test_a_retry_after_without_meaning_throttles_nothing(header: str) -> None:
    assert judge(answer(429, header), RetryPolicy(), NOW).throttle is None


def test_a_service_waits_a_day_at_most() -> None:
    assert judge(answer(429, "999999999"), RetryPolicy(), NOW).throttle == 86_400


@pytest.mark.parametrize("status_code", [500, 408, 301])
def test_retry_after_is_read_on_429_and_503_only(status_code: int) -> None:
    verdict = judge(answer(status_code, "30"), RetryPolicy(retry_on=["5xx", "3xx", 408]), NOW)
    assert (verdict.throttle, verdict.retry_after) == (None, None)


def test_a_410_is_dead() -> None:
    assert judge(answer(410), RetryPolicy(), NOW) == Verdict("bury", DeadReason.GONE, "neutral")


def test_a_410_pauses_the_service_where_that_is_set() -> None:
    assert judge(answer(410), RetryPolicy(on_gone="pause"), NOW) == Verdict("pause", None, "neutral")


def test_a_410_is_retried_only_where_it_is_named_itself() -> None:
    assert judge(answer(410), RetryPolicy(retry_on=["4xx"]), NOW).dead_reason == DeadReason.GONE
    assert judge(answer(410), RetryPolicy(retry_on=[410]), NOW) == RETRY_FAILURE


@pytest.mark.parametrize("status_code", [300, 301, 304, 399, 400, 401, 404, 409, 422, 499])
def test_a_3xx_or_other_4xx_is_the_callers_fault(status_code: int) -> None:
    assert judge(answer(status_code), RetryPolicy(), NOW) == DEAD_STATUS


@pytest.mark.parametrize(("fault", "reason"), [("blocked", DeadReason.BLOCKED), ("config", DeadReason.CONFIG)])
def test_what_cannot_be_sent_is_dead(fault: str, reason: DeadReason) -> None:
    assert judge(Outcome(Fault(fault)), RetryPolicy(), NOW) == Verdict("bury", reason, "neutral")


def test_a_lost_worker_says_nothing_about_the_service() -> None:
    assert judge(Outcome(Fault.WORKER_LOST), RetryPolicy(), NOW) == Verdict("retry", None, "neutral")


def test_a_response_too_large_says_nothing_about_the_service() -> None:
    verdict = judge(Outcome(Fault.TOO_LARGE, 200), RetryPolicy(), NOW)
    assert (verdict.action, verdict.breaker) == ("bury", "neutral")


@pytest.mark.parametrize(
    ("retry_on", "status_code", "action", "breaker"),
    [
        ([404], 404, "retry", "failure"),
        (["4xx"], 418, "retry", "failure"),
        (["3xx"], 302, "retry", "failure"),
        (["4xx"], 429, "retry", "neutral"),
        ([], 500, "bury", "failure"),
        ([500], 503, "bury", "failure"),
        ([], 408, "bury", "neutral"),
        ([], 429, "bury", "neutral"),
    ],
)
def test_a_service_may_name_other_statuses(retry_on: list, status_code: int, action: str, breaker: str) -> None:
    verdict = judge(answer(status_code), RetryPolicy(retry_on=retry_on), NOW)
    assert (verdict.action, verdict.breaker) == (action, breaker)
    assert verdict.dead_reason == (DeadReason.STATUS if action == "bury" else None)


def test_a_429_that_is_not_retried_still_makes_the_service_wait() -> None:
    verdict = judge(answer(429, "30"), RetryPolicy(retry_on=[]), NOW)
    assert (verdict.action, verdict.throttle) == ("bury", 30)


@pytest.mark.parametrize("fault", list(Fault))
def test_every_fault_has_a_row(fault: Fault) -> None:
    for status_code in (None, 100, 999):
        verdict = judge(Outcome(fault, status_code), RetryPolicy(), NOW)
        assert (verdict.dead_reason is not None) == (verdict.action == "bury")
