"""Guessing passwords: what an address without an account can try, and what it costs the others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.hashers import MD5PasswordHasher
from django.db import connection
from django.test import Client

from dashboard import sign_in_limits
from dashboard.views.people import UNKNOWN_NAMES
from integrations.models import AuditEntry, Role
from tests.support.calling import Answered
from tests.support.signed_in import PASSWORD, person, words
from tests.support.waiting import until

pytestmark = pytest.mark.django_db


def sign_in(name: str, password: str = "wrong", address: str = "203.0.113.7") -> Answered:
    return Client(REMOTE_ADDR=address).post("/login/", {"username": name, "password": password})


def test_five_failures_lock_a_name_for_an_address() -> None:
    person(Role.VIEWER, "vera")
    assert settings.AXES_FAILURE_LIMIT == 5
    assert [sign_in("vera").status_code for _ in range(5)] == [422] * 4 + [429]
    locked = sign_in("vera", PASSWORD)
    assert (locked.status_code, locked["Retry-After"]) == (429, "900")
    assert "blocked for 15 minutes" in words(locked)
    assert sign_in("vera", PASSWORD, "203.0.113.8").status_code == 302


def test_one_address_could_try_any_number_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """96 of them were all heard: one password can be tried with every name."""
    monkeypatch.setattr(sign_in_limits, "FAILURES", 3)
    person(Role.VIEWER, "vera")
    assert [sign_in(f"name-{number}").status_code for number in range(4)] == [422, 422, 422, 429]
    refused = sign_in("vera", PASSWORD)
    assert (refused.status_code, refused["Retry-After"]) == (429, "30")
    assert "Wait 30 seconds" in words(refused)
    assert sign_in("vera", PASSWORD, "203.0.113.8").status_code == 302


def test_a_limited_address_gets_one_more_attempt_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_limits, "FAILURES", 1)
    clock = [1000.0]
    monkeypatch.setattr("dashboard.sign_in_limits.time.monotonic", lambda: clock[0])
    limit = sign_in_limits.FailureLimit()
    assert (limit.take("::1"), limit.take("::1")) == (0, 30)
    clock[0] += 30
    assert (limit.take("::1"), limit.take("::1")) == (0, 30)


def test_a_client_could_change_its_address_within_its_ipv6_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_limits, "FAILURES", 1)
    limit = sign_in_limits.FailureLimit()
    assert limit.take("2001:db8::1") == 0
    assert limit.take("2001:db8::2") > 0
    assert limit.take("2001:db8:0:1::1") == 0


def test_signing_in_is_not_counted_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in_limits, "FAILURES", 1)
    person(Role.VIEWER, "vera")
    assert [sign_in("vera", PASSWORD).status_code for _ in range(3)] == [302] * 3


def test_names_of_an_attackers_choice_filled_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        sign_in(f"attacker's text {number}")
    (entry,) = AuditEntry.objects.filter(action="person.sign_in_failed")
    assert (entry.target, entry.after) == (UNKNOWN_NAMES, {"count": 10})
    AuditEntry.objects.update(at=entry.at - timedelta(seconds=61))
    sign_in("one more, a minute later")
    counts = AuditEntry.objects.order_by("id").values_list("after__count", flat=True)
    assert list(counts) == [10, 1]


def test_known_and_unknown_names_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    person(Role.VIEWER, "vera")
    hashes: list[str] = []
    encode = MD5PasswordHasher.encode

    def counted(hasher: Any, password: str, salt: str) -> str:
        hashes.append(password)
        return encode(hasher, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", counted)
    for name in ("vera", "nobody"):
        before = AuditEntry.objects.count()
        assert sign_in(name).status_code == 422
        assert AuditEntry.objects.count() == before + 1
    assert len(hashes) == 2, "one for each name"


@pytest.mark.django_db(transaction=True)
def test_any_number_of_passwords_was_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes 0.37 s of a processor: 96 at once took both cores from all pages."""
    person(Role.VIEWER, "vera")
    attempts, lock, release = 12, threading.Lock(), threading.Event()
    at_once = [0, 0]  # now, most
    verify = MD5PasswordHasher.verify

    def slow(hasher: Any, password: str, encoded: str) -> bool:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        release.wait(10)
        with lock:
            at_once[0] -= 1
        return verify(hasher, password, encoded)

    monkeypatch.setattr(MD5PasswordHasher, "verify", slow)

    def attempt(number: int) -> Answered:
        try:
            return sign_in("vera", PASSWORD, f"203.0.113.{number}")
        finally:
            connection.close()

    with ThreadPoolExecutor(attempts) as pool:
        waiting = [pool.submit(attempt, number) for number in range(attempts)]
        with suppress(AssertionError):
            until(lambda: sum(each.done() for each in waiting) >= 6 and at_once[0] >= sign_in_limits.HASHES, 8)
        release.set()
        answers = [each.result(20) for each in waiting]
    assert at_once[1] == sign_in_limits.HASHES
    assert sorted(answer.status_code for answer in answers) == [302] * 6 + [429] * 6
    assert {answer["Retry-After"] for answer in answers if answer.status_code == 429} == {"2"}
