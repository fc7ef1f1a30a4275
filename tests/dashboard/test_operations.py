"""Bulk work in the console: from the selection in the list to the result of each message."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.utils import timezone

from integrations.models import Message, Operation, Role, Status
from integrations.models.operation import Kind, State
from integrations.operators import bulk_operations, replay_results
from tests.support.records import work
from tests.support.signed_in import a_service, browser, messages_of, with_content, words

pytestmark = pytest.mark.django_db


def planned(**given: Any) -> Operation:
    given = {"kind": Kind.CANCEL, "q": "status:pending", "by": "person ada", "dry_run": True, **given}
    return bulk_operations.plan(given.pop("kind"), given.pop("q"), **given)


def address_of(operation: Operation) -> str:
    return f"/operations/{operation.public_id}/"


def picked(client: Client, **form: Any) -> Operation:
    answer = client.post("/operations/new/", form)
    assert answer.status_code == 303
    operation = Operation.objects.by_public_id(answer["Location"].split("/")[-2])
    assert operation is not None, answer["Location"]
    return operation


def test_what_was_picked_in_the_list_is_planned_shown_and_started() -> None:
    first, second, _ = messages_of(a_service(), Status.PENDING, 3)
    client = browser()
    assert first.public_id in client.get("/messages/").content.decode()
    operation = picked(client, kind="cancel", id=[first.public_id, second.public_id])
    assert "are selecting messages" in words(client.get(address_of(operation)))
    assert Message.objects.pending().count() == 3

    work(operation)
    shown = words(client.get(address_of(operation)))
    assert "Messages 2" in shown
    assert "billing 2" in shown
    assert "Cancel for good: 2 messages" in shown
    refused = client.post(f"{address_of(operation)}start/", {"reason": "", "rate": "50"})
    assert refused.status_code == 422
    assert "This field is required" in words(refused)

    answer = client.post(f"{address_of(operation)}start/", {"reason": "Wrong customer", "rate": "1000"})
    assert answer.status_code == 303
    work(operation)
    assert (operation.state, operation.reason, operation.rate) == (State.FINISHED, "Wrong customer", 1000)
    done = words(client.get(address_of(operation)))
    assert "2 of 2 done" in done
    assert "succeeded" in done
    assert Message.objects.pending().count() == 1


def test_all_that_match_are_what_the_filters_of_the_page_find() -> None:
    service, other = a_service(), a_service("crm")
    mine = messages_of(service, Status.DEAD, 2, last_status_code=503)
    messages_of(service, Status.DEAD, 1, last_status_code=500)
    messages_of(other, Status.DEAD, 1, last_status_code=503)
    client = browser()
    shown = client.get("/messages/?service=billing&status=dead&status_code=503").content.decode()
    assert 'value="service:billing status:dead code:503"' in shown
    operation = work(picked(client, kind="replay", all="1", q="service:billing status:dead code:503"))
    assert set(operation.items.values_list("message_id", flat=True)) == {message.pk for message in mine}


def test_a_page_without_a_text_for_its_filters_offers_only_its_rows() -> None:
    messages_of(a_service(), Status.DEAD)
    shown = words(browser().get("/messages/?created_after=2020-01-01T00:00"))
    assert "With the selected :" in shown
    assert "all that match" not in shown


@pytest.mark.parametrize(
    ("form", "said"),
    [({"kind": "cancel"}, "choose the messages"), ({"kind": "shout", "id": "x"}, "Choose an action")],
)
def test_what_cannot_be_planned_leads_back_to_the_list(form: dict[str, str], said: str) -> None:
    client = browser()
    answer = client.post("/operations/new/", form | {"back": "status=pending&q=%2Forders"})
    assert answer.status_code == 303
    assert parse_qs(urlsplit(answer["Location"]).query) == {"status": ["pending"], "q": ["/orders"]}
    assert said in words(client.get(answer["Location"]))
    assert not Operation.objects.exists()


def test_it_is_steered_by_hand() -> None:
    client = browser()
    messages_of(a_service(), Status.PENDING, 2)
    operation = planned(dry_run=False, reason="Wrong customer")
    for verb, state in (("pause", "paused"), ("resume", "planning"), ("cancel", "cancelled")):
        assert client.post(f"{address_of(operation)}{verb}/").status_code == 303
        operation.refresh_from_db()
        assert operation.state == state
    client.post(f"{address_of(operation)}pause/")
    assert "Not done: the operation is cancelled" in words(client.get(address_of(operation)))


def test_its_pace_is_changed_while_it_runs() -> None:
    client = browser()
    messages_of(a_service(), Status.PENDING, 2)
    operation = planned(dry_run=False, reason="Wrong customer")
    client.post(f"{address_of(operation)}change/", {"rate": "7"})
    operation.refresh_from_db()
    assert operation.rate == 7
    client.post(f"{address_of(operation)}change/", {"rate": "many"})
    assert "Not changed" in words(client.get(address_of(operation)))


def test_the_items_are_found_by_what_came_of_them() -> None:
    first, second = messages_of(a_service(), Status.PENDING, 2)
    operation = work(planned())
    Message.objects.filter(pk=first.pk).delete()
    bulk_operations.start(operation, by="person ada", reason="Wrong customer")
    work(operation)
    client = browser(Role.VIEWER)
    skipped = words(client.get(f"{address_of(operation)}?outcome=skipped"))
    assert "deleted by retention" in skipped
    assert second.public_id not in skipped
    assert second.public_id in words(client.get(f"{address_of(operation)}?outcome=succeeded"))
    assert "None." in words(client.get(f"{address_of(operation)}?outcome=failed"))


def test_a_viewer_sees_it_and_is_offered_nothing() -> None:
    messages_of(a_service(), Status.PENDING, 1)
    operation = work(planned())
    client = browser(Role.VIEWER)
    assert '<form class="stack"' not in client.get(address_of(operation)).content.decode()
    assert 'name="kind"' not in client.get("/messages/").content.decode()
    assert operation.public_id in words(client.get("/operations/"))
    for verb in ("start", "change", "pause", "resume", "cancel"):
        assert client.post(f"{address_of(operation)}{verb}/").status_code == 403
    assert client.post("/operations/new/", {"kind": "cancel", "id": "x"}).status_code == 403


def test_an_empty_list_says_what_operations_are() -> None:
    assert "No operations yet" in words(browser().get("/operations/"))


def test_its_page_asks_few_questions(django_assert_max_num_queries: Any) -> None:
    service = a_service()
    messages_of(service, Status.DEAD, 60)
    operation = work(planned(kind=Kind.REPLAY, q="status:dead"))
    bulk_operations.start(operation, by="person ada", reason="They are back")
    work(operation)
    client = browser()
    for address in (address_of(operation), f"/_p{address_of(operation)}", "/operations/", "/_p/operations/"):
        with django_assert_max_num_queries(10):
            assert client.get(address).status_code == 200


def test_it_ends_with_its_result_and_its_links_find_that() -> None:
    with_content(messages_of(a_service(), Status.DEAD, 3))
    operation = work(planned(kind=Kind.REPLAY, q="status:dead", dry_run=False, reason="They are back", rate=1e6))
    made = list(Message.objects.filter(operation_id=operation.pk).order_by("pk"))
    client = browser(Role.VIEWER)
    page = client.get(address_of(operation)).content.decode()
    assert "3 under way" in page
    assert f'data-live="operation:{operation.public_id} messages"' in page
    done = {"finished_at": timezone.now(), "due_at": None}
    Message.objects.filter(pk__in=[made[0].pk, made[1].pk]).update(status=Status.DELIVERED, **done)
    Message.objects.filter(pk=made[2].pk).update(status=Status.DEAD, **done)
    response = client.get(address_of(operation))
    assert "3 replayed : 2 delivered , 1 failed again" in words(response)
    assert f'data-live="operation:{operation.public_id}"' in response.content.decode()
    links = re.findall(r'href="(/messages/\?q=operation[^"]+)">(\d)', response.content.decode())
    assert [count for _, count in links] == ["3", "2", "1"]
    for link, count in links:
        assert len(client.get(link.replace("&amp;", "&")).context["rows"]) == int(count)
    assert "failed again" not in words(client.get("/operations/")), "a list does not count"
    replay_results.keep(timezone.now())
    assert "3 replayed : 2 delivered , 1 failed again" in words(client.get("/operations/"))


def test_a_cancellation_ends_with_its_result() -> None:
    first, _ = messages_of(a_service(), Status.PENDING, 2)
    operation = work(planned())
    Message.objects.filter(pk=first.pk).update(status=Status.DELIVERED)
    bulk_operations.start(operation, by="person ada", reason="Wrong customer")
    work(operation)
    assert "1 cancelled; 1 skipped" in words(browser(Role.VIEWER).get(address_of(operation)))


def test_a_panel_that_has_not_changed_is_not_sent_again() -> None:
    messages_of(a_service(), Status.PENDING, 1)
    operation = work(planned())
    client = browser()
    panel = f"/_p{address_of(operation)}?outcome=&cursor="
    shown = client.get(panel).content.decode()
    version = re.search(r"""hx-vals='{"v": "(\w+)"}'""", shown)
    assert version is not None
    assert client.get(f"{panel}&v={version[1]}").status_code == 204
    bulk_operations.start(operation, by="person ada", reason="Wrong customer")
    assert client.get(f"{panel}&v={version[1]}").status_code == 200


def test_the_form_offers_to_find_the_pace_and_to_stop_at_failures() -> None:
    messages_of(a_service(), Status.DEAD, 3)
    operation = work(bulk_operations.plan(Kind.REPLAY, "status:dead", by="person ada", dry_run=True))
    client = browser(Role.OPERATOR)
    address = f"/operations/{operation.public_id}/"
    assert "Find the pace that the receiver bears" in words(client.get(address))
    refused = client.post(f"{address}start/", {"reason": "They are back", "rate": ""})
    assert "Enter a number, or let it find the pace." in words(refused)
    client.post(f"{address}start/", {"reason": "They are back", "auto": "on", "stop_at_failure_rate": "0.3"})
    operation.refresh_from_db()
    assert (operation.state, operation.is_adaptive, operation.stop_at_failure_rate) == ("running", True, 0.3)
    shown = words(client.get(address))
    assert "2 per second, since" in shown
    assert "it starts slowly" in shown
    assert "above 30% failed" in shown.replace("30\u202f%", "30%").replace("30 %", "30%")
    client.post(f"{address}change/", {"rate": "20"})
    operation.refresh_from_db()
    assert (operation.is_adaptive, operation.rate) == (False, 20)
    client.post(f"{address}change/", {"auto": "1", "rate": "20"})
    operation.refresh_from_db()
    assert operation.is_adaptive


def test_a_selection_is_cancelled_as_fast_as_the_database_allows() -> None:
    messages_of(a_service(), Status.PENDING, 3)
    operation = work(bulk_operations.plan(Kind.CANCEL, "status:pending", by="person ada", dry_run=True))
    client = browser(Role.OPERATOR)
    address = f"/operations/{operation.public_id}/"
    assert "Find the pace" not in words(client.get(address))
    client.post(f"{address}start/", {"reason": "Wrong customer", "rate": ""})
    operation.refresh_from_db()
    assert (operation.state, operation.has_limit) == ("running", False)
