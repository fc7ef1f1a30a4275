"""The endpoint tester's pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from integrations.models import Attempt, AuditEntry, Endpoint, IdempotentAnswer, Message, Service
from tests.support.receiver import Receiver

FORM: dict[str, Any] = {"service": "billing", "method": "POST", "path": "/things", "body_kind": "json"}


@pytest.fixture
def local(billing: Service, sink: Receiver, reachable_loopback: None) -> Receiver:
    """The receiver that billing is at."""
    billing.headers = {"X-Team": "pay"}
    moved(billing, f"{sink.url}/api")
    return sink


def moved(service: Service, address: str) -> None:
    """Move a service together with its secret, as the environment does."""
    service.base_url = address
    service.bind_secrets(again=True)
    service.save()


def called(service: Service, **fields: Any) -> Attempt:
    defaults = {"trigger": "lab", "started_at": timezone.now(), "outcome": "succeeded", "status_code": 200}
    defaults |= {"method": "GET", "url": f"{service.base_url}/things?page=2", "actor": "person ada", "duration": 0.1}
    return Attempt.objects.create(service=service, **{**defaults, **fields})


def text(response: Any, status: int = 200) -> str:
    assert response.status_code == status
    return str(response.content.decode())


def uncoloured(response: Any) -> str:
    return re.sub(r"</?span[^>]*>", "", text(response))


def test_a_call_shows_what_came_back(operator: Client, local: Receiver) -> None:
    local.answer(
        418, headers={"Content-Type": "application/json", "Set-Cookie": "s=1"}, body='{"id":12345678901234567890}'
    )
    response = operator.post("/lab/", {**FORM, "query": "page=2", "headers": "X-A: b", "body": '{"price": 1.10}'})
    attempt = Attempt.objects.get()
    assert (response.status_code, response["Location"]) == (303, f"/lab/{attempt.public_id}/")
    page = text(operator.get(response["Location"]))
    assert "418" in page
    assert "12345678901234567890" in page
    assert "Waiting for response" in page
    assert "curl -X POST" in page
    assert local.last.target == "/api/things?page=2"
    assert local.last.body == b'{"price":1.10}'
    assert local.last.header("X-Team") == "pay"
    assert local.last.header("Authorization") == "Bearer canary-7c1e55"
    assert AuditEntry.objects.get().action == "lab.called"


def test_no_secret_is_kept_or_shown_even_when_the_service_echoes_it(operator: Client, local: Receiver) -> None:
    local.answer(200, headers={"X-Echo": "canary-7c1e55"}, body='{"echo":"canary-7c1e55"}')
    page = text(operator.post("/lab/", {**FORM, "headers": "X-Mine: canary-7c1e55"}, follow=True))
    assert "canary-7c1e55" not in page
    assert "Bearer ••••" in page
    attempt = Attempt.objects.get()
    kept = f"{bytes(attempt.response_body)!r} {attempt.response_headers} {attempt.request_headers} {attempt.url}"
    assert "canary-7c1e55" not in kept


def test_a_preview_shows_the_exact_request_and_sends_nothing(operator: Client, local: Receiver) -> None:
    page = text(operator.post("/lab/", {**FORM, "query": "a=b c", "body": '{"x": 1}', "preview": "1"}))
    assert f"{local.url}/api/things?a=b+c" in page
    assert "Bearer ••••" in page
    assert "nothing was sent" in page
    assert not local.calls
    assert not Attempt.objects.exists()


def test_a_preview_does_not_tell_which_guess_equals_a_secret(operator: Client, local: Receiver) -> None:
    guesses = {"path": "/canary-7c1e55", "query": "q=canary-7c1e55", "headers": "X-Guess: canary-7c1e55"}
    wrong = {name: text.replace("7c1e55", "0d0d0d") for name, text in guesses.items()}

    def shown(typed: dict[str, str], body: str) -> str:
        page = text(operator.post("/lab/", {**FORM, **typed, "body_kind": "text", "body": body, "preview": "1"}))
        preview = page[page.index("nothing was sent") :]
        assert "Bearer ••••" in preview
        return re.sub(r'name="(form_key|csrf)[^>]*>|value="[\w-]{32,}"|nonce="[^"]*"', "", preview)

    right_guess, wrong_guess = shown(guesses, "is it canary-7c1e55?"), shown(wrong, "is it canary-0d0d0d?")
    assert right_guess.count("••••") == wrong_guess.count("••••")
    assert "is it canary-7c1e55?" in right_guess


def test_the_body_of_a_call_is_kept_as_the_operator_typed_it(operator: Client, local: Receiver) -> None:
    operator.post("/lab/", {**FORM, "body_kind": "text", "body": "is it canary-7c1e55?"})
    assert bytes(Attempt.objects.get().request_body or b"") == b"is it canary-7c1e55?"
    assert local.last.body == b"is it canary-7c1e55?"


def test_a_query_that_no_url_can_hold_is_said_at_its_field(operator: Client, local: Receiver) -> None:
    page = text(operator.post("/lab/", {**FORM, "query": f"q={'a' * 8192}", "preview": "1"}), 422)
    assert "the limit is 8,192: send long values in the body" in page


def test_a_form_sent_twice_calls_once(operator: Client, local: Receiver) -> None:
    locations = {operator.post("/lab/", {**FORM, "form_key": "k1"})["Location"] for _ in range(2)}
    assert len(locations) == 1
    assert len(local.calls) == 1


def test_the_same_form_while_its_call_is_under_way_says_so(operator: Client, local: Receiver) -> None:
    operator.post("/lab/", {**FORM, "form_key": "k1"})
    IdempotentAnswer.objects.update(status=None)
    page = text(operator.post("/lab/", {**FORM, "form_key": "k1"}, follow=True))
    assert "already in flight" in page
    assert len(local.calls) == 1


def test_a_call_that_broke_down_may_be_made_again(
    operator: Client, local: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr("integrations.delivery.lab_call.run", lambda *_, **__: 1 / 0)
        operator.post("/lab/", {**FORM, "form_key": "k1"})
    assert operator.post("/lab/", {**FORM, "form_key": "k1"}).status_code == 303


def test_a_mistake_keeps_what_was_typed(operator: Client, billing: Service) -> None:
    page = text(operator.post("/lab/", {**FORM, "path": "/a b", "body": "{bad"}), 422)
    assert "{bad" in page
    assert "not valid JSON" in page
    assert not Attempt.objects.exists()


def test_a_path_that_leaves_the_address_is_refused_in_words(operator: Client, local: Receiver) -> None:
    page = text(operator.post("/lab/", {**FORM, "path": "/..%2fadmin"}), 422)
    assert "below the service" in page
    assert not local.calls
    assert not Attempt.objects.exists()


def test_a_refused_address_is_a_result_like_any_other(operator: Client, billing: Service) -> None:
    moved(billing, "http://169.254.169.254")
    page = text(operator.post("/lab/", FORM, follow=True))
    assert "Address not allowed" in page
    assert Attempt.objects.get().fault == "blocked"


def test_a_viewer_looks_and_does_not_send(viewer: Client, billing: Service) -> None:
    attempt = called(billing)
    page = text(viewer.get("/lab/"))
    assert attempt.public_id in page
    assert "operator role" in page
    assert text(viewer.get(f"/lab/{attempt.public_id}/"))
    assert viewer.post("/lab/", FORM).status_code == 403
    assert Attempt.objects.count() == 1


def test_an_endpoint_fills_the_form(operator: Client, billing: Service) -> None:
    Endpoint.objects.create(
        service=billing,
        name="create",
        method="PUT",
        path="/invoices",
        headers={"X-A": "b"},
        body='{"n":12345678901234567890}',
    )
    for query in ("endpoint=billing/create", "service=billing&endpoint=create"):
        page = text(operator.get(f"/lab/?{query}"))
        assert 'value="/invoices"' in page
        assert '<option value="PUT" selected>' in page
        assert "X-A: b" in page
        assert "12345678901234567890" in page


def test_a_message_or_an_earlier_call_fills_the_form(
    operator: Client, queue: Callable[..., Message], billing: Service
) -> None:
    message = queue(path="/from-message", body=b"\x00\xff", query={"a": ["1", "2"]})
    page = text(operator.get(f"/lab/?message={message.public_id}"))
    assert 'value="/from-message"' in page
    assert "AP8=" in page
    assert "a=1\na=2" in page
    attempt = called(
        billing,
        method="PATCH",
        request_headers=[["Authorization", "Bearer ••••"], ["X-A", "b"], ["webhook-id", "att_1"]],
        request_body=b"{}",
    )
    for url in (f"/lab/?attempt={attempt.public_id}", f"/messages/new/?attempt={attempt.public_id}"):
        page = text(operator.get(url))
        assert 'value="/things"' in page
        assert "page=2" in page
        assert "X-A: b" in page
        assert "••••" not in page


def test_a_call_is_kept_as_an_endpoint(operator: Client, billing: Service) -> None:
    call = called(
        billing, method="PUT", request_body=b'{"id":1}', request_headers=[["X-A", "b"], ["Content-Type", "text/x-json"]]
    )
    link = re.search(r'href="([^"]*endpoints/new/[^"]*)"', text(operator.get(f"/lab/{call.public_id}/")))
    assert link is not None
    form = operator.get(link[1]).context["form"]
    given = {name: form[name].value() for name in form.fields if form[name].value()}
    assert operator.post(link[1], given | {"name": "put-thing"}).status_code == 303
    endpoint = Endpoint.objects.get(service=billing, name="put-thing")
    assert (endpoint.method, endpoint.path, endpoint.query) == ("PUT", "/things", {"page": "2"})
    assert (endpoint.headers, endpoint.content_type) == ({"X-A": "b"}, "text/x-json")
    assert json.loads(endpoint.body) == {"id": 1}
    assert operator.get(f"/services/{billing.name}/endpoints/new/?attempt=att_9_nothing").status_code == 200


def test_the_raw_view_leaves_the_body_as_it_came(viewer: Client, billing: Service) -> None:
    attempt = called(billing, response_body=b'{"a":[1,2]}')
    assert "&quot;a&quot;: [" in uncoloured(viewer.get(f"/lab/{attempt.public_id}/"))
    assert "{&quot;a&quot;:[1,2]}" in text(viewer.get(f"/lab/{attempt.public_id}/?view=raw"))


def test_the_suggested_endpoints_are_those_of_the_chosen_service(viewer: Client, billing: Service) -> None:
    other = Service.objects.create(name="other", base_url="https://other.example")
    Endpoint.objects.create(service=billing, name="create")
    Endpoint.objects.create(service=other, name="remove")
    page = text(viewer.get("/_p/lab/endpoints/?service=billing"))
    assert "create" in page
    assert "remove" not in page


def test_a_call_for_a_message_is_no_lab_result(viewer: Client, billing: Service) -> None:
    attempt = called(billing, trigger="process")
    assert viewer.get(f"/lab/{attempt.public_id}/").status_code == 404


def test_a_lab_without_services_says_what_it_needs(operator: Client, db: None) -> None:
    assert "The lab needs a service" in text(operator.get("/lab/"))


def test_request_and_response_are_on_one_page(operator: Client, local: Receiver) -> None:
    local.answer(200, headers={"Content-Type": "application/json"}, body='{"seen": true}')
    page = uncoloured(operator.post("/lab/", {**FORM, "body": '{"typed": 1}'}, follow=True))
    assert 'name="path"' in page
    assert "&quot;typed&quot;: 1" in page
    assert "&quot;seen&quot;: true" in page


def test_an_unknown_host_of_a_curl_command_is_offered_for_registration(operator: Client, billing: Service) -> None:
    page = text(operator.post("/lab/", {"curl": "curl https://u:p@API.new.example/v1/orders?x=1 -d '{}'"}), 422)
    link = re.search(r'href="(/services/new/[^"]*)"', page)
    assert link is not None
    form = operator.get(link[1].replace("&amp;", "&")).context["form"]
    given = {"name": form["name"].value(), "base_url": form["base_url"].value(), "then": "lab"}
    assert operator.post("/services/new/", given)["Location"] == "/lab/?service=api-new-example"
    assert (form["name"].value(), form["base_url"].value()) == ("api-new-example", "https://API.new.example")
    assert "curl https://u:p@API.new.example/v1/orders" in page  # the typed text stays


def test_the_attempt_of_a_message_opens_in_the_lab_with_its_body(
    operator: Client, queue: Callable[..., Message], billing: Service
) -> None:
    message = queue(body=b'{"order":42}')
    attempt = called(billing, message=message, trigger="first", method="POST")
    assert f"/lab/?attempt={attempt.public_id}" in text(operator.get(f"/messages/{message.public_id}/"))
    page = text(operator.get(f"/lab/?attempt={attempt.public_id}"))
    assert "&quot;order&quot;: 42" in page


def test_a_lab_call_is_compared_with_any_attempt(
    operator: Client, queue: Callable[..., Message], billing: Service
) -> None:
    delivered = called(
        billing, message=queue(body=b'{"n":1}'), trigger="first", response_body=b'{"state":"ok"}',
        response_headers=[["Date", "then"], ["X-Version", "1"]],
    )  # fmt: skip
    tried = called(
        billing, request_body=b'{"n":2}', status_code=422, outcome="failed", response_body=b'{"state":"refused"}',
        response_headers=[["Date", "now"], ["X-Version", "2"]],
    )  # fmt: skip
    page = text(operator.get(f"/lab/{tried.public_id}/?with={delivered.public_id}"))
    for line in ("- 200", "+ 422", "- X-Version: 1", "+ X-Version: 2", "&quot;state&quot;: &quot;refused&quot;"):
        assert line in page
    assert "Date: " not in page[page.index('id="compare"') :]
    assert "There is no call att_9_nothing" in text(operator.get(f"/lab/{tried.public_id}/?with=att_9_nothing"))


def test_only_the_own_calls_in_flight_are_cancelled(operator: Client, billing: Service) -> None:
    from integrations.delivery import unqueued_call

    flying = {"outcome": "lost", "fault": "worker_lost", "detail": unqueued_call.UNFINISHED}
    mine, other = called(billing, actor="person operator", **flying), called(billing, actor="person ada", **flying)
    assert "Cancel the call in flight" in text(operator.get("/lab/"))
    assert operator.post("/lab/cancel/").status_code == 303
    assert unqueued_call.is_cancelled(mine)
    assert not unqueued_call.is_cancelled(other)


def test_a_result_with_a_comparison_stays_within_its_queries(
    operator: Client, queue: Callable[..., Message], billing: Service, django_assert_max_num_queries: Any
) -> None:
    other = called(billing, message=queue(), trigger="first")
    calls = [called(billing) for _ in range(12)]
    with django_assert_max_num_queries(12):
        assert operator.get(f"/lab/{calls[0].public_id}/?with={other.public_id}").status_code == 200
