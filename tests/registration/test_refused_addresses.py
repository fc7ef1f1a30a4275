"""Addresses that every call would refuse are refused when the registration is saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from integrations.delivery import listeners
from integrations.errors import Invalid
from integrations.models import Service, Source
from integrations.registration import registry
from integrations.schemas.service import ServiceIn

pytestmark = pytest.mark.django_db


@pytest.fixture
def own_listeners_are_read_again() -> Iterator[None]:
    listeners.forget()
    yield
    listeners.forget()


def registered(token_url: str, *networks: str, base_url: str = "https://billing.example.com") -> Service:
    auth = {"type": "oauth2", "token_url": token_url, "client_id": "c", "client_secret": "hush-hush"}
    data = {"name": "billing", "base_url": base_url, "auth": auth}
    wanted = ServiceIn.model_validate({**data, "network": {"allow_private": list(networks), "reason": "on site"}})
    return registry.register(wanted, actor="person ada", source=Source.FORM, may_allow_private=True)


@pytest.mark.parametrize("token_url", ["http://10.1.2.3/token", "http://[::1]/token"])
def test_a_token_url_that_every_call_would_refuse_is_refused_when_it_is_saved(token_url: str) -> None:
    with pytest.raises(Invalid) as refusal:
        registered(token_url)
    assert refusal.value.errors[0][0] == ("auth", "token_url")
    assert not Service.objects.exists()


def test_a_token_url_in_an_allowed_network_is_saved() -> None:
    assert registered("http://10.1.2.3/token", "10.0.0.0/8").auth["token_url"] == "http://10.1.2.3/token"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1"])
@pytest.mark.parametrize("field", ["base_url", "token_url"])
def test_an_address_on_the_consoles_own_port_is_refused_when_it_is_saved(
    settings: Any, own_listeners_are_read_again: None, field: str, host: str
) -> None:
    settings.OWN_PORTS = ["8743"]
    urls = {"base_url": "https://billing.example.com", "token_url": "https://sso.example.com/token"}
    urls[field] = f"http://{host}:8743/"
    with pytest.raises(Invalid) as refusal:
        registered(urls["token_url"], "127.0.0.0/8", "::1", base_url=urls["base_url"])
    assert refusal.value.errors[0][0][-1] == field
    assert "own console" in refusal.value.errors[0][1]
    urls[field] = f"http://{host}:8744/"
    assert registered(urls["token_url"], "127.0.0.0/8", "::1", base_url=urls["base_url"]).pk


@pytest.mark.parametrize("path", ["/up\r\nX-Evil: 1", "/up\n", "/up#top", "/a\\..\\b", "/two words", "/\0"])
def test_a_path_of_a_health_check_that_every_call_would_refuse_is_refused_when_it_is_saved(path: str) -> None:
    data = {"name": "billing", "base_url": "https://billing.example.com", "health_check": {"path": path}}
    with pytest.raises(ValidationError) as refusal:
        ServiceIn.model_validate(data)
    assert refusal.value.errors()[0]["loc"][0] == "health_check"


def test_a_network_that_a_token_url_needs_cannot_be_taken_away(settings: Any) -> None:
    service = registered("http://10.1.2.3/token", "10.0.0.0/8")
    data = ServiceIn.model_validate({"name": "billing", "base_url": service.base_url})
    with pytest.raises(Invalid) as refusal:
        registry.change(service, data, {"network"}, actor="person ada", may_allow_private=True)
    assert refusal.value.errors[0][0] == ("auth", "token_url")
