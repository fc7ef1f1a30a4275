"""Signing by the API: enabled, rotated, its secret shown once."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from integrations.api.responses import RotatedOut, ServiceOut
from integrations.models import AuditEntry, Service
from integrations.outbound.signing import MAX_KEYS
from tests.support.calling import Api, is_problem


def test_a_rotation_shows_the_secret_once_and_the_public_key_from_then_on(
    operator: Api, admin: Api, viewer: Api, billing: Service
) -> None:
    assert viewer.get("/services/billing").json()["signing"] == {"enabled": False, "public_key": None}
    answer = operator.post("/services/billing/signing/rotate", {"overlap": 0})
    assert (answer.status_code, answer["Cache-Control"]) == (200, "no-store")
    rotated = RotatedOut.model_validate_json(answer.content)
    assert rotated.secret.startswith("whsec_")
    assert rotated.previous_valid_until is None
    assert viewer.get("/services/billing").json()["signing"] == {"enabled": False, "public_key": rotated.public_key}
    for path in ("/services", "/services/billing", "/audit"):
        assert rotated.secret.encode() not in admin.get(path).content
        assert b"whsk_" not in admin.get(path).content


def test_the_keys_so_far_stay_valid_for_the_overlap(operator: Api, billing: Service) -> None:
    before = operator.patch("/services/billing", {"signing": {"enabled": True}}).json()["signing"]["public_key"]
    for body, expected in [(None, timedelta(days=1)), ({"overlap": 60.5}, timedelta(seconds=60.5))]:
        answer = operator.post("/services/billing/signing/rotate", body)
        until = datetime.fromisoformat(answer.json()["previous_valid_until"])
        assert abs(until - timezone.now() - expected) < timedelta(seconds=10)
    assert before in [keys.public_key for keys in Service.objects.get().signing_keys]
    assert operator.post("/services/billing/signing/rotate", {"overlap": 0}).json()["previous_valid_until"] is None
    entry = AuditEntry.objects.filter(action="signing.rotated").order_by("pk").first()
    assert entry is not None
    assert (entry.actor, entry.target, entry.before["public_key"]) == ("token a-operator", "billing", before)


def test_signing_may_be_on_from_the_start_and_is_changed_like_any_setting(operator: Api) -> None:
    body = {"name": "a", "base_url": "https://a.example.com", "signing": {"enabled": True}}
    made = ServiceOut.model_validate_json(operator.post("/services", body).content)
    assert made.signing.public_key
    assert operator.patch("/services/a", {"owner": "ada"}).json()["signing"] == made.signing.model_dump()
    off = operator.patch("/services/a", {"signing": {"enabled": False}}).json()["signing"]
    assert off == {"enabled": False, "public_key": made.signing.public_key}


@pytest.mark.parametrize("body", [{"overlap": -1}, {"overlap": 1e9}, {"overlap": "a day"}, {"keep": 1}, [], 3])
def test_an_overlap_is_a_number_of_seconds_up_to_thirty_days(operator: Api, billing: Service, body: Any) -> None:
    is_problem(operator.post("/services/billing/signing/rotate", body), 422)
    assert Service.objects.get().signing_keys == []


def test_too_many_secrets_at_once_are_a_conflict(operator: Api, billing: Service) -> None:
    for _ in range(MAX_KEYS):
        assert operator.post("/services/billing/signing/rotate").status_code == 200
    assert "overlap of 0" in is_problem(operator.post("/services/billing/signing/rotate"), 409)["detail"]
    is_problem(operator.post("/services/nobody/signing/rotate"), 404)


def test_keys_cannot_be_brought_along(operator: Api, billing: Service) -> None:
    for name in ("secret", "public_key"):
        is_problem(operator.patch("/services/billing", {"signing": {"enabled": True, name: "x"}}), 422)
