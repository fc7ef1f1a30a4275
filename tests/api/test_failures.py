from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from integrations.api.responses import FailureOut, FailurePage
from integrations.delivery import failure_groups
from integrations.models import Account, AuditEntry, Failure, Message, Result, Service, database_now
from tests.support.calling import Api, is_problem


@pytest.fixture
def group(billing: Service) -> Failure:
    return failed(billing, 500, message_id=None)


def failed(service: Service, status_code: int, message_id: int | None) -> Failure:
    attempt = {
        "id": status_code,
        "message_id": message_id,
        "service_id": service.pk,
        "endpoint_id": None,
        "outcome": Result.FAILED,
        "fault": "status",
        "status_code": status_code,
        "detail": "",
        "response_body": b'{"code": "no_stock"}',
        "timings": {},
        "started_at": database_now(),
    }
    groups = failure_groups.record([attempt], [None], database_now())
    return Failure.objects.get(pk=groups[status_code])


def test_a_group_is_read_back(viewer: Api, billing: Service, queue: Callable[..., Message]) -> None:
    message = queue()
    group = failed(billing, 503, message.pk)
    answer = viewer.get(f"/failures/{group.public_id}")
    assert answer.status_code == 200
    document = FailureOut.model_validate_json(answer.content)
    assert (document.service, document.status_code, document.count, document.messages) == ("billing", 503, 1, 1)
    assert (document.sample, document.assignee, document.state) == (message.public_id, None, "open")
    assert (document.title, document.because["code"]) == ("503 Service Unavailable: no_stock", "no_stock")
    assert document.fingerprint == group.key


def test_groups_are_listed_by_state_and_service(viewer: Api, billing: Service, group: Failure) -> None:
    other = failed(billing, 404, None)
    Failure.objects.filter(pk=other.pk).update(state="resolved")

    def ids(query: str) -> list[str]:
        page = FailurePage.model_validate_json(viewer.get(f"/failures{query}").content)
        return [item.id for item in page.items]

    assert ids("") == [other.public_id, group.public_id]
    assert ids("?state=open") == [group.public_id]
    assert ids("?service=billing&state=resolved") == [other.public_id]
    assert ids("?service=elsewhere") == []
    assert is_problem(viewer.get("/failures?state=closed"), 422)
    first = viewer.get("/failures?limit=1").json()
    assert ids(f"?limit=1&cursor={first['next_cursor']}") == [group.public_id]


def test_a_patch_changes_only_what_it_names(operator: Api, group: Failure) -> None:
    Account.objects.create(username="ada")
    where = f"/failures/{group.public_id}"
    assert operator.patch(where, {"note": "see the runbook", "assignee": "ada"}).status_code == 200
    changed = operator.patch(where, {"state": "ignored", "ignored_until": "2040-01-01T00:00:00Z"}).json()
    assert (changed["note"], changed["assignee"], changed["state"]) == ("see the runbook", "ada", "ignored")
    assert changed["ignored_until"] == "2040-01-01T00:00:00Z"
    changed = operator.patch(where, {"state": "resolved", "assignee": None}).json()
    assert (changed["state"], changed["ignored_until"], changed["assignee"]) == ("resolved", None, None)
    actions = list(AuditEntry.objects.filter(target=group.public_id).order_by("pk").values_list("action", flat=True))
    assert actions == ["failure.changed", "failure.ignored", "failure.resolved"]


@pytest.mark.parametrize(
    "change",
    [
        {"state": "regressed"},
        {"state": "ignored", "ignored_until": "2020-01-01T00:00:00Z"},
        {"state": "resolved", "ignored_until": "2040-01-01T00:00:00Z"},
        {"assignee": "nobody"},
        {"note": "x" * 4001},
        {"count": 0},
    ],
)
def test_what_cannot_be_is_refused(operator: Api, group: Failure, change: dict[str, Any]) -> None:
    assert is_problem(operator.patch(f"/failures/{group.public_id}", change), 422)
    group.refresh_from_db()
    assert group.state == "open"


def test_who_only_reads_changes_nothing(viewer: Api, group: Failure) -> None:
    assert is_problem(viewer.patch(f"/failures/{group.public_id}", {"state": "resolved"}), 403)


def test_an_unknown_group_is_not_found(viewer: Api, group: Failure) -> None:
    assert is_problem(viewer.get("/failures/fail_1_00000000"), 404)
    assert is_problem(viewer.get("/failures/nonsense"), 404)
