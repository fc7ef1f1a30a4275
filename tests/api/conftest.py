"""Callers of the API with each role, and things for them to call about.

Imports wait until a fixture runs: this file may be read before the settings are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from integrations.models import Endpoint, Message, Role, Service
    from tests.support.calling import Api


@pytest.fixture(autouse=True)
def _full_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    from integrations.api import auth

    monkeypatch.setattr(auth, "buckets", auth.Buckets())


@pytest.fixture
def caller_with(db: None) -> Callable[[Role], Api]:
    from integrations.models import Token
    from tests.support.calling import Api

    def make(role: Role) -> Api:
        return Api(*Token.objects.issue(f"a-{role}", role))

    return make


@pytest.fixture
def viewer(caller_with: Callable[[Role], Api]) -> Api:
    from integrations.models import Role

    return caller_with(Role.VIEWER)


@pytest.fixture
def operator(caller_with: Callable[[Role], Api]) -> Api:
    from integrations.models import Role

    return caller_with(Role.OPERATOR)


@pytest.fixture
def admin(caller_with: Callable[[Role], Api]) -> Api:
    from integrations.models import Role

    return caller_with(Role.ADMIN)


@pytest.fixture
def billing(db: None) -> Service:
    from integrations.models import Source
    from integrations.registration.registry import register
    from integrations.schemas.service import ServiceIn

    data = ServiceIn(name="billing", base_url="https://billing.example.com")
    return register(data, actor="person test", source=Source.FORM)


@pytest.fixture
def invoices(billing: Service) -> Endpoint:
    from integrations.registration import endpoints
    from integrations.schemas.service import EndpointIn

    data = EndpointIn(name="invoices", method="PUT", path="/invoices", query={"v": "1"}, body='{"total": 1}')
    return endpoints.save(billing, data, actor="person test")


@pytest.fixture
def queue(operator: Api, billing: Service) -> Callable[..., Message]:
    """Queues a message to billing and answers its row."""

    from integrations.models import Message

    def send(**fields: Any) -> Message:
        answer = operator.post("/messages", {"service": "billing", "path": "/in", "body": {"n": 1}, **fields})
        assert answer.status_code == 202, answer.content
        message = Message.objects.by_public_id(answer.json()["id"])
        assert message is not None
        return message

    return send
