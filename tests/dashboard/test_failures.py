"""Failure groups in the console: ranked, filtered by the address, and the way out of one on one page."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from dashboard.presenters.sparkline import HOURS, sparklines
from dashboard.templatetags.failures import linked
from integrations.delivery import failure_groups
from integrations.models import (
    Account,
    Attempt,
    AuditEntry,
    Failure,
    FailureHour,
    Message,
    MessageContent,
    Operation,
    Role,
    Service,
    Status,
    Trigger,
)
from integrations.models.operation import Kind, State
from integrations.operators import bulk_operations, failures
from tests.support.records import work
from tests.support.signed_in import a_service, browser, messages_of, words

pytestmark = pytest.mark.django_db


@pytest.fixture
def service() -> Service:
    return a_service()


def a_group(service: Service, body: str = "no stock", dead: int = 0, **changes: Any) -> Failure:
    """A group as it is written while results are settled, with its dead messages."""
    now = timezone.now()
    messages = messages_of(service, Status.DEAD, dead, last_status_code=500, last_fault="status")
    for message in messages:
        MessageContent.objects.create(message=message, body=b"{}", content_type="application/json")
    call = Attempt.objects.create(
        message=messages[-1] if messages else None,
        service=service,
        trigger=Trigger.FIRST if messages else Trigger.PROCESS,
        started_at=now,
        duration=0.2,
        outcome="failed",
        fault="status",
        status_code=500,
        method="POST",
        url="https://api.example.com/v1/in",
        response_body=body.encode(),
        response_size=len(body),
    )
    attempts = [
        {
            "id": call.pk,
            "message_id": message and message.pk,
            "service_id": service.pk,
            "endpoint_id": None,
            "outcome": "failed",
            "fault": "status",
            "status_code": 500,
            "detail": "",
            "response_body": body.encode(),
            "timings": {},
            "started_at": now,
        }
        for message in (messages or [None])
    ]
    (group,) = set(failure_groups.record(attempts, [None] * len(attempts), now).values())
    Message.objects.filter(pk__in=[message.pk for message in messages]).update(failure=group)
    Failure.objects.filter(pk=group).update(**changes)
    return Failure.objects.get(pk=group)


def shown(page: str) -> list[str]:
    """The titles in the list, in their order, without what they have in common."""
    return re.findall(r'href="/failures/fail_[^>]*title="500 Internal Server Error: ([^"]+)"', page)


def test_open_groups_are_listed_most_harmful_first(service: Service) -> None:
    long_ago = timezone.now() - timedelta(days=3)
    a_group(service, "old", messages=900, last_seen=long_ago)
    a_group(service, "few", messages=1)
    a_group(service, "many", messages=40)
    a_group(service, "back", messages=2, state="regressed", resolved_at=long_ago)
    a_group(service, "done", messages=99, state="resolved")
    answer = browser(Role.VIEWER).get("/failures/")
    page = answer.content.decode()
    assert shown(page) == ["back", "many", "few", "old"]
    assert "4 open · 1 regressed" in words(answer)
    assert "1 failed call in the last 24 hours, at most 1 in an hour" in page


def test_filters_are_in_the_address(service: Service) -> None:
    a_group(service, "one")
    a_group(a_service("shop"), "two")
    a_group(service, "three", state="ignored")
    client = browser(Role.VIEWER)
    assert shown(client.get("/failures/?service=shop").content.decode()) == ["two"]
    assert shown(client.get("/failures/?state=ignored").content.decode()) == ["three"]
    assert set(shown(client.get("/failures/?state=all").content.decode())) == {"one", "two", "three"}
    assert shown(client.get("/failures/?state=resolved").content.decode()) == []
    assert set(shown(client.get("/failures/?state=nonsense").content.decode())) == {"one", "two"}
    panel = client.get("/_p/failures/?state=&service=shop")
    assert shown(panel.content.decode()) == ["two"]


def test_nothing_has_failed_yet() -> None:
    assert "No failures yet" in browser(Role.VIEWER).get("/failures/").content.decode()


def test_the_way_out_is_on_one_page(service: Service) -> None:
    group = a_group(service, '{"code": "no_stock", "left": 0}', dead=3)
    sample = Message.objects.get(pk=group.sample_id)
    answer = browser().get(f"/failures/{group.public_id}/")
    page, text = answer.content.decode(), words(answer)
    assert "Error code no_stock" in text
    assert "JSON fields code, left" in text
    assert f'href="/messages/{sample.public_id}/"' in page
    assert f'href="/lab/?message={sample.public_id}"' in page
    assert "3 dead" in text
    assert f'name="q" value="failure:{group.public_id} status:dead"' in page
    assert 'name="kind" value="replay"' in page
    assert "View as table" in text


def test_a_call_without_a_message_is_tested_as_it_was(service: Service) -> None:
    group = a_group(service)
    call = Attempt.objects.get(pk=group.attempt_id)
    page = browser().get(f"/failures/{group.public_id}/").content.decode()
    assert f'href="/lab/?attempt={call.public_id}"' in page
    assert "Nothing to replay" in page


def test_what_is_pruned_is_said(service: Service) -> None:
    group = a_group(service, dead=1)
    Attempt.objects.all().delete()
    Message.objects.all().delete()
    page = browser().get(f"/failures/{group.public_id}/").content.decode()
    assert "The last call was deleted by retention." in page
    assert "No stored request to test." in page


def test_running_operations_of_the_group_are_watched(service: Service) -> None:
    group, other = a_group(service, dead=1), a_group(service, "another")
    Operation.objects.create(
        kind=Kind.REPLAY,
        filter=f"failure:{group.public_id} status:dead",
        rate=5,
        state=State.RUNNING,
        total=40,
        succeeded=10,
        created_by="person ada",
    )
    client = browser(Role.VIEWER)
    assert "10 of 40, by ada" in words(client.get(f"/_p/failures/{group.public_id}/"))
    assert "No operation on this group yet" in client.get(f"/_p/failures/{other.public_id}/").content.decode()


def test_view_messages_opens_all_messages_of_the_group(service: Service) -> None:
    group = a_group(service, dead=3)
    delivered = Message.objects.filter(failure=group).order_by("pk")[0]
    Message.objects.filter(pk=delivered.pk).update(status=Status.DELIVERED)
    client = browser(Role.VIEWER)
    link = re.search(
        r'class="button" href="([^"]+)">.*?View messages', client.get(f"/failures/{group.public_id}/").content.decode()
    )
    assert link is not None
    page = client.get(link[1]).content.decode()
    assert all(message.public_id in page for message in Message.objects.filter(failure=group))


def test_the_group_shows_what_became_of_its_replays(service: Service, django_assert_max_num_queries: Any) -> None:
    group = a_group(service, dead=3)
    operation = work(
        bulk_operations.plan(
            Kind.REPLAY, f"failure:{group.public_id} status:dead", by="person ada", reason="They are back", rate=1e6
        )
    )
    made = Message.objects.filter(operation_id=operation.pk).order_by("pk")
    done = {"finished_at": timezone.now(), "due_at": None}
    for message, status in zip(made, (Status.DELIVERED, Status.DELIVERED, Status.DEAD), strict=True):
        Message.objects.filter(pk=message.pk).update(status=status, **done)
    client = browser()
    with django_assert_max_num_queries(12):
        response = client.get(f"/failures/{group.public_id}/")
    assert "3 replayed : 2 delivered , 1 failed again" in words(response)
    assert "3 dead, all replayed" in words(response)
    link = f'href="/messages/?q=operation%3A{operation.public_id}&amp;status=dead"'
    assert link in response.content.decode()


def test_a_panel_without_news_sends_nothing(service: Service) -> None:
    group = a_group(service, dead=1)
    client = browser()
    page = client.get(f"/failures/{group.public_id}/").content.decode()
    version = re.search(r'"v": "(\w+)"', page[page.index('<div id="failure"') :].replace("&quot;", '"'))
    assert version is not None
    assert client.get(f"/_p/failures/{group.public_id}/?v={version[1]}").status_code == 204


def test_decisions_are_forms(service: Service) -> None:
    group = a_group(service)
    client = browser()

    def decide(verb: str, **fields: str) -> Failure:
        answer = client.post(f"/failures/{group.public_id}/{verb}/", fields)
        assert (answer.status_code, answer["Location"]) == (303, f"/failures/{group.public_id}/")
        return Failure.objects.get(pk=group.pk)

    assert decide("resolve").state == "resolved"
    assert decide("open").state == "open"
    ignored = decide("ignore", **{"for": "day"})
    assert ignored.state == "ignored"
    assert ignored.ignored_until is not None
    assert ignored.ignored_until > timezone.now() + timedelta(hours=23)
    assert "then it reopens" in client.get(f"/failures/{group.public_id}/").content.decode()
    day = ignored.ignored_until
    for odd in ("", "garbage", "-1"):
        assert decide("ignore", **{"for": odd}).ignored_until == day, "nothing was changed"
    assert decide("ignore", **{"for": "ever"}).ignored_until is None
    assert AuditEntry.objects.filter(target=group.public_id).count() == 4


def test_a_note_links_its_runbook_and_nothing_else(service: Service) -> None:
    group = a_group(service)
    Account.objects.create(username="ada")
    client = browser()
    text = "See https://wiki.example/runbook?a=1&b=2, javascript:alert(1) or <b>ask</b>"
    answer = client.post(f"/failures/{group.public_id}/note/", {"note": text, "assignee": "ada"})
    assert answer.status_code == 303
    page = client.get(f"/failures/{group.public_id}/").content.decode()
    link = "https://wiki.example/runbook?a=1&amp;b=2"
    assert f'<a href="{link}" rel="noopener noreferrer nofollow">{link}</a>, javascript:alert(1) or &lt;b&gt;' in page
    assert "Assigned to ada" in page
    refused = client.post(f"/failures/{group.public_id}/note/", {"note": "x" * 4001, "assignee": "nobody"})
    assert refused.status_code == 422
    assert Failure.objects.get(pk=group.pk).note == text


def test_a_note_on_a_group_that_is_gone_is_refused_in_words(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted between the look and the change, with its service."""
    group = a_group(service)

    def change(failure: Failure, *given: Any, **named: Any) -> Failure:
        Failure.objects.filter(pk=failure.pk).delete()
        return kept(failure, *given, **named)

    kept = failures.change
    monkeypatch.setattr(failures, "change", change)
    answer = browser().post(f"/failures/{group.public_id}/note/", {"note": "ask them", "assignee": ""})
    assert answer.status_code == 422
    assert "deleted with its service" in answer.content.decode()


@pytest.mark.parametrize(
    "text", ["", "plain", 'http://"><script>', "ftp://x.example", "https://", "<https://x.example>"]
)
def test_a_note_stays_text(text: str) -> None:
    html = linked(text)
    assert "<script" not in html
    assert re.sub(r"</?a\b[^>]*>", "", html).replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"') == text


def test_a_viewer_reads_and_decides_nothing(service: Service) -> None:
    group = a_group(service, dead=1)
    client = browser(Role.VIEWER)
    page = client.get(f"/failures/{group.public_id}/").content.decode()
    assert "Plan the replay" not in page
    assert "Resolve" not in page
    for verb in ("resolve", "open", "ignore", "note"):
        assert client.post(f"/failures/{group.public_id}/{verb}/").status_code == 403
    assert client.get("/failures/fail_1_00000000/").status_code == 404


def test_a_day_is_drawn_hour_by_hour(service: Service) -> None:
    group = a_group(service)
    now = timezone.now()
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    FailureHour.objects.all().delete()
    for back, count in ((0, 1), (5, 1000), (24, 7)):
        FailureHour.objects.create(failure=group, hour=this_hour - timedelta(hours=back), count=count)
    spark = sparklines([group.pk], now)[group.pk]
    assert (len(spark.hours), spark.total, spark.most) == (HOURS, 1001, 1000)
    assert spark.hours[-1].height >= 6  # one among thousands is seen
    assert [hour.count for hour in spark.busy] == [1, 1000]


def test_a_list_takes_as_many_queries_for_many_groups(service: Service, django_assert_max_num_queries: Any) -> None:
    client = browser(Role.VIEWER)
    for number in range(20):
        a_group(service, f"kind {'abcdefghijklmnopqrst'[number]}")
    with django_assert_max_num_queries(10):
        assert len(shown(client.get("/failures/").content.decode())) == 20
