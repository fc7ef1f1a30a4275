"""Credentials in the headers and the query of messages, endpoints and services: viewers never read them."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from integrations.models import Attempt, AuditEntry, Draft, Endpoint, Message, Role, Service, Source
from integrations.outbound.redaction import named_secrets, redacted_text
from integrations.registration import registry, services_file
from integrations.schemas.service import ServiceIn
from tests.support.calling import Api, is_problem
from tests.support.receiver import Answer, Call, Receiver
from tests.support.signed_in import browser

CANARY = "CANARY-in-the-open"
OWN: dict[str, Any] = {"headers": {"X-Api-Key": CANARY, "X-Plain": "seen"}, "query": {"api_key": CANARY, "page": "2"}}


def stored(**fields: Any) -> Service:
    """A service whose headers an earlier version accepted."""
    return Service.objects.create(name="billing", base_url="https://billing.example.com", **fields)


@pytest.mark.django_db(transaction=True)
def test_an_echoed_credential_of_a_message_is_stored_nowhere_in_its_attempt(
    register: Callable[..., Service],
    send: Callable[..., list[Message]],
    deliver: Callable[..., None],
    sink: Receiver,
    viewer: Api,
) -> None:
    def echo(call: Call) -> Answer:
        return Answer(200, headers={"X-Echo": call.header("X-Api-Key")}, body={"sent": call.target, "head": CANARY})

    sink.decide(echo)
    (message,) = send(register(base_url=sink.url), **OWN)
    deliver(until=lambda: Attempt.objects.filter(outcome="succeeded").exists())
    assert f"api_key={CANARY}" in sink.last.target
    assert sink.last.header("X-Api-Key") == CANARY
    for path in (f"/messages/{message.public_id}", f"/messages/{message.public_id}/attempts"):
        shown = viewer.get(path).content.decode()
        assert CANARY not in shown
        assert "seen" in shown
    assert CANARY not in str(Attempt.objects.values_list("url", "request_headers", "response_headers"))
    assert CANARY.encode() not in bytes(Attempt.objects.get().response_body)
    assert viewer.get(f"/messages/{message.public_id}").json()["query"] == {"api_key": "••••", "page": "2"}


@pytest.mark.django_db
def test_a_message_page_shows_no_credential_of_its_query() -> None:
    endpoint = Endpoint.objects.create(service=stored(), name="pay", **OWN)
    plain = Draft(service=endpoint.service, method="POST", path="/", body=b"", content_type="")
    (message,) = Message.objects.accept([replace(plain, **OWN)])
    client = browser(Role.VIEWER)
    for path in (
        f"/messages/{message.public_id}/",
        f"/lab/?message={message.public_id}",
        "/lab/?endpoint=billing/pay",
        "/services/billing/",
    ):
        page = client.get(path).content.decode()
        assert CANARY not in page, path


@pytest.mark.django_db
def test_a_viewer_reads_no_credential_of_a_service_or_an_endpoint(viewer: Api) -> None:
    Endpoint.objects.create(service=stored(headers=OWN["headers"]), name="pay", **OWN)
    for path in ("/services", "/services/billing", "/services/billing/endpoints", "/services/billing/endpoints/pay"):
        shown = viewer.get(path).content.decode()
        assert CANARY not in shown, path
        assert '"X-Plain":"seen"' in shown


@pytest.mark.django_db
def test_the_audit_holds_no_credential_of_an_endpoint_or_a_service(operator: Api, admin: Api) -> None:
    stored(headers=OWN["headers"])
    assert operator.post("/services/billing/endpoints", {"name": "pay", **OWN}).status_code == 201
    assert operator.patch("/services/billing/endpoints/pay", {"query": {"api_key": f"{CANARY}-2"}}).status_code == 200
    assert operator.patch("/services/billing", {"headers": {"X-Plain": "changed"}}).status_code == 200
    assert operator.delete("/services/billing/endpoints/pay").status_code == 204
    assert admin.delete("/services/billing").status_code == 204
    assert AuditEntry.objects.count() == 5
    assert CANARY not in json.dumps(list(AuditEntry.objects.values_list("before", "after")))


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["X-Api-Key", "Authorization", "Cookie", "X-Auth-Token", "client-secret"])
def test_a_new_header_of_a_service_that_carries_a_credential_is_refused_and_points_to_auth(
    operator: Api, name: str
) -> None:
    service = {"name": "billing", "base_url": "https://billing.example.com"}
    refused = is_problem(operator.post("/services", {**service, "headers": {name: CANARY}}), 422)
    assert "put it into auth, which stores it encrypted" in refused["errors"][0]["msg"]
    assert operator.post("/services", {**service, "headers": {"Idempotency-Key": "k"}}).status_code == 201
    is_problem(operator.patch("/services/billing", {"headers": {name: CANARY}}), 422)


@pytest.mark.django_db
def test_a_header_that_an_earlier_version_accepted_stays_and_a_file_may_bring_one() -> None:
    service = stored(headers=OWN["headers"])
    data = ServiceIn.model_validate({"name": "billing", "base_url": service.base_url, "headers": OWN["headers"]})
    registry.change(service, data, {"headers", "description"}, actor="person ada")
    assert Service.objects.get().headers == OWN["headers"]
    text = "services: [{name: crm, base_url: 'https://crm.example.com', headers: {X-Api-Key: {env: KEY}}}]"
    services_file.apply(text, {"KEY": CANARY}, actor="command line")
    services_file.apply(text, {"KEY": f"{CANARY}-2"}, actor="command line")
    assert Service.objects.get(name="crm").source == Source.FILE
    assert Service.objects.get(name="crm").headers == {"X-Api-Key": f"{CANARY}-2"}


@pytest.mark.django_db
def test_a_mask_that_a_client_sends_back_does_not_become_the_value(operator: Api) -> None:
    Endpoint.objects.create(service=stored(), name="pay", **OWN)
    shown = operator.get("/services/billing/endpoints/pay").json()
    for part in ("query", "headers"):
        is_problem(operator.patch("/services/billing/endpoints/pay", {part: shown[part]}), 422)
    message = {"service": "billing", "path": "/", "query": {"api_key": "••••"}}
    is_problem(operator.post("/messages", message), 422)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("header", "echoed"),
    [
        (("Authorization", f"Basic {b64encode(f'us:{CANARY}'.encode()).decode()}"), CANARY),
        (("Authorization", f"Bearer {CANARY}"), CANARY),
        (("Cookie", f"theme=dark; session={CANARY}"), CANARY),
        (("X-Auth-Token", CANARY), b64encode(CANARY.encode()).decode()),
    ],
)
def test_the_parts_of_a_credential_are_masked_when_an_upstream_echoes_them(
    header: tuple[str, str], echoed: str
) -> None:
    secrets = named_secrets([header], "https://billing.example.com/?sort_key=name")
    assert echoed not in redacted_text(f"you sent {echoed}, name", secrets)
    assert "name" in redacted_text(f"you sent {echoed}, name", secrets)


def test_a_request_cannot_make_masking_slow_by_its_headers() -> None:
    headers = [(f"X-{number}-Token", f"{number:04}" * 2000) for number in range(64)]
    assert sum(map(len, named_secrets(headers, "https://billing.example.com/"))) <= 4096
