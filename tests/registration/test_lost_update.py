"""Two sessions that edit a registration at once: a secret never meets another host, and no old value comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integrations.delivery import lab_call
from integrations.errors import Invalid
from integrations.models import AuditEntry, Endpoint, Message, Service, Source
from integrations.outbound.urls import origin
from integrations.registration import discovery, endpoints, registry, services_file
from integrations.schemas.service import EndpointIn, ServiceIn

pytestmark = pytest.mark.django_db

OURS, THEIRS = "https://billing.example.com", "https://attacker.example.com"
VARIABLE = "SWITCHBOARD_SERVICE_BILLING_URL"


def registered(address: str = OURS, **fields: Any) -> Service:
    data = ServiceIn.model_validate({"name": "billing", "base_url": address, **fields})
    return registry.register(data, actor="person ada", source=Source.FORM, may_allow_private=True)


def saved(service: Service, *, is_admin: bool = False, **fields: Any) -> None:
    """Save a form: its fields, over the service as this session read it."""
    data = ServiceIn.model_validate({"name": "billing", "base_url": service.base_url or None, **fields})
    registry.change(service, data, set(fields), actor="person ada", may_allow_private=is_admin)


def bearer(secret: str) -> dict[str, str]:
    return {"type": "bearer", "token": secret}


def test_a_form_in_flight_does_not_send_a_new_secret_to_the_host_that_an_admin_replaced() -> None:
    registered(THEIRS, auth=bearer("old-secret"))
    in_flight = Service.objects.get()
    saved(Service.objects.get(), base_url=OURS, auth=bearer("new-secret"))

    saved(in_flight, description="only this")
    stored = Service.objects.get()
    assert (stored.base_url, stored.secret("auth.token"), stored.description) == (OURS, "new-secret", "only this")

    in_flight = Service.objects.get()
    in_flight.base_url = THEIRS  # the session read it before the admin's change
    saved(in_flight, base_url=THEIRS)
    stored = Service.objects.get()
    assert (stored.base_url, stored.secret("auth.token")) == (THEIRS, None)


def test_a_form_in_flight_does_not_bring_back_a_network_that_an_admin_removed() -> None:
    registered(network={"allow_private": ["10.0.0.0/8"], "reason": "on site"})
    in_flight = Service.objects.get()
    saved(Service.objects.get(), is_admin=True, network={"allow_private": []})
    saved(in_flight, description="only this")
    assert Service.objects.get().network == {"allow_private": []}
    assert AuditEntry.objects.latest("pk").after == {"description": "only this"}


def test_the_audit_names_the_values_that_a_change_found_and_not_those_that_its_session_read() -> None:
    registered(owner="first")
    in_flight = Service.objects.get()
    saved(Service.objects.get(), owner="second")
    saved(in_flight, owner="third")
    entry = AuditEntry.objects.latest("pk")
    assert (entry.before, entry.after) == ({"owner": "second"}, {"owner": "third"})


def test_a_form_of_an_endpoint_writes_only_its_fields_over_the_present_row() -> None:
    service = registered()
    endpoint = endpoints.save(service, EndpointIn(name="pay", path="/v1"), actor="person ada")
    in_flight = Endpoint.objects.get()
    endpoints.save(service, EndpointIn(name="pay", path="/v2"), actor="person ada", endpoint=endpoint)
    data = EndpointIn(name="pay", path="/v1", description="new")
    endpoints.save(service, data, actor="person bob", endpoint=in_flight, fields=["description"])
    stored = Endpoint.objects.get()
    assert (stored.path, stored.description) == ("/v2", "new")
    before, after = AuditEntry.objects.values_list("before", "after").latest("pk")
    assert {name for name in after if before[name] != after[name]} == {"description"}


def test_a_file_keeps_the_header_that_is_stored_when_it_has_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    service = registered(headers={"X-Team": "first"})
    locked = Service.objects.select_for_update

    def changed_before_the_lock(*args: Any, **options: Any) -> Any:
        Service.objects.filter(pk=service.pk).update(headers={"X-Team": "second"})
        return locked(*args, **options)

    monkeypatch.setattr(Service.objects, "select_for_update", changed_before_the_lock)
    text = f"services: [{{name: billing, base_url: '{OURS}', headers: {{X-Team: {{set: true}}}}}}]"
    services_file.apply(text, {}, actor="command line")
    assert Service.objects.get().headers == {"X-Team": "second"}


Step = tuple[int, str, Any]
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["read", "address", "secret", "both", "network", "description", "rotate", "environment"]),
        st.sampled_from([OURS, THEIRS]),
    ),
    min_size=4,
    max_size=14,
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_however_two_sessions_interleave_a_secret_stays_with_its_host(db: None, steps: list[Step]) -> None:
    """Session 0 is an admin's, session 1 an operator's. Each edits the registration as it last read it."""
    Service.objects.all().delete()
    registered(auth=bearer(f"for {OURS}"))
    sessions = [Service.objects.get(), Service.objects.get()]
    network: dict[str, Any] = {"allow_private": []}
    for number, step, address in steps:
        service, is_admin = sessions[number], number == 0
        try:
            if step == "read":
                sessions[number] = Service.objects.get()
            elif step == "address":
                saved(service, base_url=address)
            elif step == "both":
                saved(service, base_url=address, auth=bearer(f"for {address}"))
            elif step == "secret":  # entered for the address that this session sees
                saved(service, base_url=service.base_url, auth=bearer(f"for {service.base_url}"))
            elif step == "network":
                wanted = {"allow_private": ["10.0.0.0/8"], "reason": "on site"} if address == OURS else {}
                saved(service, is_admin=is_admin, network=wanted)
                network = {"allow_private": [], **wanted}
            elif step == "description":
                saved(service, description=address)
            elif step == "rotate":
                registry.rotate_signing(service, timedelta(0), actor="person ada")
            elif step == "environment" and is_admin:  # the deployer moves the service with its secrets
                discovery.discover({VARIABLE: Service.objects.get().base_url})
        except Invalid:
            sessions[number] = Service.objects.get()
        stored = Service.objects.get()
        secret = stored.secret("auth.token")
        assert secret in (None, f"for {stored.base_url}")
        assert secret is None or stored.secret_for_call("auth.token") == secret
        assert {name: stored.network.get(name, []) for name in network} == network


def test_an_endpoint_whose_query_no_url_can_hold_is_refused() -> None:
    with pytest.raises(Invalid, match="send long values in the body"):
        endpoints.save(registered(), EndpointIn(name="pay", query={"q": "a" * 8192}), actor="person ada")


# ---- the origin of each secret -----------------------------------------------------------------------------------
def moved_by_hand(**columns: Any) -> Service:
    """Write columns past every rule, as a race or a script could."""
    Service.objects.update(**columns)
    return Service.objects.get()


@pytest.mark.parametrize(
    ("auth", "columns"),
    [
        (bearer("canary-1"), {"base_url": THEIRS}),
        (bearer("canary-1"), {"base_url": OURS.replace("https", "http")}),
        (bearer("canary-1"), {"base_url": f"{OURS}:8443"}),
        ({"type": "basic", "username": "us", "password": "canary-1"}, {"base_url": THEIRS}),
        ({"type": "header", "name": "X-Key", "value": "canary-1"}, {"base_url": THEIRS}),
        ({"type": "hmac", "header": "X-Sum", "secret": "canary-1"}, {"base_url": THEIRS}),
    ],
)
def test_a_call_to_another_origin_than_the_secrets_is_refused(auth: Any, columns: dict[str, Any]) -> None:
    registered(auth=auth)
    service = moved_by_hand(**columns)
    with pytest.raises(ValueError, match="enter the secret again") as refusal:
        lab_call.preview(lab_call.LabRequest(service))
    assert origin(OURS) in str(refusal.value)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("moved", ["token_url", "base_url"])
def test_an_oauth_secret_belongs_to_its_token_url_and_the_token_to_the_address(moved: str) -> None:
    auth = {"type": "oauth2", "token_url": "https://id.example.com/t", "client_id": "c", "client_secret": "canary-1"}
    service = registered(auth=auth)
    lab_call.preview(lab_call.LabRequest(service))
    columns = {"base_url": THEIRS} if moved == "base_url" else {"auth": {**service.auth, "token_url": f"{THEIRS}/t"}}
    with pytest.raises(ValueError, match="client_secret is for"):
        lab_call.preview(lab_call.LabRequest(moved_by_hand(**columns)))


@pytest.mark.django_db(transaction=True)
def test_a_message_for_a_moved_service_ends_as_config_and_nothing_is_sent(
    register: Callable[..., Service], send: Callable[..., list[Message]], deliver: Callable[..., None]
) -> None:
    service = register(auth={"type": "bearer"})
    service.keep_secret("auth.token", "canary-1")
    service.save()
    send(service)
    Service.objects.update(base_url=THEIRS)
    calls: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(200)

    deliver(answer)
    message = Message.objects.get()
    assert (message.status, message.dead_reason, calls) == ("dead", "config", [])
    assert "enter the secret again" in message.last_detail


def test_another_path_keeps_the_secret_and_so_does_the_default_port() -> None:
    registered(auth=bearer("canary-1"))
    service = moved_by_hand(base_url=f"{OURS}:443/v2")
    assert ["Authorization", "Bearer ••••"] in lab_call.preview(lab_call.LabRequest(service)).headers


def test_an_entry_of_an_earlier_version_takes_the_origin_of_its_address_at_the_next_write() -> None:
    service = registered(auth=bearer("canary-1"))
    entry = {name: part for name, part in service.secrets["auth.token"].items() if name != "for"}
    service = moved_by_hand(secrets={"auth.token": entry})
    assert service.secret_for_call("auth.token") == "canary-1"  # an upgrade does not stop the service
    saved(service, description="any")
    assert Service.objects.get().secrets["auth.token"] == {**entry, "for": [origin(OURS)]}
    assert moved_by_hand(base_url=THEIRS).secret("auth.token") == "canary-1"
    with pytest.raises(ValueError, match="enter the secret again"):
        Service.objects.get().secret_for_call("auth.token")


def test_an_address_from_the_environment_takes_the_secrets_along() -> None:
    registered(auth=bearer("canary-1"))
    discovery.discover({VARIABLE: "https://next.example.com"})
    service = Service.objects.get()
    assert service.base_url == "https://next.example.com"
    assert service.secret_for_call("auth.token") == "canary-1"


def test_the_origins_are_encrypted_with_their_secrets() -> None:
    registered(auth=bearer("canary-1"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT secrets FROM integrations_service")
        stored = cursor.fetchone()[0]
    assert "example.com" not in json.dumps(stored)
