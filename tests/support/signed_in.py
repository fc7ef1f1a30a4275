"""People who are signed in, and things for them to look at."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import cache
from html import unescape
from typing import Any

from django.contrib.auth.hashers import make_password
from django.test import Client
from django.utils import timezone

from integrations.models import Account, Message, MessageContent, Role, Service, Source, Status
from integrations.registration.registry import register
from integrations.schemas.service import ServiceIn
from tests.support.calling import Answered

PASSWORD = "correct-horse-battery-9"


def person(role: Role = Role.OPERATOR, name: str = "") -> Account:
    return Account.objects.create(username=name or f"a-{role}", password=_hashed(), role=role)


@cache
def _hashed() -> str:
    """Hashing is slow on purpose, so it is done once."""
    return make_password(PASSWORD)


def browser(role: Role = Role.OPERATOR, name: str = "") -> Client:
    """A browser with a signed-in person of this role."""
    client = Client()
    client.force_login(person(role, name), backend="django.contrib.auth.backends.ModelBackend")
    return client


def a_service(name: str = "billing", **given: Any) -> Service:
    data = ServiceIn(name=name, base_url=given.pop("base_url", "https://api.example.com/v1"), **given)
    return register(data, actor="test", source=Source.FORM)


def messages_of(service: Service, status: Status, count: int = 1, **given: Any) -> list[Message]:
    now = timezone.now()
    if status == Status.PENDING:
        given.setdefault("due_at", now - timedelta(seconds=5))
    elif status != Status.DELIVERING:
        given.setdefault("finished_at", now - timedelta(minutes=1))
    made = [
        Message(service=service, method="POST", path="/", status=status, created_at=now, **given) for _ in range(count)
    ]
    return Message.objects.bulk_create(made)


def with_content(messages: list[Message]) -> list[Message]:
    """Give messages a content, as a replay needs it."""
    MessageContent.objects.bulk_create(
        MessageContent(message=message, body=b"{}", content_type="application/json") for message in messages
    )
    return messages


def trip(service: Service, reason: str = "5 calls in a row failed") -> None:
    """Opens a service's breaker as its workers would."""
    now = timezone.now()
    runtime = service.runtime
    runtime.state, runtime.reason = "open", reason
    runtime.opened_at, runtime.retry_at = now - timedelta(minutes=3), now + timedelta(seconds=40)
    runtime.save()


def words(response: Answered) -> str:
    """The visible words of a page: no tags, single spaces."""
    body = re.sub(r"(?s)<(script|style|title)\b.*?</\1>", " ", response.content.decode())
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body))).strip()


def page_of(client: Client, address: str) -> str:
    """The text of a page that is there."""
    response = client.get(address, follow=True)
    assert response.status_code == 200
    return response.content.decode()
