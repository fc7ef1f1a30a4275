"""A path that leaves the service's address and was stored before the rule is not called."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from integrations.models import Attempt, Health, Message, Service, Status
from tests.support.receiver import Receiver

Register = Callable[..., Service]
Send = Callable[..., list[Message]]
Deliver = Callable[..., None]


@pytest.mark.parametrize("path", ["/../admin", "/..%2fadmin"])
def test_a_stored_path_that_leaves_the_address_is_dead_as_config_and_never_called(
    register: Register, send: Send, deliver: Deliver, sink: Receiver, path: str
) -> None:
    (message,) = send(register(base_url=f"{sink.url}/v1"), path=path)
    deliver()
    message.refresh_from_db()
    assert (message.status, message.dead_reason) == (Status.DEAD, "config")
    assert "below the service's address" in Attempt.objects.get().detail
    assert not sink.calls


def test_a_stored_health_check_that_leaves_the_address_is_not_called(
    register: Register, deliver: Deliver, sink: Receiver
) -> None:
    service = register(base_url=f"{sink.url}/v1", health_check={"path": "/../up", "interval": 60, "expect": "2xx"})
    Health.objects.schedule(service)
    Health.objects.update(next_at=timezone.now() - timedelta(seconds=1))
    deliver(until=lambda: Health.objects.get().checked_at is not None)
    assert Attempt.objects.get().fault == "config"
    assert not sink.calls
