"""The signing card of a service and what its buttons do."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from integrations.models import AuditEntry, Service
from integrations.outbound.signing import MAX_KEYS
from integrations.registration import registry
from tests.support.signed_in import words

SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]+")


def test_one_step_makes_a_secret_shows_it_once_and_signs(operator: Client, billing: Service) -> None:
    assert "Create a secret and sign every call" in words(operator.get("/services/billing/"))
    made = operator.post("/services/billing/signing/enable/")
    keys = Service.objects.get().signing_keys
    assert SECRET.findall(made.content.decode()) == [keys[0].secret]
    assert "no-store" in made["Cache-Control"]
    page = operator.get("/services/billing/").content.decode()
    assert "Every call is signed" in page
    assert keys[0].public_key in page
    for path in ("/services/billing/", "/services/billing/edit/", "/services/billing/signing/rotate/"):
        assert not SECRET.search(operator.get(path).content.decode())


def test_a_rotation_shows_the_new_secret_and_how_long_the_old_one_signs(operator: Client, billing: Service) -> None:
    operator.post("/services/billing/signing/enable/")
    (old,) = Service.objects.get().signing_keys
    assert 'value="86400" selected' in operator.get("/services/billing/signing/rotate/").content.decode()
    made = operator.post("/services/billing/signing/rotate/", {"overlap": "3600"})
    new, earlier = Service.objects.get().signing_keys
    assert SECRET.findall(made.content.decode()) == [new.secret]
    assert "The previous secret also signs until" in words(made)
    assert earlier.secret == old.secret
    assert earlier.valid_until is not None
    assert abs(earlier.valid_until - timezone.now() - timedelta(hours=1)) < timedelta(seconds=10)
    assert "also signs until" in words(operator.get("/services/billing/"))
    entry = AuditEntry.objects.filter(action="signing.rotated").latest("pk")
    assert (entry.actor, entry.target) == ("person operator", "billing")
    assert "whsec_" not in str(entry.before) + str(entry.after)


def test_signing_goes_off_and_on_again_with_the_same_secret(operator: Client, billing: Service) -> None:
    operator.post("/services/billing/signing/enable/")
    keys = Service.objects.get().signing_keys
    assert operator.post("/services/billing/signing/disable/").status_code == 303
    assert "Off" in words(operator.get("/services/billing/"))
    assert operator.post("/services/billing/signing/enable/").status_code == 303
    service = Service.objects.get()
    assert service.signing_keys == keys
    assert service.signing == {"enabled": True}
    assert service.secret("auth.token") == "canary-7c1e55"


@pytest.mark.parametrize("overlap", ["-1", "a day", "99999999999"])
def test_a_bad_overlap_is_refused_on_the_form(operator: Client, billing: Service, overlap: str) -> None:
    assert operator.post("/services/billing/signing/rotate/", {"overlap": overlap}).status_code == 422
    assert not Service.objects.get().signing_keys


def test_too_many_secrets_are_refused_on_the_form(operator: Client, billing: Service) -> None:
    for _ in range(MAX_KEYS):
        registry.rotate_signing(billing, timedelta(days=1), actor="test")
    refused = operator.post("/services/billing/signing/rotate/", {"overlap": "3600"})
    assert refused.status_code == 422
    assert "overlap of 0" in words(refused)


def test_a_viewer_sees_the_public_key_and_no_button(viewer: Client, billing: Service) -> None:
    (keys,) = registry.rotate_signing(billing, timedelta(0), actor="test")
    page = viewer.get("/services/billing/").content.decode()
    assert keys.public_key in page
    assert "/signing/" not in page
    for verb in ("rotate", "enable", "disable"):
        assert viewer.post(f"/services/billing/signing/{verb}/").status_code == 403
