"""The service pages: list, detail, form, pause, resume, delete, endpoints."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from integrations.models import AuditEntry, Endpoint, Message, Operation, Role, Runtime, Service, Status, Tally
from integrations.registration import deletion
from tests.support.records import work
from tests.support.signed_in import a_service, browser, messages_of, trip, words

pytestmark = pytest.mark.django_db

NEW = {"name": "billing", "base_url": "https://api.example.com/v1"}


# ---- roles --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path", ["new/", "billing/edit/", "billing/pause/", "billing/resume/", "billing/endpoints/new/"]
)
def test_a_viewer_cannot_change_services(path: str) -> None:
    a_service()
    client = browser(Role.VIEWER)
    assert client.get(f"/services/{path}").status_code == 403
    assert client.post(f"/services/{path}", {"reason": "x"}).status_code == 403


def test_only_an_admin_deletes_a_service() -> None:
    a_service()
    assert browser(Role.OPERATOR).post("/services/billing/delete/").status_code == 403
    assert browser(Role.ADMIN).post("/services/billing/delete/", {"name": "billing"}).status_code == 303
    assert not Service.objects.exists()


def test_a_viewer_sees_services_without_the_buttons() -> None:
    a_service()
    page = browser(Role.VIEWER).get("/services/billing/")
    assert page.status_code == 200
    assert "Override breaker" not in words(page)
    assert "/services/billing/edit/" not in page.content.decode()


# ---- the list -----------------------------------------------------------------------------------------------------
def test_the_empty_list_teaches_the_first_step() -> None:
    page = words(browser().get("/services/"))
    assert "No services yet" in page
    assert "Register a service" in page


def test_the_list_finds_services_by_name_host_owner_and_tag() -> None:
    a_service("billing", tags=["money"], owner="Ada")
    a_service("crm", base_url="https://crm.example.org")
    client = browser()
    for search, found in (("bill", "billing"), ("example.org", "crm"), ("ada", "billing"), ("money", "billing")):
        page = words(client.get("/_p/services/", {"q": search}))
        assert found in page
        assert ({"billing", "crm"} - {found}).pop() not in page
    assert "No service like “nothing”" in words(client.get("/services/", {"q": "nothing"}))


def test_the_list_puts_trouble_first() -> None:
    a_service("aaa")
    trip(a_service("zzz"))
    page = words(browser().get("/_p/services/"))
    assert page.index("zzz") < page.index("aaa")


def names_in(page: Any) -> list[str]:
    return re.findall(r'<th scope="row"><a href="/services/([^/]+)/"', page.content.decode())


def busy(service: Service, calls: int, **counts: Any) -> None:
    start = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=1)
    Tally.objects.create(service=service, start=start, calls=calls, **counts)


def test_the_list_puts_the_busy_before_the_idle() -> None:
    a_service("aaa")
    busy(a_service("zzz"), 50)
    assert names_in(browser().get("/_p/services/")) == ["zzz", "aaa"]


def test_a_live_list_does_not_move_with_each_call() -> None:
    for name, calls in (("aaa", 100), ("zzz", 101)):
        busy(a_service(name), calls)
    assert names_in(browser().get("/_p/services/")) == ["aaa", "zzz"]


def test_the_list_is_sorted_by_each_column_in_both_directions() -> None:
    first, second, third = (a_service(name) for name in ("aaa", "bbb", "ccc"))
    busy(first, 10, failures=1, within_10ms=10)
    busy(second, 30, failures=30, within_2s=30)
    busy(third, 20, within_200ms=20)
    messages_of(third, Status.PENDING, 4)
    messages_of(second, Status.PENDING, 2)
    messages_of(first, Status.DEAD, 2)
    messages_of(second, Status.DEAD, 1)
    client = browser()
    for sort, found in {
        "name": "abc", "traffic": "bca", "failures": "bac", "latency": "bca", "backlog": "cba", "dead": "abc",
    }.items():  # fmt: skip
        for order, letters in ((sort, found), (f"-{sort}", found[::-1])):
            assert "".join(name[0] for name in names_in(client.get("/services/", {"sort": order}))) == letters, order
    page = client.get("/services/", {"sort": "backlog", "q": "c"}).content.decode()
    assert 'aria-sort="descending"><a class="sort" href="?q=c&amp;sort=-backlog">Waiting' in page
    assert client.get("/services/", {"sort": "colour", "page": "x", "state": "odd"}).status_code == 200


def test_the_list_is_filtered_by_state_and_tag() -> None:
    a_service("billing", tags=["money"])
    trip(a_service("crm", tags=["money", "people"]))
    busy(a_service("mail"), 5)
    a_service("old").pause("gone")
    client = browser()
    for query, found in (
        ({"state": "down"}, ["crm"]),
        ({"state": "paused"}, ["old"]),
        ({"state": "up"}, ["mail"]),
        ({"state": "unknown"}, ["billing"]),
        ({"tag": "money"}, ["crm", "billing"]),
        ({"tag": "money", "state": "down"}, ["crm"]),
        ({"tag": "mon"}, []),
    ):
        assert names_in(client.get("/services/", query)) == found
    page = client.get("/services/", {"tag": "money"})
    assert "All 2 Down 1 Half-open Paused Up Idle 1" in words(page)
    assert '<option value="money" selected>' in page.content.decode()
    assert "No service matches" in words(client.get("/services/", {"tag": "nothing"}))


def test_the_list_has_pages_and_its_panel_stays_on_its_page() -> None:
    Service.objects.bulk_create(Service(name=f"service-{number:03}") for number in range(120))
    Runtime.objects.bulk_create(Runtime(service=service) for service in Service.objects.all())
    client = browser()
    first = client.get("/services/", {"sort": "name"})
    assert "1 to 50 of 120 services" in words(first)
    assert 'rel="next" href="?sort=name&amp;page=2"' in first.content.decode()
    last = client.get("/services/", {"sort": "name", "page": "3"})
    assert names_in(last) == [f"service-{number}" for number in range(100, 120)]
    assert 'hx-get="/_p/services/?sort=name&amp;page=3"' in last.content.decode()
    assert names_in(client.get("/_p/services/", {"sort": "name", "page": "3"})) == names_in(last)
    assert names_in(client.get("/services/", {"sort": "name", "page": "99"})) == names_in(last)


def test_polled_pages_stay_within_their_queries(django_assert_max_num_queries: Any) -> None:
    for number in range(12):
        service = a_service(f"service-{number}")
        messages_of(service, Status.PENDING, 5)
        messages_of(service, Status.DEAD, 5)
        Tally.objects.create(service=service, start=timezone.now().replace(second=0, microsecond=0), calls=3)
    client = browser()
    for path in ("/services/", "/_p/services/", "/services/service-1/", "/_p/services/service-1/"):
        with django_assert_max_num_queries(12):
            assert client.get(path).status_code == 200


def test_a_fragment_is_the_same_as_in_its_page_and_is_sent_only_when_it_changed() -> None:
    service = a_service()
    client = browser()
    for page_path, fragment_path in (("/services/", "/_p/services/"), ("/services/billing/", "/_p/services/billing/")):
        fragment = client.get(fragment_path).content.decode()
        assert fragment.strip() in client.get(page_path).content.decode()
        version = fragment.partition('"v": "')[2].partition('"')[0]
        unchanged = client.get(fragment_path, {"v": version})
        assert (unchanged.status_code, unchanged.content) == (204, b"")
        assert unchanged["Cache-Control"] == "no-store"
        assert "HX-Request" in unchanged["Vary"]
        assert "Cookie" in unchanged["Vary"]
        trip(service)
        changed = client.get(fragment_path, {"v": version})
        assert changed.status_code == 200
        assert changed["X-Switchboard-Trouble"] == "1"
        service.runtime.state = "closed"
        service.runtime.save()


# ---- one service --------------------------------------------------------------------------------------------------
def test_an_open_breaker_says_why_and_when_it_probes() -> None:
    service = a_service()
    trip(service, "5 calls in a row failed")
    messages_of(service, Status.PENDING, 3)
    page = words(browser().get("/services/billing/"))
    assert "5 calls in a row failed. Nothing is sent." in page
    assert "Next probe in" in page
    assert "Held 3" in page
    assert "<title>1 down · " in browser(name="other").get("/services/billing/").content.decode()


def test_what_was_typed_by_others_is_shown_as_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    service = a_service(description=evil, owner=evil, tags=[evil])
    service.pause(evil)
    trip(service, evil)
    Endpoint.objects.create(service=service, name="op", path="/", description=evil)
    client = browser()
    for path in ("/", "/services/", "/services/billing/", "/services/billing/edit/", "/breakers/"):
        page = client.get(path).content.decode()
        assert "<img src=x" not in page, path


def test_a_secret_is_told_by_its_age_and_never_shown() -> None:
    a_service(auth={"type": "bearer", "token": "canary-token-1"})
    client = browser(Role.ADMIN)
    for path in ("/services/billing/", "/services/billing/edit/", "/_p/services/billing/", "/audit/"):
        assert "canary-token-1" not in client.get(path).content.decode()
    assert "bearer, token set" in words(client.get("/services/billing/"))


def test_no_id_stands_twice_on_a_page() -> None:
    trip(a_service())
    client = browser(Role.ADMIN)
    for path in ("/", "/services/billing/", "/services/billing/edit/", "/breakers/", "/settings/"):
        ids = re.findall(r'\sid="([^"]+)"', client.get(path).content.decode())
        assert len(ids) == len(set(ids)), (path, sorted(found for found in ids if ids.count(found) > 1))


def test_an_unknown_service_is_a_page_in_words() -> None:
    answer = browser().get("/services/nope/")
    assert answer.status_code == 404
    assert "does not exist" in words(answer)


# ---- the form -----------------------------------------------------------------------------------------------------
def test_a_name_and_an_address_are_enough() -> None:
    answer = browser().post("/services/new/", NEW)
    assert answer.status_code == 303
    service = Service.objects.get()
    assert service.base_url == NEW["base_url"]
    assert service.retry_policy.max_attempts == 10
    assert service.breaker_policy.enabled is True  # a field that is not sent gets its default
    assert AuditEntry.objects.get(action="service.created").actor == "person a-operator"


def test_a_box_that_was_unticked_is_a_no() -> None:
    client = browser()
    boxes = client.get("/services/new/?all").content.decode()
    assert (
        '<input type="hidden" name="breaker.enabled" value="false"><input type="checkbox" name="breaker.enabled"'
        in boxes
    )
    assert client.post("/services/new/", NEW | {"breaker.enabled": "false"}).status_code == 303
    assert client.post("/services/new/", NEW | {"name": "crm", "breaker.enabled": ["false", "on"]}).status_code == 303
    enabled = {service.name: service.breaker_policy.enabled for service in Service.objects.all()}
    assert enabled == {"billing": False, "crm": True}


def test_a_group_of_settings_is_fetched_when_it_is_unfolded() -> None:
    a_service(retry={"max_attempts": 4, "initial": 9})
    client = browser(Role.OPERATOR)
    page = client.get("/services/billing/edit/").content.decode()
    assert 'name="retry.initial"' not in page
    assert 'hx-get="/_p/services/billing/form/retries/"' in page
    fields = client.get("/_p/services/billing/form/retries/").content.decode()
    assert 'name="retry.initial" value="9s"' in fields
    assert 'name="retry.initial" value="5s"' in client.get("/_p/form/retries/").content.decode()
    assert "network.allow_private" not in client.get("/_p/form/network/").content.decode(), "an operator may not"
    assert client.get("/_p/form/nothing/").status_code == 404
    assert client.post("/services/billing/edit/", {"owner": "Ada"}).status_code == 303
    assert Service.objects.get().retry_policy.initial == 9, "a group that was not unfolded stays unchanged"
    everything = client.get("/services/billing/edit/?all").content.decode()
    assert 'name="retry.initial" value="9s"' in everything


def test_an_edit_with_few_fields_leaves_the_others_as_they_are() -> None:
    a_service(
        auth={"type": "bearer", "token": "kept"},
        retry={"max_attempts": 4, "initial": 9},
        breaker={"enabled": False},
        tags=["eu"],
    )
    client = browser()
    assert client.post("/services/billing/edit/", {"retry.initial": "7", "owner": "Ada"}).status_code == 303
    service = Service.objects.get()
    assert (service.retry_policy.max_attempts, service.retry_policy.initial, service.owner) == (4, 7, "Ada")
    assert (service.breaker_policy.enabled, service.tags, service.secret("auth.token")) == (False, ["eu"], "kept")

    assert client.post("/services/billing/edit/", {"auth.token": "newer"}).status_code == 303
    service.refresh_from_db()
    assert (service.auth, service.secret("auth.token")) == ({"type": "bearer"}, "newer")


def test_the_form_as_it_comes_registers_the_defaults() -> None:
    client = browser()
    form = client.get("/services/new/").context["form"]
    given = {name: form[name].value() for name in form.fields if form[name].value() not in (None, False)}
    assert client.post("/services/new/", given | NEW).status_code == 303
    service = Service.objects.get()
    assert service.retry_policy == type(service.retry_policy)()
    assert service.breaker_policy == type(service.breaker_policy)()
    assert service.limits_policy == type(service.limits_policy)()


def test_every_field_of_the_form_reaches_the_service() -> None:
    given = NEW | {
        "description": "Invoices",
        "owner": "Ada",
        "tags": "money, eu",
        "headers": "X-Tenant: 7\nAccept: application/json",
        "search_fields": "order.id",
        "auth.type": "basic",
        "auth.username": "ada",
        "auth.password": "pass word",
        "timeout.connect": "2",
        "timeout.total": "9.5",
        "response_cap": "1000",
        "retry.max_attempts": "3",
        "retry.schedule": "5, 30",
        "retry.retry_on": "5xx, 429",
        "retry.on_gone": "pause",
        "breaker.enabled": "on",
        "breaker.window.type": "time",
        "breaker.window.size": "60",
        "limits.rate": "2",
        "limits.per": "10",
        "limits.concurrency": "4",
        "ordering": "key",
    }
    assert browser().post("/services/new/", given).status_code == 303
    service = Service.objects.get()
    assert service.headers == {"X-Tenant": "7", "Accept": "application/json"}
    assert service.tags == ["money", "eu"]
    assert service.search_fields == ["order.id"]
    assert service.auth == {"type": "basic", "username": "ada"}
    assert service.secret("auth.password") == "pass word"
    assert service.timeouts.total == 9.5
    assert service.retry_policy.schedule == (5, 30)
    assert service.retry_policy.retry_on == ("5xx", 429)
    assert service.retry_policy.on_gone == "pause"
    assert (service.breaker_policy.window.type, service.breaker_policy.window.size) == ("time", 60)
    assert (service.limits_policy.rate, service.limits_policy.concurrency) == (2, 4)
    assert service.ordering == "key"


def test_errors_stand_beside_their_fields_and_what_was_typed_is_kept() -> None:
    wrong = {
        "name": "???",
        "base_url": "ftp://example.com",
        "owner": "Ada",
        "auth.type": "basic",
        "auth.password": "canary-typed",
        "retry.max_attempts": "0",
        "retry.retry_on": "5xx, abc",
        "headers": "nonsense",
    }
    answer = browser().post("/services/new/", wrong)
    page = answer.content.decode()
    assert answer.status_code == 422
    for name in ("name", "base_url", "auth.username", "retry.max_attempts", "retry.retry_on", "headers"):
        assert f'id="id_{name}_error"' in page, name
        assert f'id="id_{name}"' in page
    assert "“abc”" in words(answer)
    assert 'value="Ada"' in page
    assert "canary-typed" not in page
    assert '<details class="more" id="retries" open>' in page
    assert not Service.objects.exists()


def test_a_refusal_of_the_registry_stands_beside_its_field() -> None:
    a_service("billing")
    client = browser()
    assert 'id="id_name_error"' in client.post("/services/new/", NEW).content.decode()
    inward = client.post("/services/new/", {"name": "inward", "base_url": "http://169.254.169.254/"})
    assert inward.status_code == 422
    assert 'id="id_base_url_error"' in inward.content.decode()


def test_only_an_admin_is_offered_and_allowed_private_networks() -> None:
    given = NEW | {"base_url": "http://10.1.2.3/", "network.allow_private": "10.0.0.0/8", "network.reason": "on site"}
    operator = browser(Role.OPERATOR)
    assert "network." not in operator.get("/services/new/?all").content.decode()
    assert operator.post("/services/new/", given).status_code == 422
    assert browser(Role.ADMIN).post("/services/new/", given).status_code == 303
    network = Service.objects.get().network
    assert (network["allow_private"], network["reason"]) == (["10.0.0.0/8"], "on site")


def test_a_private_network_needs_a_reason_and_the_page_names_it_with_who_and_until_when() -> None:
    admin, service = browser(Role.ADMIN), NEW | {"base_url": "http://10.1.2.3/", "network.allow_private": "10.0.0.0/8"}
    refused = admin.post("/services/new/", service)
    assert refused.status_code == 422
    assert 'id="id_network.reason_error"' in refused.content.decode()
    end = timezone.now().replace(second=0, microsecond=0) + timedelta(days=2)
    given = {"network.reason": "moves to the new site", "network.until": end.strftime("%Y-%m-%dT%H:%M")}
    assert admin.post("/services/new/", service | given).status_code == 303
    page = words(browser(Role.VIEWER).get("/services/billing/"))
    assert "10.0.0.0/8 , until" in page
    assert re.search(r"“moves to the new site”, allowed by person \S+ now", page)
    form = admin.get("/services/billing/edit/?all").content.decode()
    assert f'value="{end:%Y-%m-%dT%H:%M}"' in form
    assert 'value="moves to the new site"' in form


def test_an_edit_of_something_else_leaves_networks_that_have_ended_as_they_are() -> None:
    network = {"allow_private": ["10.0.0.0/8"], "reason": "on site", "until": "2026-01-01T10:00:00Z"}
    service = a_service()
    Service.objects.filter(pk=service.pk).update(network=network, base_url="http://10.1.2.3/")
    assert edited(browser(Role.ADMIN), description="New words").status_code == 303
    assert Service.objects.get().network == network
    page = words(browser().get("/services/billing/"))
    assert "10.0.0.0/8 , ended" in page


def test_networks_of_a_version_that_asked_for_no_reason_say_so_and_stay() -> None:
    service = a_service()
    Service.objects.filter(pk=service.pk).update(network={"allow_private": ["10.0.0.0/8"]}, base_url="http://10.1.2.3/")
    assert edited(browser(Role.ADMIN), description="New words").status_code == 303
    assert Service.objects.get().network == {"allow_private": ["10.0.0.0/8"]}
    assert "10.0.0.0/8 Allowed before a reason was asked for." in words(browser().get("/services/billing/"))


def edited(client: Client, **changes: str) -> Any:
    """Sends the edit form as it is shown, with some fields changed."""
    form = client.get("/services/billing/edit/").context["form"]
    given = {name: form[name].value() for name in form.fields if form[name].value() not in (None, False)}
    return client.post(
        "/services/billing/edit/", given | {name.replace("__", "."): value for name, value in changes.items()}
    )


def test_an_edit_keeps_the_secret_that_was_left_empty() -> None:
    a_service(auth={"type": "bearer", "token": "kept"}, health_check={"path": "/up"}, cache={"ttl": 5})
    assert edited(browser(), description="New words").status_code == 303
    service = Service.objects.get()
    assert (service.description, service.secret("auth.token")) == ("New words", "kept")
    assert service.health_check["path"] == "/up"  # what the form does not show stays as it was
    assert service.cache["ttl"] == 5


def test_a_closed_group_names_what_was_changed_in_it() -> None:
    a_service(retry={"max_attempts": 4, "initial": 9, "max": 100, "factor": 2, "jitter": 0})
    page = words(browser().get("/services/billing/edit/"))
    assert "Retries changed: max attempts, initial backoff, backoff multiplier and 2 more" in page
    assert "Circuit breaker default: opens after 5 failures" in page


def test_another_host_asks_for_the_secret_again_and_says_so_before() -> None:
    a_service(auth={"type": "bearer", "token": "for-the-old-host"})
    client = browser()
    assert "Changing the host clears the stored secrets" in words(client.get("/services/billing/edit/"))
    refused = edited(client, base_url="https://elsewhere.example.com")
    assert refused.status_code == 422
    assert 'id="id_auth.token_error"' in refused.content.decode()
    assert Service.objects.get().secret("auth.token") == "for-the-old-host"

    told = edited(client, base_url="https://elsewhere.example.com", auth__type="none")
    assert "these secrets were cleared: auth.token" in words(client.get(told["Location"]))
    assert Service.objects.get().secrets == {}


def test_an_address_from_the_environment_is_shown_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHBOARD_SERVICE_BILLING_URL", "https://env.example.com")
    service = a_service(url_env="SWITCHBOARD_SERVICE_BILLING_URL", base_url=None)
    monkeypatch.delenv("SWITCHBOARD_SERVICE_BILLING_URL")
    client = browser()
    page = client.get("/services/billing/edit/")
    assert "readonly" in page.content.decode()
    assert "SWITCHBOARD_SERVICE_BILLING_URL" in words(page)
    assert edited(client, base_url="https://other.example.com", owner="Ada").status_code == 303
    service.refresh_from_db()
    assert (service.base_url, service.owner) == ("https://env.example.com", "Ada")


def test_the_palette_finds_services_and_what_is_done_to_them() -> None:
    a_service("billing")
    a_service("bills-old").pause("Closed")

    def found(client: Client, q: str) -> list[tuple[str, str]]:
        choices = client.get("/_p/palette/", {"q": q}).json()["services"]
        return [(choice["name"], choice["url"]) for choice in choices]

    operator = browser(Role.OPERATOR)
    assert found(operator, "bill") == [("billing", "/services/billing/"), ("bills-old", "/services/bills-old/")]
    assert found(operator, "Pause bill") == [("Pause billing", "/services/billing/pause/")]
    assert found(operator, "res old") == [("Resume bills-old", "/services/bills-old/resume/")]
    assert [name for name, _ in found(operator, "back billing")] == ["Backtest billing"]
    assert found(operator, "dance billing") == []
    assert found(browser(Role.VIEWER, name="vera"), "pause bill") == []


# ---- pause, resume, delete ----------------------------------------------------------------------------------------
def test_a_pause_needs_a_reason_and_shows_it() -> None:
    a_service()
    client = browser()
    assert client.post("/services/billing/pause/", {"reason": " "}).status_code == 422
    assert client.post("/services/billing/pause/", {"reason": "Contract ends"}).status_code == 303
    assert "Paused: Contract ends." in words(client.get("/services/billing/"))
    assert AuditEntry.objects.get(action="service.paused").reason == "Contract ends"


def test_a_pause_ends_at_a_time_in_the_viewers_zone() -> None:
    a_service()
    client = browser()
    client.cookies["switchboard_zone"] = "Europe/Berlin"
    local = (timezone.now() + timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    answer = client.post("/services/billing/pause/", {"reason": "x", "until": local.strftime("%Y-%m-%dT%H:%M")})
    assert answer.status_code == 303
    until = Service.objects.get().paused_until
    assert until is not None
    assert until < local
    past = client.post("/services/billing/pause/", {"reason": "x", "until": "2020-01-01T00:00"})
    assert past.status_code == 422
    assert 'id="id_until_error"' in past.content.decode()


def test_resuming_decides_what_becomes_of_what_waits() -> None:
    service = a_service()
    service.pause("x")
    messages_of(service, Status.PENDING, 2)
    client = browser()
    assert client.post("/services/billing/resume/", {"release": "newer_than"}).status_code == 422
    assert client.post("/services/billing/resume/", {"release": "none"}).status_code == 303
    assert Message.objects.filter(held=True).count() == 2
    again = client.post("/services/billing/resume/", {"release": "all"})
    assert again.status_code == 422
    assert "not paused" in words(again)


def test_a_service_with_unfinished_messages_is_deleted_only_when_that_is_meant() -> None:
    messages_of(a_service(), Status.PENDING, 3)
    client = browser(Role.ADMIN)
    assert "3 of its messages are not finished" in words(client.get("/services/billing/delete/"))
    assert client.post("/services/billing/delete/", {"name": "billing"}).status_code == 422
    assert Service.objects.exists()
    assert client.post("/services/billing/delete/", {"name": "billing", "force": "on"}).status_code == 303
    assert not Service.objects.exists()
    assert AuditEntry.objects.filter(action="service.emptied").exists()


def test_deleting_asks_for_the_name_and_says_what_is_lost() -> None:
    messages_of(service := a_service(auth={"type": "bearer", "token": "t"}), Status.DELIVERED, 3)
    Endpoint.objects.create(service=service, name="orders")
    client = browser(Role.ADMIN)
    page = words(client.get("/services/billing/delete/"))
    for lost in ("3 messages with their attempts", "1 endpoint", "the secret of its authentication"):
        assert lost in page
    for typed in ("", "biling"):
        answer = client.post("/services/billing/delete/", {"name": typed, "force": "on"})
        assert answer.status_code == 422
        assert "Type the name of the service: billing." in words(answer)
    assert Service.objects.exists()


def test_all_waiting_messages_are_cancelled_with_one_click() -> None:
    messages_of(service := a_service(), Status.PENDING, 3)
    client = browser(Role.OPERATOR)
    assert "Cancel all waiting messages" in words(client.get("/services/billing/"))
    assert browser(Role.VIEWER).post("/services/billing/cancel-waiting/").status_code == 403
    assert client.get("/services/billing/cancel-waiting/").status_code == 405
    answer = client.post("/services/billing/cancel-waiting/")
    operation = work(Operation.objects.get())
    assert answer["Location"] == f"/operations/{operation.public_id}/"
    assert (operation.kind, operation.has_limit, operation.succeeded) == ("cancel", False, 3)
    assert not Message.objects.for_service(service).pending().exists()
    assert "Cancel all waiting messages" not in words(client.get("/services/billing/"))


def test_a_large_service_is_deleted_by_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "AT_ONCE", 2)
    messages_of(a_service(), Status.PENDING, 3)
    client = browser(Role.ADMIN)
    answer = client.post("/services/billing/delete/", {"name": "billing", "force": "on"})
    operation = Operation.objects.get()
    assert answer["Location"] == f"/operations/{operation.public_id}/"
    assert "Delete service" in words(client.get(answer["Location"]))
    shown = words(client.get("/services/billing/"))
    assert "Being deleted: 0 of 0 messages so far" in shown
    assert "/services/billing/pause/" not in client.get("/services/billing/").content.decode()
    sent = client.post("/messages/new/", {"service": "billing", "method": "POST", "path": "/"})
    assert "is being deleted" in words(sent)
    Operation.objects.update(state="stopped")
    assert "Its deletion stopped" in words(client.get("/services/billing/"))
    Operation.objects.update(created_at=timezone.now() - deletion.LAST_ACCEPTED, state="planning")
    assert work(operation).state == "finished"
    page = words(client.get(answer["Location"]))
    assert "3 of 3 deleted" in page
    assert client.get("/operations/").status_code == 200


# ---- endpoints ----------------------------------------------------------------------------------------------------
def test_an_endpoint_is_added_edited_and_deleted() -> None:
    a_service()
    client = browser()
    given = {"name": "refund", "method": "PUT", "path": "/refunds", "query": "dry=1", "headers": "X-A: b"}
    assert client.post("/services/billing/endpoints/new/", given).status_code == 303
    endpoint = Endpoint.objects.get()
    assert (endpoint.method, endpoint.query, endpoint.headers) == ("PUT", {"dry": "1"}, {"X-A": "b"})
    assert endpoint.content_type == "application/json"

    changed = client.post("/services/billing/endpoints/refund/edit/", given | {"path": "/v2/refunds"})
    assert changed.status_code == 303
    assert "PUT /v2/refunds" in words(client.get("/services/billing/"))

    assert client.get("/services/billing/endpoints/refund/delete/").status_code == 405
    assert client.post("/services/billing/endpoints/refund/delete/").status_code == 303
    assert not Endpoint.objects.exists()


def test_a_query_survives_being_edited() -> None:
    service = a_service()
    query = {"tag": ["a", "b"], "next": "https://x/?y=1"}
    Endpoint.objects.create(service=service, name="find", path="/", query=query, headers={"X-Link": "<a>; b=c"})
    client = browser()
    form = client.get("/services/billing/endpoints/find/edit/").context["form"]
    given = {name: form[name].value() for name in form.fields if form[name].value() is not None}
    assert client.post("/services/billing/endpoints/find/edit/", given).status_code == 303
    endpoint = Endpoint.objects.get()
    assert (endpoint.query, endpoint.headers) == (query, {"X-Link": "<a>; b=c"})


def test_a_wrong_endpoint_keeps_what_was_typed() -> None:
    a_service()
    answer = browser().post("/services/billing/endpoints/new/", {"name": "refund", "path": "/a b", "body": "{}"})
    assert answer.status_code == 422
    assert 'id="id_path_error"' in answer.content.decode()
    assert 'value="/a b"' in answer.content.decode()


def test_who_steers_pauses_or_resumes_is_told_how_many_messages_it_meets(django_assert_max_num_queries: Any) -> None:
    service = a_service()
    client = browser()
    addresses = [f"/services/billing/{page}" for page in ("pause/", "resume/", "breaker/")]
    for address in addresses:
        assert "No messages are waiting for billing." in words(client.get(address))
    messages_of(service, Status.PENDING, 3)
    messages_of(service, Status.DELIVERED, 2)
    for address in addresses:
        with django_assert_max_num_queries(12):
            assert "3 messages are waiting for billing." in words(client.get(address))
