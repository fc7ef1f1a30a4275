"""A toast says what was done, and takes it back where the console can."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from integrations.models import Service
from integrations.registration import registry
from tests.dashboard.test_failures import a_group
from tests.support.signed_in import a_service, browser

pytestmark = pytest.mark.django_db


def undo(client: Client, answer: Any) -> None:
    """Press Undo in the toast of the page that a form has led to."""
    page = client.get(answer["Location"]).content.decode()
    found = re.search(r'class="toasts".*?<form method="post" action="([^"]+)">.*?Undo</button>', page, re.DOTALL)
    assert found, "no toast has an undo"
    assert client.post(found[1]).status_code == 303


def test_a_pause_is_taken_back() -> None:
    a_service()
    client = browser()
    undo(client, client.post("/services/billing/pause/", {"reason": "a slip"}))
    assert not Service.objects.get().is_paused


@pytest.mark.parametrize("decision", ["resolve", "ignore"])
def test_a_decision_on_a_failure_group_is_taken_back(decision: str) -> None:
    group = a_group(a_service())
    client = browser()
    undo(client, client.post(f"/failures/{group.public_id}/{decision}/"))
    group.refresh_from_db()
    assert group.state == "open"


def test_signing_that_was_switched_off_is_switched_on_with_the_same_secret() -> None:
    service = a_service()
    registry.rotate_signing(service, timedelta(0), actor="person ada")
    client = browser()
    client.get(client.post("/services/billing/signing/enable/")["Location"])  # its own toast is gone with this page
    keys = Service.objects.get().signing_keys
    undo(client, client.post("/services/billing/signing/disable/"))
    service = Service.objects.get()
    assert service.signing["enabled"]
    assert service.signing_keys == keys


def test_what_cannot_be_taken_back_has_no_undo() -> None:
    a_service().pause("a slip")
    client = browser()
    done = client.post("/services/billing/resume/", {"release": "all"})
    assert "Undo" not in client.get(done["Location"]).content.decode()
