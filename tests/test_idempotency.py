from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn

import pytest
from django.db import connection
from django.http import HttpResponse

from integrations.idempotency import run_once, run_once_unlocked
from integrations.models import IdempotentAnswer
from integrations.models.idempotency import KeyedRequest

KEYED = KeyedRequest("person 1", "k1", "/messages/new/", "")


@pytest.mark.django_db(transaction=True)
def test_of_two_requests_at_once_one_runs_and_the_other_waits_for_its_answer() -> None:
    runs: list[str] = []
    is_running, may_end = threading.Event(), threading.Event()

    def slow() -> HttpResponse:
        runs.append("slow")
        is_running.set()
        assert may_end.wait(10)
        return HttpResponse("done", status=303, headers={"Location": "/messages/1/"})

    def second() -> HttpResponse:
        runs.append("second")
        return HttpResponse(status=303, headers={"Location": "/messages/2/"})

    results: list[HttpResponse | Exception | IdempotentAnswer] = []
    first, other = (_in_thread(results, work) for work in (slow, second))
    first.start()
    assert is_running.wait(10)
    other.start()
    other.join(0.3)
    assert other.is_alive(), "the second request waits"
    may_end.set()
    first.join()
    other.join()
    assert runs == ["slow"]
    assert sum(isinstance(result, HttpResponse) for result in results) == 1
    (stored,) = (result for result in results if isinstance(result, IdempotentAnswer))
    assert (stored.status, stored.location, bytes(stored.content)) == (303, "/messages/1/", b"done")


def _in_thread(
    results: list[HttpResponse | Exception | IdempotentAnswer], work: Callable[[], HttpResponse]
) -> threading.Thread:
    def run() -> None:
        try:
            results.extend(run_once([KEYED], lambda _: lambda: [work()]))
        finally:
            connection.close()

    return threading.Thread(target=run)


@pytest.mark.django_db
def test_a_key_is_free_again_after_a_refusal_and_after_an_exception() -> None:
    run_once([KEYED], lambda _: lambda: [HttpResponse(status=422)])
    with pytest.raises(RuntimeError):
        run_once([KEYED], lambda _: _broken)
    with pytest.raises(RuntimeError):
        run_once_unlocked(KEYED, _broken)
    assert not IdempotentAnswer.objects.exists()


def _broken() -> NoReturn:
    raise RuntimeError


@pytest.mark.django_db
def test_a_group_stores_its_successes_only() -> None:
    requests = [KeyedRequest(f"token {number % 2}", f"k{number}", "/", "") for number in range(4)]
    answers = [HttpResponse(f"{number}", status=422 if number == 2 else 202) for number in range(4)]
    run_once(requests, lambda positions: lambda: [answers[position] for position in positions])
    stored = {row.key: bytes(row.content) for row in IdempotentAnswer.objects.all()}
    assert stored == {"k0": b"0", "k1": b"1", "k3": b"3"}
