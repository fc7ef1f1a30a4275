"""Operations by the API, as docs/contract.md has them: roles, and refused requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone

from integrations.api.responses import ItemPage, OperationOut, OperationPage
from integrations.models import Message, Operation
from tests.support.calling import Api, is_problem
from tests.support.records import work

pytestmark = pytest.mark.django_db

REPLAY = {"kind": "replay", "filter": "service:billing status:dead", "reason": "They are back", "rate": 1000}


@pytest.fixture
def dead(queue: Callable[..., Message]) -> list[Message]:
    found = [queue(path=f"/orders/{number}") for number in range(3)]
    ids = [message.pk for message in found]
    Message.objects.filter(pk__in=ids).update(status="dead", finished_at=timezone.now(), due_at=None)
    return found


def plan(caller: Api, **changes: Any) -> dict[str, Any]:
    answer = caller.post("/operations", REPLAY | changes)
    assert answer.status_code == 202, answer.content
    document: dict[str, Any] = answer.json()
    assert answer["Location"] == f"/api/v1/operations/{document['id']}"
    OperationOut.model_validate(document)
    return document


def test_a_replay_is_planned_done_and_looked_at(operator: Api, viewer: Api, dead: list[Message]) -> None:
    planned = plan(operator)
    assert (planned["state"], planned["total"], planned["created_by"]) == ("planning", 0, "token a-operator")
    work_on_all()
    shown = viewer.get(f"/operations/{planned['id']}").json()
    assert (shown["state"], shown["total"], shown["done"], shown["succeeded"]) == ("finished", 3, 3, 3)
    assert shown["estimate"]["services"] == {"billing": 3}
    listed = viewer.get("/operations?state=finished&kind=replay").json()
    OperationPage.model_validate(listed)
    assert listed["items"] == [shown]
    assert viewer.get("/operations?state=running").json()["items"] == []

    items = viewer.get(f"/operations/{planned['id']}/items?outcome=succeeded&limit=2").json()
    ItemPage.model_validate(items)
    rest = viewer.get(f"/operations/{planned['id']}/items?cursor={items['next_cursor']}").json()
    all_items = [*items["items"], *rest["items"]]
    assert {item["message"] for item in all_items} == {message.public_id for message in dead}
    replay = viewer.get(f"/messages/{all_items[0]['replay']}").json()
    assert replay["operation"] == planned["id"]
    assert replay["replay_of"] == all_items[0]["message"]


def test_a_dry_run_is_started_by_a_change(operator: Api, dead: list[Message]) -> None:
    planned = plan(operator, dry_run=True, reason="")
    work_on_all()
    assert operator.get(f"/operations/{planned['id']}").json()["total"] == 3
    assert Message.objects.count() == 3
    broken = is_problem(operator.patch(f"/operations/{planned['id']}", {"dry_run": False}), 422)
    assert "a reason is required" in broken["detail"]
    started = operator.patch(f"/operations/{planned['id']}", {"dry_run": False, "reason": "Yes", "rate": 500}).json()
    assert (started["state"], started["dry_run"], started["rate"]) == ("running", False, 500)
    is_problem(operator.patch(f"/operations/{planned['id']}", {"dry_run": False}), 409)
    work_on_all()
    assert operator.get(f"/operations/{planned['id']}").json()["succeeded"] == 3


def test_it_is_paused_resumed_and_cancelled(operator: Api, dead: list[Message]) -> None:
    path = f"/operations/{plan(operator)['id']}"
    is_problem(operator.post(f"{path}/resume"), 409)
    assert operator.post(f"{path}/pause").json()["state"] == "paused"
    is_problem(operator.post(f"{path}/pause"), 409)
    assert operator.patch(path, {"rate": 5}).json()["rate"] == 5
    assert operator.post(f"{path}/resume").json()["state"] == "planning"
    assert operator.post(f"{path}/cancel").json()["state"] == "cancelled"
    for verb in ("pause", "resume", "cancel"):
        is_problem(operator.post(f"{path}/{verb}"), 409)
    is_problem(operator.patch(path, {"rate": 6}), 409)
    assert Message.objects.count() == 3


def test_a_rate_is_found_by_the_operation_or_has_no_limit(operator: Api, dead: list[Message]) -> None:
    planned = plan(operator, rate="auto", stop_at_failure_rate=0.5)
    assert (planned["rate"], planned["stop_at_failure_rate"]) == ("auto", 0.5)
    assert (planned["pace"]["rate"], planned["pace"]["why"]) == (2, "it starts slowly")
    path = f"/operations/{planned['id']}"
    changed = operator.patch(path, {"rate": 5, "stop_at_failure_rate": 0.2}).json()
    assert (changed["rate"], changed["pace"], changed["stop_at_failure_rate"]) == (5, None, 0.2)
    changed = operator.patch(path, {"rate": "auto"}).json()
    assert (changed["rate"], changed["pace"]["rate"], changed["stop_at_failure_rate"]) == ("auto", 2, 0.2)
    assert plan(operator, kind="cancel", filter="status:pending", rate=None)["rate"] is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "delete"}, "kind"),
        ({"filter": " "}, "filter"),
        ({"filter": "colour:red"}, "colour"),
        ({"reason": ""}, "a reason is required"),
        ({"rate": 0}, "rate"),
        ({"rate": 1001}, "rate"),
        ({"rate": None}, "only cancelling has no limit"),
        ({"kind": "cancel", "rate": "auto"}, "cancelling makes no calls"),
        ({"stop_at_failure_rate": 0}, "stop_at_failure_rate"),
        ({"stop_at_failure_rate": 1.1}, "stop_at_failure_rate"),
        ({"mode": "as_is"}, "mode"),
    ],
)
def test_what_is_wrong_is_said(operator: Api, changes: dict[str, Any], words: str) -> None:
    assert words in is_problem(operator.post("/operations", REPLAY | changes), 422)["detail"]
    assert not Operation.objects.exists()


def test_a_viewer_only_looks(operator: Api, viewer: Api) -> None:
    path = f"/operations/{plan(operator)['id']}"
    is_problem(viewer.post("/operations", REPLAY), 403)
    is_problem(viewer.patch(path, {"rate": 5}), 403)
    for verb in ("pause", "resume", "cancel"):
        is_problem(viewer.post(f"{path}/{verb}"), 403)
    assert viewer.get(path).status_code == 200


def test_one_that_is_not_there_is_not_found(operator: Api) -> None:
    for path in ("op_1_00000000", "7", "op_x"):
        is_problem(operator.get(f"/operations/{path}"), 404)
        is_problem(operator.get(f"/operations/{path}/items"), 404)
        is_problem(operator.post(f"/operations/{path}/pause"), 404)


def test_a_repeated_request_plans_once(operator: Api) -> None:
    first = operator.post("/operations", REPLAY, Idempotency_Key="tuesday")
    again = operator.post("/operations", REPLAY, Idempotency_Key="tuesday")
    assert again.content == first.content
    assert again["Idempotent-Replayed"] == "true"
    assert Operation.objects.count() == 1
    is_problem(operator.post("/operations", REPLAY | {"rate": 1}, Idempotency_Key="tuesday"), 409)


@pytest.mark.parametrize("rate", [0, 1e-300, 0.009, 1000.1])
def test_a_rate_that_nobody_could_follow_is_refused(operator: Api, dead: list[Message], rate: float) -> None:
    is_problem(operator.post("/operations", REPLAY | {"rate": rate}), 422)


def work_on_all() -> None:
    for operation in Operation.objects.active():
        work(operation)
