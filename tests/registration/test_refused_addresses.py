"""Addresses that every call would refuse are refused when the registration is saved."""

from __future__ import annotations

import pytest

from integrations.errors import Invalid
from integrations.models import Service, Source
from integrations.registration import registry
from integrations.schemas.service import ServiceIn

pytestmark = pytest.mark.django_db


def registered(token_url: str, *networks: str) -> Service:
    auth = {"type": "oauth2", "token_url": token_url, "client_id": "c", "client_secret": "hush-hush"}
    data = {"name": "billing", "base_url": "https://billing.example.com", "auth": auth}
    wanted = ServiceIn.model_validate({**data, "network": {"allow_private": list(networks)}})
    return registry.register(wanted, actor="person ada", source=Source.FORM, may_allow_private=True)


@pytest.mark.parametrize("token_url", ["http://10.1.2.3/token", "http://[::1]/token"])
def test_a_token_url_that_every_call_would_refuse_is_refused_when_it_is_saved(token_url: str) -> None:
    with pytest.raises(Invalid) as refusal:
        registered(token_url)
    assert refusal.value.errors[0][0] == ("auth", "token_url")
    assert not Service.objects.exists()


def test_a_token_url_in_an_allowed_network_is_saved() -> None:
    assert registered("http://10.1.2.3/token", "10.0.0.0/8").auth["token_url"] == "http://10.1.2.3/token"
