"""SWITCHBOARD_SERVICE_<NAME>_URL: the environment registers services and gives them their addresses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from integrations.models import AuditEntry, Event, Runtime, Service
from integrations.models.service import Source
from integrations.registration import discovery, registry
from integrations.schemas.service import ServiceIn

pytestmark = pytest.mark.django_db(transaction=True)

VARIABLE = "SWITCHBOARD_SERVICE_BILLING_EU_URL"


def test_a_variable_registers_a_service_with_defaults() -> None:
    assert discovery.discover({VARIABLE: "https://billing.example/v2", "PATH": "/bin"}) == [
        f"billing-eu: registered from {VARIABLE}"
    ]
    service = Service.objects.get()
    assert (service.name, service.base_url, service.source) == (
        "billing-eu",
        "https://billing.example/v2",
        Source.ENVIRONMENT,
    )
    assert service.url_env == VARIABLE
    assert Runtime.objects.filter(service=service).exists()
    assert discovery.discover({VARIABLE: "https://billing.example/v2"}) == []  # once more changes nothing


def test_the_environment_wins_over_the_form_and_keeps_the_secrets() -> None:
    data = ServiceIn.model_validate(
        {"name": "billing-eu", "base_url": "https://old.example", "auth": {"type": "bearer", "token": "hush"}}
    )
    service = registry.register(data, actor="person ada", source=Source.FORM)
    discovery.discover({VARIABLE: "https://new.example"})
    service.refresh_from_db()
    assert service.base_url == "https://new.example"
    assert service.secret("auth.token") == "hush"
    assert AuditEntry.objects.filter(actor="environment", target="billing-eu").count() == 1


def test_a_variable_that_goes_away_pauses_and_comes_back_to_resume() -> None:
    discovery.discover({VARIABLE: "https://billing.example"})
    assert discovery.discover({}) == [f"billing-eu: paused, {VARIABLE} is no longer set"]
    service = Service.objects.get()
    assert service.is_paused
    assert VARIABLE in service.paused_reason
    discovery.discover({VARIABLE: "https://billing.example"})
    service.refresh_from_db()
    assert not service.is_paused


def test_what_the_environment_changes_is_told_and_audited() -> None:
    for environ in (
        {VARIABLE: "https://a.example"},
        {VARIABLE: "https://b.example"},
        {},
        {VARIABLE: "https://b.example"},
    ):
        discovery.discover(environ)
    told = ["service.created", "service.changed", "service.paused", "service.resumed"]
    assert [event.type for event in Event.objects.order_by("pk")] == told
    audited = AuditEntry.objects.order_by("pk").values_list("action", "actor")
    assert list(audited) == [(action, "environment") for action in told]


def test_an_operators_pause_is_not_ended_by_the_environment() -> None:
    discovery.discover({VARIABLE: "https://billing.example"})
    Service.objects.get().pause("maintenance")
    discovery.discover({VARIABLE: "https://billing.example"})
    assert Service.objects.get().is_paused


@pytest.mark.parametrize(
    "address",
    [
        "ftp://billing.example",
        "billing.example",
        "http://10.0.0.8",
        "http://169.254.169.254/latest",
        "http://u:p@x.example",
    ],
)
def test_a_bad_address_is_reported_and_changes_nothing(address: str) -> None:
    (words,) = discovery.discover({VARIABLE: address})
    assert words.startswith(f"{VARIABLE} is ignored:")
    assert not Service.objects.exists()


def test_a_bad_address_leaves_the_service_with_its_old_one() -> None:
    discovery.discover({VARIABLE: "https://billing.example"})
    discovery.discover({VARIABLE: "ftp://billing.example"})
    assert Service.objects.get().base_url == "https://billing.example"


def test_a_host_changed_by_hand_clears_the_secrets(register: Callable[..., Service]) -> None:
    service = register("billing", base_url="https://a.example", auth={"type": "bearer"})
    service.keep_secret("auth.token", "hush")
    service.save()

    def move_to(address: str) -> None:
        whole: dict[str, Any] = {"name": "billing", "base_url": address}
        registry.change(service, ServiceIn.model_validate(whole), {"base_url"}, actor="person ada")
        service.refresh_from_db()

    move_to("https://a.example/v2")
    assert service.secret("auth.token") == "hush"
    move_to("https://b.example/v2")
    assert service.secret("auth.token") is None


def test_saving_a_form_does_not_undo_a_pause_of_the_engine(register: Callable[..., Service]) -> None:
    service = register("billing", base_url="https://a.example")
    Service.objects.get().pause("answered 410 Gone")  # after the form was opened
    data = ServiceIn.model_validate({"name": "billing", "base_url": "https://a.example", "description": "new"})
    registry.change(service, data, {"description"}, actor="person ada")
    kept = Service.objects.get()
    assert (kept.description, kept.is_paused) == ("new", True)
