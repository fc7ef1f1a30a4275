"""What no page can be asked: refused in words, on both databases alike."""

from __future__ import annotations

import pytest
from django.db.models.query import QuerySet
from django.test import Client

from integrations.errors import Invalid
from integrations.models import Service, Source
from integrations.registration import endpoints
from integrations.registration.registry import register
from integrations.schemas.service import EndpointIn, ServiceIn


@pytest.mark.parametrize(
    "address",
    [
        "/services/?q=a%00b",
        "/messages/?q=%00",
        "/messages/?ordering_key=%00",
        "/messages/?q=tag:a%00",
        "/audit/?target=%00",
        "/breakers/?cursor=%00",
        "/lab/?service=%00",
        "/messages/new/?service=%00",
    ],
)
def test_a_nul_in_an_address_is_refused_in_words(admin: Client, address: str) -> None:
    answer = admin.get(address)
    assert answer.status_code == 400
    assert "NUL character" in answer.content.decode()


def test_another_host_is_refused_with_a_page(db: None) -> None:
    answer = Client(raise_request_exception=False).get("/login/", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert "SWITCHBOARD_ALLOWED_HOSTS" in answer.content.decode()


def test_a_name_taken_at_the_same_moment_is_refused_in_words(billing: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoints.save(billing, EndpointIn(name="a", path="/"), actor="person ada")
    monkeypatch.setattr(QuerySet, "exists", lambda _: False)  # the other one commits just after the look
    with pytest.raises(Invalid, match="a service named billing already exists"):
        register(ServiceIn(name="billing", base_url="https://a.example.com"), actor="person ada", source=Source.FORM)
    with pytest.raises(Invalid, match="already has an endpoint named a"):
        endpoints.save(billing, EndpointIn(name="a", path="/"), actor="person ada")
