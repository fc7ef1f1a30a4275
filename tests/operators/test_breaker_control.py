"""Steering a breaker by hand, through the API: where each action leads, its event, its audit entry, and its end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from integrations.models import Attempt, AuditEntry, Event, Message, Role, Runtime, Service, Token, database_now
from integrations.models.message import Status
from integrations.workers import housekeeping
from tests.support.calling import Answered, Api, is_problem
from tests.support.records import in_seconds

pytestmark = pytest.mark.django_db(transaction=True)

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]
Steer = Callable[..., Answered]


@pytest.fixture
def api(transactional_db: None) -> Api:
    return Api(*Token.objects.issue("ada", Role.OPERATOR))


@pytest.fixture
def steer(api: Api) -> Steer:
    def one(action: str, **fields: Any) -> Answered:
        return api.post("/services/billing/breaker", {"action": action, "reason": "their release", **fields})

    return one


def failing(_: httpx.Request) -> httpx.Response:
    return httpx.Response(500)


def fine(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200)


def breaker_events() -> list[Event]:
    """Return the breaker's events. A change of the mode alone is an event of the service."""
    return list(
        Event.objects.filter(type__in=[f"breaker.{kind}" for kind in KINDS] + ["service.changed"]).order_by("pk")
    )


KINDS = ("opened", "half_opened", "closed")


def put(service: Service, state: str, mode: str = "auto") -> None:
    """The breaker as it may be found, with something measured."""
    now = database_now()
    opened = {"opened_at": now, "retry_at": now + timedelta(minutes=5)} if state == "open" else {}
    Runtime.objects.filter(pk=service.pk).update(
        state=state, mode=mode, reopenings=2, consecutive=3, window="..fff", generation=7, **opened
    )


@pytest.mark.parametrize(
    ("start", "action", "state", "mode", "event"),
    [
        (("closed", "auto"), "open", "open", "forced_open", "breaker.opened"),
        (("open", "auto"), "open", "open", "forced_open", "service.changed"),
        (("half_open", "auto"), "open", "open", "forced_open", "breaker.opened"),
        (("open", "auto"), "close", "closed", "auto", "breaker.closed"),
        (("half_open", "auto"), "close", "closed", "auto", "breaker.closed"),
        (("open", "forced_open"), "close", "closed", "auto", "breaker.closed"),
        (("closed", "disabled"), "close", "closed", "auto", "service.changed"),
        (("open", "auto"), "half_open", "half_open", "auto", "breaker.half_opened"),
        (("open", "forced_open"), "half_open", "half_open", "auto", "breaker.half_opened"),
        (("open", "auto"), "reset", "closed", "auto", "breaker.closed"),
        (("closed", "observe"), "reset", "closed", "auto", "service.changed"),
        (("closed", "auto"), "disable", "closed", "disabled", "service.changed"),
        (("open", "auto"), "disable", "closed", "disabled", "breaker.closed"),
        (("closed", "auto"), "observe", "closed", "observe", "service.changed"),
        (("open", "forced_open"), "observe", "closed", "observe", "breaker.closed"),
        (("open", "forced_open"), "auto", "half_open", "auto", "breaker.half_opened"),
        (("closed", "disabled"), "auto", "closed", "auto", "service.changed"),
        (("closed", "observe"), "auto", "closed", "auto", "service.changed"),
        # What finds everything as it wants it has nothing to tell, and is audited all the same.
        (("closed", "auto"), "auto", "closed", "auto", None),
        (("open", "auto"), "auto", "open", "auto", None),
        (("closed", "auto"), "close", "closed", "auto", None),
        (("closed", "auto"), "reset", "closed", "auto", None),
        (("open", "forced_open"), "open", "open", "forced_open", None),
    ],
)
def test_an_action_leads_where_the_contract_says_with_one_event_and_one_audit_entry(
    register: Register,
    steer: Steer,
    api: Api,
    start: tuple[str, str],
    action: str,
    state: str,
    mode: str,
    event: str | None,
) -> None:
    put(register(), *start)
    answer = steer(action)
    assert answer.status_code == 200, answer.content
    assert answer.json() == api.get("/services/billing/breaker").json()
    assert (answer.json()["state"], answer.json()["mode"], answer.json()["mode_until"]) == (state, mode, None)

    told = breaker_events()
    assert [one.type for one in told] == ([event] if event else [])
    for one in told:
        assert one.facts["cause"].endswith("by an operator: their release" if action != "auto" else ": their release")
        assert one.facts["by"] == "token ada"
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.target) == (f"breaker.{action}", "token ada", "billing")
    assert entry.reason == "their release"
    assert (entry.before["state"], entry.before["mode"]) == start
    assert (entry.after["state"], entry.after["mode"]) == (state, mode)


@pytest.mark.parametrize(("action", "reopenings"), [("close", 2), ("reset", 0)])
def test_close_and_reset_leave_a_clean_window(register: Register, steer: Steer, action: str, reopenings: int) -> None:
    service = register()
    for state in ("closed", "open", "half_open"):
        put(service, state)
        shown = steer(action).json()
        assert shown["window"] == {"calls": 0, "failures": 0, "slow": 0, "failure_rate": 0.0}
        assert shown["reopenings"] == reopenings
        assert Runtime.objects.get().consecutive == 0


@pytest.mark.parametrize(
    ("state", "mode"), [("closed", "auto"), ("half_open", "auto"), ("closed", "disabled"), ("closed", "observe")]
)
def test_only_an_open_breaker_is_half_opened(register: Register, steer: Steer, state: str, mode: str) -> None:
    put(register(), state, mode)
    problem = is_problem(steer("half_open"), 409)
    assert problem["detail"].startswith("only an open breaker can be half-opened")
    runtime = Runtime.objects.get()
    assert (runtime.state, runtime.mode, runtime.generation) == (state, mode, 7)
    assert not breaker_events()
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("action", ["close", "half_open", "reset", "auto"])
def test_an_end_is_only_for_a_manual_mode(register: Register, steer: Steer, action: str) -> None:
    put(register(), "open")
    answer = steer(action, until=in_seconds(60).isoformat())
    assert is_problem(answer, 422)["errors"][0]["loc"] == ["body", "until"]
    assert Runtime.objects.get().state == "open"


@pytest.mark.parametrize("fields", [{"reason": ""}, {"reason": "   "}, {"reason": "x" * 501}, {"action": "explode"}])
def test_an_action_needs_a_reason_and_a_name(register: Register, steer: Steer, fields: dict[str, str]) -> None:
    register()
    is_problem(steer(**{"action": "open", **fields}), 422)
    assert Runtime.objects.get().mode == "auto"


@pytest.mark.parametrize(
    ("action", "mode", "event", "after"),
    [
        ("open", "forced_open", "breaker.half_opened", "half_open"),  # it says nothing of the service: it is probed
        ("disable", "disabled", "service.changed", "closed"),
        ("observe", "observe", "service.changed", "closed"),
    ],
)
def test_a_manual_mode_ends_by_itself(
    register: Register, steer: Steer, action: str, mode: str, event: str, after: str
) -> None:
    register()
    until = in_seconds(3600)
    shown = steer(action, until=until.isoformat()).json()
    assert (shown["mode"], datetime.fromisoformat(shown["mode_until"])) == (mode, until)

    housekeeping.sweep()
    assert Runtime.objects.get().mode == mode  # not before its time

    Runtime.objects.update(mode_until=in_seconds(-1), **({"retry_at": in_seconds(-1)} if action == "open" else {}))
    housekeeping.sweep()
    housekeeping.sweep()
    runtime = Runtime.objects.get()
    assert (runtime.state, runtime.mode, runtime.mode_until) == (after, "auto", None)
    assert [one.type for one in breaker_events()][1:] == [event]
    assert "until this time" in breaker_events()[-1].facts["cause"]


def test_an_end_that_has_passed_is_refused(register: Register, steer: Steer) -> None:
    register()
    is_problem(steer("open", until=in_seconds(-60).isoformat()), 409)
    assert Runtime.objects.get().mode == "auto"


def test_a_second_word_gives_a_manual_mode_another_end(register: Register, steer: Steer) -> None:
    register()
    steer("disable", until=in_seconds(60).isoformat())
    assert steer("disable").json()["mode_until"] is None
    assert len(breaker_events()) == 1
    assert AuditEntry.objects.count() == 2


# ---- under traffic --------------------------------------------------------------------------------------------------
def test_a_forced_opening_sends_nothing_until_somebody_closes_it(
    register: Register, send: Send, deliver: Deliver, steer: Steer
) -> None:
    service = register()
    assert steer("open").json()["retry_at"] is None
    send(service, count=3)
    deliver(fine)
    assert not Attempt.objects.exists()
    assert steer("auto").json()["held"] == 3  # probing: they still wait
    assert steer("close").json()["held"] == 0
    deliver(fine)
    assert Message.objects.filter(status=Status.DELIVERED).count() == 3


def test_a_forced_opening_holds_where_the_settings_switch_the_breaker_off(
    register: Register, send: Send, deliver: Deliver, steer: Steer
) -> None:
    service = register(breaker={"enabled": False})
    steer("open")
    send(service)
    deliver(fine)
    assert not Attempt.objects.exists()


def test_a_disabled_breaker_lets_all_pass_and_measures_nothing(
    register: Register, send: Send, deliver: Deliver, steer: Steer
) -> None:
    service = register(breaker={"consecutive_failures": 2}, retry={"max_attempts": 1})
    steer("disable")
    send(service, count=8)
    deliver(failing)
    assert Attempt.objects.filter(outcome="failed").count() == 8
    runtime = Runtime.objects.get()
    assert (runtime.state, runtime.window, runtime.consecutive, runtime.evidence) == ("closed", "", 0, [])
    assert [one.type for one in breaker_events()] == ["service.changed"]


def test_an_observing_breaker_lets_all_pass_and_tells_what_it_would_have_done(
    register: Register, send: Send, deliver: Deliver, steer: Steer
) -> None:
    service = register(
        breaker={"consecutive_failures": 2, "open_for": 60}, retry={"max_attempts": 1}, limits={"concurrency": 1}
    )
    steer("observe")
    send(service, count=6)
    deliver(failing)
    assert Attempt.objects.filter(outcome="failed").count() == 6  # it would have been two
    (opened,) = breaker_events()[1:]
    assert (opened.type, opened.facts["observed"]) == ("breaker.opened", True)
    assert opened.facts["cause"] == "2 failures in a row"
    assert opened.facts["attempts"] == [one.public_id for one in Attempt.objects.order_by("pk")[:2]]

    Runtime.objects.update(retry_at=in_seconds(-1))
    housekeeping.sweep()
    send(service)
    deliver(fine)
    told = breaker_events()[2:]
    assert [one.type for one in told] == ["breaker.half_opened", "breaker.closed"]
    assert all(one.facts["observed"] for one in told)
    assert all(one.facts["cause"] for one in told)
    runtime = Runtime.objects.get()
    assert (runtime.state, runtime.mode, runtime.observed_open) == ("closed", "observe", False)
