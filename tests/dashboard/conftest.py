"""People who are signed in, and something to look at.

Imports wait until a fixture runs: this file may be read before the settings are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from django.test import Client

if TYPE_CHECKING:
    from integrations.models import Message, Service


@pytest.fixture(autouse=True)
def _no_failed_sign_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients of tests have one address."""
    from dashboard import sign_in_limits

    monkeypatch.setattr(sign_in_limits, "failures", sign_in_limits.FailureLimit())


@pytest.fixture
def signed_in(db: None) -> Callable[[str], Client]:
    """A browser of a person with this role, named like it: `signed_in("operator")`."""

    def sign_in(role: str) -> Client:
        from integrations.models import Account, Role

        client = Client()
        client.force_login(
            Account.objects.create(username=role, role=Role(role)),  # no password: hashing takes its time
            backend="django.contrib.auth.backends.ModelBackend",
        )
        return client

    return sign_in


@pytest.fixture
def viewer(signed_in: Callable[[str], Client]) -> Client:
    return signed_in("viewer")


@pytest.fixture
def operator(signed_in: Callable[[str], Client]) -> Client:
    return signed_in("operator")


@pytest.fixture
def admin(signed_in: Callable[[str], Client]) -> Client:
    return signed_in("admin")


@pytest.fixture
def billing(db: None) -> Service:
    """A service with a secret that no page may ever show."""
    from integrations.models import Service

    service = Service(name="billing", base_url="https://billing.example/api", auth={"type": "bearer"})
    service.keep_secret("auth.token", "canary-7c1e55")
    service.save()
    return service


@pytest.fixture
def queue(billing: Service) -> Callable[..., Message]:
    """Queue a message for billing: `queue(body=b"{}", status="dead", …)`; fields outside of a draft are set later."""

    def one(**fields: Any) -> Message:
        from dataclasses import fields as of

        from integrations.models import Draft, Message

        names = {field.name for field in of(Draft)}
        drafted: dict[str, Any] = {"service": billing, "method": "POST", "path": "/orders", "body": b"{}"}
        drafted |= {"content_type": "application/json"}
        drafted |= {name: value for name, value in fields.items() if name in names}
        message = Message.objects.accept([Draft(**drafted)])[0]
        if later := {name: value for name, value in fields.items() if name not in names}:
            Message.objects.filter(pk=message.pk).update(**later)
            message.refresh_from_db()
        return message

    return one
