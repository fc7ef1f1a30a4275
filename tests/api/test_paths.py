"""A path below the service's address cannot leave it: refused in words wherever one is accepted."""

from __future__ import annotations

from typing import Any

import pytest

from integrations.models import Endpoint, Message, Service
from tests.support.calling import Api, is_problem

LEAVING = ("/../admin", "/%2e%2e/admin", "/..;/admin", "/..%2fadmin", "/..\\admin", "/a/../../admin")


def errors(document: dict[str, Any]) -> str:
    return " ".join(error["msg"] for error in document["errors"])


@pytest.mark.parametrize("path", LEAVING)
def test_no_call_of_the_api_accepts_a_path_that_leaves_the_address(operator: Api, billing: Service, path: str) -> None:
    answers = [
        operator.post("/messages", {"service": "billing", "path": path}),
        operator.post("/process", {"service": "billing", "method": "GET", "path": path}),
        operator.post("/services/billing/endpoints", {"name": "up", "path": path}),
        operator.patch("/services/billing", {"health_check": {"path": path, "interval": 60}}),
    ]
    for answer in answers:
        assert "path" in errors(is_problem(answer, 422))
    batch = operator.post("/messages/batch", {"messages": [{"service": "billing", "path": path}]}).json()
    assert [entry["error"]["status"] for entry in batch["rejected"]] == [422]
    assert not Message.objects.exists()
    assert not Endpoint.objects.exists()


@pytest.mark.parametrize("path", ["/a b", "/up\r\nX-Injected: 1", "/up#top", "/up?x=1", "up", "/../up"])
def test_a_health_check_has_the_path_rules_of_a_message(operator: Api, billing: Service, path: str) -> None:
    for body in ({"service": "billing", "path": path},):
        is_problem(operator.post("/messages", body), 422)
    is_problem(operator.patch("/services/billing", {"health_check": {"path": path, "interval": 60}}), 422)
