from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from integrations.api.responses import BreakerOut, EndpointOut, OperationOut, ServiceOut, ServicePage
from integrations.models import (
    AuditEntry,
    Health,
    Message,
    Operation,
    Role,
    Runtime,
    Service,
    Source,
    Status,
    Tally,
    Token,
)
from integrations.registration import deletion
from integrations.registration.registry import register
from integrations.schemas.service import ServiceIn
from tests.support.calling import Api, is_problem
from tests.support.records import work

CANARY = "canary-5f1e0c"


def test_a_registered_service_is_at_the_location_that_was_answered(operator: Api) -> None:
    made = operator.post("/services", {"name": "billing", "base_url": "https://billing.example.com"})
    assert made.status_code == 201
    assert made["Location"] == "/api/v1/services/billing"
    found = operator.get(made["Location"])
    assert found.json() == made.json()
    service = ServiceOut.model_validate_json(found.content)
    assert (service.status, service.health, service.breaker_state, service.backlog) == (
        "active",
        "unknown",
        "closed",
        0,
    )
    assert service.source == "api"
    assert found.json()["created_at"].endswith("Z")
    assert AuditEntry.objects.get(action="service.created").actor == "token a-operator"


def test_a_name_is_given_once(operator: Api, billing: Service) -> None:
    answer = operator.post("/services", {"name": "billing", "base_url": "https://other.example.com"})
    assert is_problem(answer, 422)["errors"][0]["loc"] == ["body", "name"]


def test_an_unknown_field_is_refused(operator: Api) -> None:
    answer = operator.post("/services", {"name": "a", "base_url": "https://a.example.com", "retries": 3})
    assert is_problem(answer, 422)["errors"][0]["loc"] == ["body", "retries"]


def test_a_patch_changes_only_what_it_names(operator: Api, billing: Service) -> None:
    operator.patch("/services/billing", {"retry": {"max_attempts": 3}, "breaker": {"window": {"size": 40}}})
    answer = operator.patch("/services/billing", {"retry": {"initial": 2}})
    assert answer.status_code == 200
    assert answer.json()["retry"]["max_attempts"] == 3
    assert answer.json()["retry"]["initial"] == 2
    assert answer.json()["breaker"]["window"] == {"type": "count", "size": 40}
    assert answer.json()["base_url"] == "https://billing.example.com"


def test_a_patch_is_checked_as_a_whole(operator: Api, billing: Service) -> None:
    answer = operator.patch("/services/billing", {"breaker": {"minimum_calls": 500}})
    assert is_problem(answer, 422)["errors"][0]["loc"] == ["body", "breaker", "minimum_calls"]
    assert is_problem(operator.patch("/services/billing", [1]), 422)
    assert is_problem(operator.patch("/services/billing", {"name": "other"}), 422)


def test_a_patch_of_the_address_keeps_or_clears_secrets_by_host(operator: Api, billing: Service) -> None:
    operator.patch("/services/billing", {"auth": {"type": "basic", "username": "u", "password": CANARY}})
    kept = operator.patch("/services/billing", {"auth": {"username": "other"}}).json()["auth"]
    assert kept["username"] == "other"
    assert kept["password"]["set"] is True
    operator.patch("/services/billing", {"base_url": "https://billing.example.com/v2"})
    assert operator.get("/services/billing").json()["auth"]["password"]["set"] is True
    operator.patch("/services/billing", {"base_url": "https://elsewhere.example.com"})
    assert operator.get("/services/billing").json()["auth"]["password"]["set"] is False


def test_secrets_are_never_read_back(admin: Api, billing: Service) -> None:
    for auth in (
        {"type": "basic", "username": "u", "password": CANARY},
        {"type": "bearer", "token": CANARY},
        {"type": "header", "name": "X-Key", "value": CANARY},
        {"type": "oauth2", "token_url": "https://id.example.com/t", "client_id": "c", "client_secret": CANARY},
        {"type": "hmac", "header": "X-Sum", "secret": CANARY},
    ):
        answers = [admin.patch("/services/billing", {"auth": auth})]
        assert answers[0].status_code == 200, answers[0].content
        answers += [admin.get(path) for path in ("/services", "/services/billing", "/audit", "/messages", "/tokens")]
        answers.append(admin.patch("/services/billing", {"auth": {**auth, "username": 5}}))
        for answer in answers:
            assert CANARY.encode() not in answer.content


def test_only_an_admin_allows_private_networks(operator: Api, admin: Api) -> None:
    network = {"allow_private": ["10.0.0.0/8"], "reason": "on site"}
    body = {"name": "inner", "base_url": "http://10.1.2.3", "network": network}
    is_problem(operator.post("/services", body), 403)
    assert admin.post("/services", body).status_code == 201
    is_problem(operator.patch("/services/inner", {"network": {"allow_private": []}}), 403)
    is_problem(operator.patch("/services/inner", {"network": {"reason": "mine"}}), 403)
    is_problem(operator.patch("/services/inner", {"network": {"until": None, "reason": "mine"}}), 403)
    assert operator.patch("/services/inner", {"description": "known", "network": network}).status_code == 200


def test_a_service_without_unfinished_messages_is_deleted(admin: Api, billing: Service) -> None:
    assert admin.delete("/services/billing").status_code == 204
    is_problem(admin.get("/services/billing"), 404)


def test_a_service_with_unfinished_messages_is_deleted_by_force_only(admin: Api, billing: Service, queue: Any) -> None:
    queue()
    assert "1 message" in is_problem(admin.delete("/services/billing"), 409)["detail"]
    assert admin.delete("/services/billing?force=true").status_code == 204
    assert not Message.objects.exists()


def test_a_deletion_by_force_waits_for_a_call_in_flight(
    admin: Api, operator: Api, billing: Service, queue: Any
) -> None:
    queue()
    sending = queue()
    Message.objects.filter(pk=sending.pk).update(status=Status.DELIVERING)
    answer = admin.delete("/services/billing?force=true")
    assert answer.status_code == 202
    OperationOut.model_validate(document := answer.json())
    assert answer["Location"] == f"/api/v1/operations/{document['id']}"
    assert (document["kind"], document["state"], document["rate"]) == ("delete", "planning", None)
    assert admin.delete("/services/billing?force=true").json()["id"] == document["id"], "asked again, it is the same"
    assert admin.get("/services/billing").json()["status"] == "deleting"
    message = {"service": "billing", "path": "/orders"}
    assert "is being deleted" in is_problem(operator.post("/messages", message), 409)["detail"]
    (rejected,) = operator.post("/messages/batch", {"messages": [message]}).json()["rejected"]
    assert rejected["error"]["status"] == 409
    is_problem(operator.post("/services/billing/pause", {"reason": "later"}), 409)
    is_problem(operator.post("/services/billing/resume"), 409)
    is_problem(operator.patch("/services/billing", {"description": "new"}), 422)
    refused = operator.post("/process", {"service": "billing", "method": "GET", "path": "/"})
    assert "is being deleted" in str(refused.json())

    operation = work(Operation.objects.get())
    assert (operation.total, operation.succeeded, operation.state) == (2, 1, "running")
    Message.objects.filter(pk=sending.pk).update(status=Status.DELIVERED, finished_at=timezone.now())
    Operation.objects.update(created_at=timezone.now() - deletion.LAST_ACCEPTED)
    operation = work(operation)
    assert (operation.total, operation.succeeded, operation.state) == (2, 2, "finished")
    is_problem(admin.get("/services/billing"), 404)


def test_a_paused_service_says_why_and_holds_its_messages(operator: Api, billing: Service, queue: Any) -> None:
    answer = operator.post("/services/billing/pause", {"reason": "their release"})
    assert (answer.status_code, answer.json()["status"], answer.json()["paused_reason"]) == (
        200,
        "paused",
        "their release",
    )
    message = operator.get(f"/messages/{queue().public_id}").json()
    assert message["waiting_for"]["kind"] == "paused"
    assert operator.post("/services/billing/resume").json()["status"] == "active"
    is_problem(operator.post("/services/billing/resume"), 409)


def test_a_resume_may_leave_messages_back(operator: Api, billing: Service, queue: Any) -> None:
    operator.post("/services/billing/pause", {"reason": "x"})
    message = queue()
    operator.post("/services/billing/resume", {"release": "none"})
    assert operator.get(f"/messages/{message.public_id}").json()["waiting_for"]["kind"] == "held"
    answer = operator.post(f"/messages/{message.public_id}/retry-now")
    assert (answer.status_code, answer.json()["waiting_for"]["kind"]) == (200, "worker")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("pause", {"reason": "x", "until": "2030-01-01T10:00:00"}),
        ("resume", {"release": "newer_than", "newer_than": "2030-01-01T10:00:00"}),
        ("breaker", {"action": "open", "reason": "x", "until": "2030-01-01T10:00:00"}),
    ],
)
def test_a_time_without_its_zone_is_refused(operator: Api, billing: Service, path: str, body: dict[str, str]) -> None:
    is_problem(operator.post(f"/services/billing/{path}", body), 422)


def test_a_breaker_is_steered(operator: Api, billing: Service, queue: Any) -> None:
    queue()
    opened = operator.post("/services/billing/breaker", {"action": "open", "reason": "maintenance"})
    assert opened.status_code == 200
    breaker = BreakerOut.model_validate_json(opened.content)
    assert (breaker.state, breaker.mode, breaker.reason, breaker.held) == ("open", "forced_open", "maintenance", 1)
    assert operator.get("/services/billing").json()["health"] == "down"
    assert operator.post("/services/billing/breaker", {"action": "close", "reason": "done"}).json()["state"] == "closed"
    is_problem(operator.post("/services/billing/breaker", {"action": "half_open", "reason": "look"}), 409)
    is_problem(operator.post("/services/billing/breaker", {"action": "explode", "reason": "look"}), 422)
    past = (timezone.now() - timedelta(hours=1)).isoformat()
    is_problem(operator.post("/services/billing/breaker", {"action": "open", "reason": "x", "until": past}), 409)
    assert operator.get("/services/billing/breaker").json()["held"] == 0


def test_health_and_backlog_are_read_back(viewer: Api, billing: Service, queue: Any) -> None:
    message = queue()
    Message.objects.filter(pk=message.pk).update(due_at=timezone.now() - timedelta(seconds=90))
    Tally.objects.create(service=billing, start=timezone.now().replace(second=0, microsecond=0), calls=3, failures=1)
    service = viewer.get("/services/billing").json()
    assert (service["health"], service["backlog"]) == ("up", 1)
    assert 89 < service["oldest_due_age"] < 120
    Runtime.objects.filter(service=billing).update(state="open")
    assert viewer.get("/services/billing").json()["health"] == "down"


def test_a_list_of_services_costs_the_same_for_any_number(
    viewer: Api, operator: Api, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        operator.post("/services", {"name": f"s-{number}", "base_url": "https://a.example.com"})
    viewer.get("/services")
    with django_assert_max_num_queries(6):
        answer = viewer.get("/services")
    assert [item["name"] for item in answer.json()["items"]] == [f"s-{number}" for number in range(11, -1, -1)]
    ServicePage.model_validate_json(answer.content)


def test_endpoints_are_named_changed_and_forgotten(operator: Api, billing: Service) -> None:
    made = operator.post("/services/billing/endpoints", {"name": "pay", "path": "/pay", "query": {"v": 1}})
    assert (made.status_code, made["Location"]) == (201, "/api/v1/services/billing/endpoints/pay")
    EndpointOut.model_validate_json(made.content)
    changed = operator.patch(made["Location"], {"method": "put"}).json()
    assert (changed["method"], changed["path"], changed["query"]) == ("PUT", "/pay", {"v": 1})
    is_problem(operator.post("/services/billing/endpoints", {"name": "pay"}), 422)
    is_problem(operator.patch(made["Location"], {"verb": "put"}), 422)
    assert [item["name"] for item in operator.get("/services/billing/endpoints").json()["items"]] == ["pay"]
    assert operator.delete(made["Location"]).status_code == 204
    is_problem(operator.get(made["Location"]), 404)
    is_problem(operator.get("/services/nobody/endpoints"), 404)


@pytest.mark.django_db(transaction=True)
def test_two_patches_at_once_both_count() -> None:
    register(ServiceIn(name="billing", base_url="https://b.example.com"), actor="person test", source=Source.FORM)
    operator = Api(*Token.objects.issue("a", Role.OPERATOR))
    start = threading.Barrier(6)
    patches: list[dict[str, Any]] = [{"retry": {"max_attempts": 3}}, {"retry": {"initial": 2}}, {"owner": "ada"}]
    patches += [{"limits": {"rate": 7}}, {"limits": {"concurrency": 3}}, {"description": "known"}]

    def send(body: dict[str, Any]) -> None:
        try:
            start.wait()
            assert operator.patch("/services/billing", body).status_code == 200
        finally:
            connection.close()

    threads = [threading.Thread(target=send, args=[body]) for body in patches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    service = operator.get("/services/billing").json()
    assert (service["retry"]["max_attempts"], service["retry"]["initial"], service["owner"]) == (3, 2, "ada")
    assert (service["limits"]["rate"], service["limits"]["concurrency"], service["description"]) == (7, 3, "known")


@pytest.mark.parametrize(
    "check", [{"interval": 1}, {"interval": 86_401}, {"expect": "fine"}, {"expect": "2xx,"}, {"path": "no-slash"}]
)
def test_a_health_check_that_cannot_be_made_is_refused(operator: Api, check: dict[str, Any]) -> None:
    answer = operator.post(
        "/services", {"name": "billing", "base_url": "https://billing.example", "health_check": check}
    )
    assert is_problem(answer, 422)["errors"][0]["loc"][:3] == ["body", "health_check", *check]


def test_health_is_what_the_checks_say(operator: Api, billing: Service) -> None:
    operator.patch("/services/billing", {"health_check": {"interval": 60}})
    assert operator.get("/services/billing").json()["health"] == "unknown"
    for state in ("down", "up"):
        Health.objects.filter(service=billing).update(state=state)
        assert operator.get("/services/billing").json()["health"] == state
    operator.patch("/services/billing", {"health_check": {"interval": 0}})
    assert operator.get("/services/billing").json()["health"] == "unknown"
