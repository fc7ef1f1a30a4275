"""The first run: forms that take what people type, an address that is judged at once, and three steps to a delivery."""

from __future__ import annotations

import socket

import pytest
from django.test import Client

from integrations.models import AuditEntry, Message, Role, Service
from integrations.registration import sandbox
from tests.support.signed_in import a_service, browser, words

pytestmark = pytest.mark.django_db

LOCAL = {"name": "orders", "base_url": "http://127.0.0.1:9/"}


@pytest.fixture(autouse=True)
def _no_private_networks(settings) -> None:
    settings.ALLOW_PRIVATE = ""


# ---- what people type ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("typed", "name"), [("My Orders", "my-orders"), ("Bücher_2", "bucher-2"), ("  a  ", "a")])
def test_a_name_becomes_one_that_fits_into_an_address(typed: str, name: str) -> None:
    answer = browser().post("/services/new/", {"name": typed, "base_url": "https://api.example.com"})
    assert answer["Location"] == f"/services/{name}/"


def test_a_name_without_a_letter_or_digit_is_refused() -> None:
    answer = browser().post("/services/new/", {"name": "!!!", "base_url": "https://api.example.com"})
    assert answer.status_code == 422
    assert "lowercase letters" in words(answer)


def test_a_missing_slash_is_added_wherever_a_path_is_typed() -> None:
    client = browser()
    client.post("/services/new/", {"name": "billing", "base_url": "https://a.example", "health_check.path": "health"})
    client.post("/services/billing/endpoints/new/", {"name": "New Order", "path": "orders"})
    client.post("/messages/new/", {"service": "billing", "method": "POST", "path": "orders"})
    service = Service.objects.get()
    assert service.health_check["path"] == "/health"
    assert list(service.endpoints.values_list("name", "path")) == [("new-order", "/orders")]
    assert Message.objects.get().path == "/orders"


def test_all_errors_come_in_one_round() -> None:
    a_service("billing")
    wrong = {
        "name": "Billing",
        "base_url": "http://10.0.0.5/",
        "auth.type": "basic",
        "headers": "X-Api-Key: secret",
        "retry.max_attempts": "0",
    }
    page = words(browser().post("/services/new/", wrong))
    for error in (
        "A service named billing already exists",
        "10.0.0.5 is a private address",
        "Basic authentication needs username",
        "X-Api-Key carries a credential",
        "Must be at least 1",
    ):
        assert error in page
    assert "5 fields need attention" in page


def test_an_empty_form_names_both_fields_that_it_needs() -> None:
    page = words(browser().post("/services/new/", {"name": "", "base_url": ""}))
    assert "2 fields need attention" in page
    assert "Enter the address that calls go to" in page


# ---- the address --------------------------------------------------------------------------------------------------
def test_an_admin_allows_a_loopback_address_where_it_was_refused() -> None:
    admin = browser(Role.ADMIN)
    refused = admin.post("/services/new/", LOCAL)
    assert refused.status_code == 422
    assert "Allow 127.0.0.1/32 for this service" in words(refused)

    assert admin.post("/services/new/", {**LOCAL, "allow_networks": "127.0.0.1/32"}).status_code == 303
    service = Service.objects.get()
    assert service.network["allow_private"] == ["127.0.0.1/32"]
    assert service.network["allowed_by"] == "person a-admin"
    assert "127.0.0.1" in AuditEntry.objects.get(action="service.created").reason


def test_an_address_of_an_edited_service_keeps_the_networks_it_had() -> None:
    admin = browser(Role.ADMIN)
    admin.post(
        "/services/new/",
        {
            "name": "orders",
            "base_url": "http://10.0.0.5/",
            "network.allow_private": "10.0.0.0/8",
            "network.reason": "x",
        },
    )
    answer = admin.post("/services/orders/edit/", {"base_url": LOCAL["base_url"], "allow_networks": "127.0.0.1/32"})
    assert answer.status_code == 303
    assert Service.objects.get().network["allow_private"] == ["10.0.0.0/8", "127.0.0.1/32"]


def test_the_box_allows_no_other_network_than_that_of_the_address() -> None:
    answer = browser(Role.ADMIN).post("/services/new/", {**LOCAL, "allow_networks": "0.0.0.0/0"})
    assert answer.status_code == 422
    assert not Service.objects.exists()


def test_an_operator_is_told_to_ask_and_cannot_tick_the_box() -> None:
    answer = browser().post("/services/new/", {**LOCAL, "allow_networks": "127.0.0.1/32"})
    assert answer.status_code == 422
    assert "an admin can allow its network" in words(answer)
    assert 'name="allow_networks"' not in answer.content.decode()


def test_a_metadata_address_is_never_offered() -> None:
    page = browser(Role.ADMIN).post("/_p/address/", {"base_url": "http://169.254.169.254/"})
    assert 'name="allow_networks"' not in page.content.decode()


def test_a_host_without_an_address_is_said_while_it_is_typed_and_when_it_is_saved() -> None:
    client = browser()
    assert "nowhere.invalid has no address in DNS" in words(
        client.post("/_p/address/", {"base_url": "https://nowhere.invalid/v1"})
    )
    page = client.post("/services/new/", {"name": "far", "base_url": "https://nowhere.invalid"}, follow=True)
    assert "nowhere.invalid has no address in DNS" in words(page)


def test_a_name_that_leads_inside_offers_every_address_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(host: str, *_: object, **options: object) -> list[tuple[object, ...]]:
        if options.get("flags"):
            raise socket.gaierror  # not a literal
        return [(0, 0, 0, "", ("10.0.0.5", 0)), (0, 0, 0, "", ("fd00::5", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    page = words(browser(Role.ADMIN).post("/_p/address/", {"base_url": "http://orders.internal"}))
    assert "Allow 10.0.0.5/32, fd00::5/128 for this service" in page


# ---- three steps --------------------------------------------------------------------------------------------------
def test_the_steps_lead_from_a_service_to_its_message() -> None:
    admin = browser(Role.ADMIN)
    assert "Register a service" in words(admin.get("/start/"))
    answer = admin.post("/start/register/", {**LOCAL, "name": "My Orders", "allow_networks": "127.0.0.1/32"})
    assert answer["Location"] == "/start/?service=my-orders"
    page = admin.get(answer["Location"])
    assert "Registered my-orders" in words(page)
    answer = admin.post("/start/send/", {"service": "my-orders", "method": "POST", "path": "", "body": '{"a": 1}'})
    assert answer.status_code == 422  # in its place, with the first step still done
    assert "Registered my-orders" in words(answer)
    answer = admin.post("/start/send/", {"service": "my-orders", "method": "POST", "path": "/", "body": '{"a": 1}'})
    message = Message.objects.get()
    assert answer["Location"] == f"/start/?message={message.public_id}"
    assert "pending" in words(admin.get(answer["Location"]))


def test_errors_of_the_first_step_are_shown_in_it() -> None:
    answer = browser(Role.ADMIN).post("/start/register/", LOCAL)
    assert answer.status_code == 422
    page = words(answer)
    assert "Get started" in page
    assert "Allow 127.0.0.1/32 for this service" in page


def test_the_sandbox_is_one_click_away_and_only_an_admin_may_add_it() -> None:
    assert browser(Role.OPERATOR).post("/start/sandbox/").status_code == 403
    answer = browser(Role.ADMIN).post("/start/sandbox/")
    assert answer["Location"] == "/start/?service=sandbox-healthy"
    assert sandbox.registered_port()
    assert AuditEntry.objects.get(action="service.created").actor == "person a-admin"


def test_a_viewer_sees_the_steps_without_forms() -> None:
    a_service()
    page = browser(Role.VIEWER).get("/start/").content.decode()
    assert '<form class="stack"' not in page


def test_a_service_of_a_sandbox_name_elsewhere_is_not_taken_for_the_sandbox() -> None:
    a_service("sandbox-healthy", base_url="https://api.example.com:8090/healthy")
    assert sandbox.registered_port() is None


def test_a_stranger_gets_no_step(client: Client) -> None:
    assert client.get("/start/")["Location"].startswith("/login/")
