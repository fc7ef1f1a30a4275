"""Finding messages, sending one, and what a message's own page tells and lets do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from dashboard.presenters.bodies import compact_json, json_refusal, payload, pretty_json
from dashboard.presenters.call_timing import phases
from dashboard.presenters.pagination import page as slice_of
from integrations.models import Attempt, AuditEntry, Endpoint, Failure, IdempotentAnswer, Message, Operation, Service
from integrations.operators import bulk_operations
from integrations.search import pages
from tests.support.signed_in import page_of, words

Queue = Callable[..., Message]
FORM: dict[str, Any] = {
    "service": "billing",
    "method": "POST",
    "path": "/orders",
    "body_kind": "json",
    "form_key": "k1",
}


def attempt_of(message: Message, **fields: Any) -> Attempt:
    return Attempt.objects.create(
        message=message,
        service=message.service,
        **{
            "number": 1,
            "trigger": "first",
            "started_at": timezone.now(),
            "duration": 0.5,
            "outcome": "failed",
            "fault": "status",
            "status_code": 503,
            "detail": "answered 503",
            "timings": {"dns": 0.1, "connect": 0.1, "tls": None, "first_byte": 0.2, "total": 0.5},
            "method": "POST",
            "url": "https://billing.example/api/orders",
            **fields,
        },
    )


# ---- the list -----------------------------------------------------------------------------------------------------
def test_an_empty_console_says_what_a_message_is(operator: Client, db: None) -> None:
    assert "Register a service" in page_of(operator, "/messages/")
    Service.objects.create(name="billing", base_url="https://billing.example")
    assert "/api/v1/messages" in page_of(operator, "/messages/")


def test_what_cannot_be_searched_for_finds_nothing_and_says_why(viewer: Client, queue: Queue) -> None:
    queue(service=Service.objects.create(name="hostile", base_url="https://hostile.example"))
    page = page_of(viewer, "/messages/?q=servce:hostile")
    assert "the nearest one is “service:”" in page
    assert "No search was run" in page
    assert "msg_" not in page
    page = page_of(viewer, "/messages/?q=service:hostil")
    assert "No service is named “hostil”; the closest name is hostile." in page
    assert 'value="service:hostil"' in page


def test_marks_that_turn_the_direction_are_seen() -> None:
    turned = '{"to": "\u202egro.live"}'.encode()
    for view in ("pretty", "raw"):
        shown = payload(turned, view=view).text
        assert json.loads(shown) == json.loads(turned)
        assert "\\u202egro" in shown


def test_an_id_leads_to_its_page(viewer: Client, queue: Queue) -> None:
    message = queue()
    group = Failure.objects.create(
        key="x", version=1, service=message.service, fault="status", title="503", attempt_id=1,
        first_seen=timezone.now(), last_seen=timezone.now(), opened_at=timezone.now(),
    )  # fmt: skip
    for public_id, page in ((message.public_id.upper(), "messages"), (group.public_id, "failures")):
        assert viewer.get("/messages/", {"q": public_id})["Location"] == f"/{page}/{public_id.lower()}/"


def test_a_list_without_a_hit_says_so(viewer: Client, queue: Queue) -> None:
    queue()
    assert "Nothing matches" in page_of(viewer, "/messages/?status=dead")


@pytest.mark.parametrize(
    "query",
    [
        "service=billing&status=dead", "q=service:billing+status:dead", "dead_reason=attempts", "fault=timeout",
        "status_code=504", "q=code:504", "ordering_key=acme", "q=key:acme", "q=tag:customer%3Dacme", "q=tag:acme",
        "q=/wanted", "q=put", "endpoint=create", "q=%22/wanted%22", "created_after=2020-01-01T00:00",
    ],
)  # fmt: skip
def test_a_filter_finds_the_message_and_only_it(viewer: Client, queue: Queue, billing: Service, query: str) -> None:
    endpoint = Endpoint.objects.create(service=billing, name="create")
    other = queue(path="/other", created_at=datetime(2019, 1, 1, tzinfo=UTC))
    wanted = queue(
        method="PUT", path="/wanted", endpoint=endpoint, ordering_key="acme", tags={"customer": "acme"},
        status="dead", dead_reason="attempts", last_fault="timeout", last_status_code=504, due_at=None,
    )  # fmt: skip
    page = page_of(viewer, f"/messages/?{query}")
    assert wanted.public_id in page
    assert other.public_id not in page


@pytest.mark.parametrize(
    "query", ["status=nonsense", "status_code=9", "created_after=yesterday", "q=colour:red", "q=code:many", "q=%22open"]
)
def test_a_filter_that_cannot_be_read_is_said_and_breaks_nothing(viewer: Client, queue: Queue, query: str) -> None:
    queue()
    assert "ignored" in (page := page_of(viewer, f"/messages/?{query}")) or "qualifier" in page or "q=" in query


def test_a_service_and_a_status_typed_into_the_search_move_to_their_fields(viewer: Client, queue: Queue) -> None:
    queue()
    response = viewer.get("/messages/", {"q": "service:billing status:dead code:503"})
    assert response["Location"] == "?q=code%3A503&service=billing&status=dead"
    assert viewer.get("/messages/", {"q": "status:nonsense"}).status_code == 200


def test_a_time_typed_into_the_search_is_in_the_viewers_zone(viewer: Client, queue: Queue) -> None:
    early, late = (queue(created_at=datetime(2026, 1, 30, hour, 30, tzinfo=UTC)) for hour in (14, 15))
    viewer.cookies["switchboard_zone"] = "Asia/Tokyo"
    response = viewer.get("/messages/", {"q": "after:2026-01-31 service:billing"}, follow=True)
    assert response.redirect_chain == [("?q=after%3A2026-01-31T00%3A00%3A00%2B09%3A00&service=billing", 302)]
    assert [row.pk for row in response.context["rows"]] == [late.pk]
    assert "after:2026-01-31T00:00:00+09:00" in response.content.decode(), "the bulk actions have the same time"
    assert early.public_id not in words(response)
    for same in ("after:2026-01-31T00:00Z", "after:soon", "path:/x"):
        assert viewer.get("/messages/", {"q": same}).status_code == 200, "nothing to add, so no redirect"


def test_a_public_id_in_the_search_leads_to_the_message(viewer: Client, queue: Queue) -> None:
    message = queue()
    attempt = attempt_of(message)
    assert viewer.get("/messages/", {"q": f" {message.public_id} "})["Location"] == f"/messages/{message.public_id}/"
    assert viewer.get("/messages/", {"q": attempt.public_id})["Location"].endswith("#attempt-1")


def test_a_replayed_message_says_so_in_the_list_and_is_not_offered_as_a_problem(operator: Client, queue: Queue) -> None:
    done = {"due_at": None, "finished_at": timezone.now()}
    first = queue(status="dead", last_status_code=422, last_fault="status", **done)
    alone = queue(status="dead", **done)
    operator.post(f"/messages/{first.public_id}/replay/")
    replay = first.replays.get()
    shown = words(operator.get("/messages/?status=dead"))
    assert "replayed → pending" in shown
    Message.objects.filter(pk=replay.pk).update(status="delivered", **done)
    response = operator.get("/messages/")
    page = response.content.decode()
    assert "replayed → delivered now" in words(response)
    assert page.count('class="badge dead"') == 1, "only the other one is red"
    assert f'href="/messages/{replay.public_id}/" aria-label="delivered as {replay.public_id}"' in page
    assert f"Its replay {replay.public_id} was delivered. Another replay may reach the receiver twice." in page
    assert f"Replay {alone.public_id} unchanged?" in page
    assert "replayed → delivered" in words(operator.get(f"/_p/messages/?rows={first.pk}"))


def test_a_dead_replay_of_a_message_that_was_delivered_is_superseded(viewer: Client, queue: Queue) -> None:
    done = {"due_at": None, "finished_at": timezone.now()}
    first = queue(status="delivered", **done)
    Message.objects.filter(pk=first.pk).update(lineage_id=first.pk)
    queue(status="dead", lineage_id=first.pk, **done)
    shown = words(viewer.get("/messages/"))
    assert "superseded → delivered" in shown
    assert "replayed" not in shown


def test_the_list_takes_one_query_more_for_all_its_replays(operator: Client, queue: Queue) -> None:
    def queries_of_a_page() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert operator.get("/messages/").status_code == 200
        return len(queries)

    messages = [queue(status="dead", due_at=None, finished_at=timezone.now()) for _ in range(10)]
    before = queries_of_a_page()
    for message in messages:
        message.replay()
    assert queries_of_a_page() == before + 1 <= 12


def test_pages_lead_both_ways_and_lose_nothing(viewer: Client, queue: Queue, monkeypatch: Any) -> None:
    messages = [queue().public_id for _ in range(7)][::-1]
    found = [slice_of(Message.objects.all(), "", 3)]
    while found[-1].older:
        found.append(slice_of(Message.objects.all(), found[-1].older, 3))
    assert [row.public_id for page in found for row in page.rows] == messages
    assert [len(page.rows) for page in found] == [3, 3, 1]
    back = slice_of(Message.objects.all(), found[2].newer, 3)
    assert [row.pk for row in back.rows] == [row.pk for row in found[1].rows]
    first = slice_of(Message.objects.all(), back.newer, 3)
    assert first.is_first
    assert not first.newer


@pytest.mark.parametrize("cursor", ["garbage", "older 3:forged", "older%205:AAAA"])
def test_a_tampered_cursor_shows_the_first_page_with_a_notice(viewer: Client, queue: Queue, cursor: str) -> None:
    message = queue()
    page = page_of(viewer, f"/messages/?cursor={cursor}")
    assert message.public_id in page
    assert "showing the first page" in page


def test_the_rows_around_a_point_in_time_are_found_in_few_looks(db: None, queue: Queue, monkeypatch: Any) -> None:
    monkeypatch.setattr("integrations.search.pages.PROBES", 4)
    monkeypatch.setattr("integrations.search.pages.CLOSE", 1)
    start = timezone.now()
    messages = [queue(created_at=start + timedelta(minutes=place)) for place in range(60)]
    Message.objects.filter(pk__in=[message.pk for message in messages[20:30]]).delete()  # pruned
    newest = messages[-1].pk
    for place in (0, 7, 40, 59):
        low, high = pages.rows_around(start + timedelta(minutes=place), newest)
        assert low < messages[place].pk <= high
    assert pages.rows_around(start + timedelta(minutes=25), newest)[1] >= messages[30].pk
    assert pages.rows_around(start + timedelta(days=1), newest)[1] > newest


def test_a_search_without_an_index_says_that_it_is_bounded(viewer: Client, queue: Queue, monkeypatch: Any) -> None:
    old = queue(path="/wanted")
    for _ in range(5):
        queue()
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 3)
    page = page_of(viewer, "/messages/?q=/wanted")
    assert old.public_id not in page
    assert "Searched the newest 3 messages" in page.replace("100,000", "3")
    older = re.search(r'href="([^"]+)">Search older ones', page)[1].replace("&amp;", "&")
    page = page_of(viewer, f"/messages/{older}")
    assert old.public_id in page
    assert "Search older" not in page


def test_rows_on_the_screen_change_in_place_and_new_ones_are_only_counted(viewer: Client, queue: Queue) -> None:
    message = queue()
    page = page_of(viewer, "/messages/?status=pending")
    url = re.search(r'hx-get="(/_p/messages/\?[^"]+)"', page)[1].replace("&amp;", "&")
    version = re.search(r'id="messages".*?"v": "(\w+)"', page, re.DOTALL)[1]
    assert viewer.get(f"{url}&v={version}").status_code == 204
    Message.objects.filter(pk=message.pk).update(status="delivered", due_at=None)
    new = queue()
    panel = page_of(viewer, f"{url}&v={version}")
    assert "1 new" in panel
    assert message.public_id in panel
    assert "badge delivered" in panel
    assert new.public_id not in panel


def test_the_polled_list_stays_within_twelve_queries(operator: Client, queue: Queue) -> None:
    rows = [queue().pk for _ in range(30)]
    with CaptureQueriesContext(connection) as queries:
        page_of(operator, f"/_p/messages/?first=1&service=billing&rows={'-'.join(map(str, rows))}")
    assert len(queries) <= 12
    # With the ids of a hundred thousand messages, most of them deleted, the point in time is found in two steps.
    later = Message.objects.get(pk=rows[-1])
    for later.pk in (50_000, 99_999):
        later.save(force_insert=True)
    with CaptureQueriesContext(connection) as queries:
        page_of(operator, "/messages/?service=billing&created_after=2020-01-01")
    assert len(queries) <= 12


# ---- sending ------------------------------------------------------------------------------------------------------
def test_a_message_by_hand_is_queued_and_audited(operator: Client, billing: Service) -> None:
    response = operator.post(
        "/messages/new/",
        {**FORM, "body": '{ "a" : 1 }', "query": "page=2\npage=3", "headers": "X-A: b: c", "tags": "customer=acme"},
    )
    message = Message.objects.get()
    assert (response.status_code, response["Location"]) == (303, f"/messages/{message.public_id}/")
    assert bytes(message.content.body) == b'{"a":1}'
    assert message.content.query == {"page": ["2", "3"]}
    assert message.content.headers == {"X-A": "b: c"}
    assert message.content.content_type == "application/json"
    assert message.tags == {"customer": "acme"}
    assert AuditEntry.objects.get(action="message.sent").actor == "person operator"


def test_numbers_and_keys_travel_exactly_as_typed(operator: Client, billing: Service) -> None:
    typed = '{"id": 12345678901234567890, "price": 1.10, "big": 1e400, "a": 1, "a": 2}'
    operator.post("/messages/new/", {**FORM, "body": typed})
    message = Message.objects.get()
    assert bytes(message.content.body).decode() == typed.replace(" ", "")
    page = page_of(operator, f"/messages/{message.public_id}/")
    for exact in ("12345678901234567890", "1.10", "1e400"):
        assert exact in page


def test_a_double_submit_makes_one_message(operator: Client, billing: Service) -> None:
    answers = [operator.post("/messages/new/", {**FORM, "body": "{}"}) for _ in range(2)]
    assert Message.objects.count() == 1
    assert answers[0]["Location"] == answers[1]["Location"]
    assert AuditEntry.objects.filter(action="message.sent").count() == 1


def test_the_same_form_with_another_content_means_another_message(operator: Client, billing: Service) -> None:
    for body in ("1", "2"):
        operator.post("/messages/new/", {**FORM, "body": body})
    assert Message.objects.count() == 2


def test_another_persons_form_key_is_not_mine(signed_in: Callable[[str], Client], billing: Service) -> None:
    for role in ("operator", "admin"):
        signed_in(role).post("/messages/new/", {**FORM, "body": "{}"})
    assert Message.objects.count() == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"service": ""}, "Choose a service."),
        ({"service": "unknown"}, "There is no service named unknown."),
        ({"path": ""}, "Enter an endpoint or a path."),
        ({"path": "/a?b=c"}, "put parameters into query"),
        ({"body": "{bad"}, "not valid JSON"),
        ({"body": "NaN"}, "NaN is not a JSON value"),
        ({"body": "no base64!", "body_kind": "base64"}, "must be valid base64"),
        ({"headers": "no colon"}, "Line 1"),
        ({"headers": "Content-Length: 3"}, "Content-Length"),
        ({"endpoint": "missing", "path": ""}, "no endpoint named missing"),
        ({"expires_at": "2020-01-01T10:00"}, "This time has passed."),
        ({"body": '"' + "a" * (1024 * 1024) + '"'}, "the limit is 1,048,576"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_beside_its_field_and_keeps_what_was_typed(
    operator: Client, billing: Service, changes: dict[str, str], words: str
) -> None:
    response = operator.post("/messages/new/", {**FORM, "body": '"typed"', "ordering_key": "kept-key", **changes})
    page = response.content.decode()
    assert response.status_code == 422
    assert words in page
    assert 'aria-invalid="true"' in page
    assert "kept-key" in page
    assert not Message.objects.exists()
    assert not IdempotentAnswer.objects.exists()


def test_a_corrected_form_is_sent_under_the_same_key(operator: Client, billing: Service) -> None:
    operator.post("/messages/new/", {**FORM, "body": "{bad"})
    assert operator.post("/messages/new/", {**FORM, "body": "{}"}).status_code == 303


def test_times_are_read_in_the_zone_of_the_viewer(operator: Client, billing: Service) -> None:
    operator.cookies["switchboard_zone"] = "Asia/Tokyo"
    operator.post("/messages/new/", {**FORM, "deliver_at": "2031-01-31T09:30"})
    assert Message.objects.get().deliver_at == datetime(2031, 1, 31, 0, 30, tzinfo=UTC)


def test_a_message_is_sent_from_a_services_page_an_endpoint_and_a_message(
    operator: Client, queue: Queue, billing: Service
) -> None:
    Service.objects.create(name="crm", base_url="https://crm.example")
    Endpoint.objects.create(service=billing, name="create", path="/v2/orders", method="PUT", headers={"X-A": "b"})
    message = queue(path="/x", method="PATCH", body=b'{"a":1.10}', tags={"customer": "acme"}, ordering_key="acme")
    pages = page_of(operator, "/services/billing/") + page_of(operator, f"/messages/{message.public_id}/")
    links = re.findall(r'href="(/messages/new/[^"]*)"', pages)
    assert links == [
        "/messages/new/?service=billing",
        "/messages/new/?endpoint=billing/create",
        f"/messages/new/?message={message.public_id}",
    ]
    for link in links:
        form = operator.get(link).context["form"]
        fields = {name: form[name].value() or "" for name in form.fields}
        assert fields["service"] == "billing"
        operator.post("/messages/new/", {**fields, "path": "/y"} if link == links[0] else fields)
    _, by_service, by_endpoint, another = Message.objects.order_by("pk")
    assert by_service.path == "/y"
    assert (by_endpoint.method, by_endpoint.path, by_endpoint.content.headers) == ("PUT", "/v2/orders", {"X-A": "b"})
    assert (another.method, another.path, bytes(another.content.body)) == ("PATCH", "/x", b'{"a":1.10}')
    assert (another.tags, another.ordering_key) == ({"customer": "acme"}, "acme")
    assert another.replay_of is None


def test_the_only_service_is_chosen_already(operator: Client, billing: Service) -> None:
    assert '<option value="billing" selected>' in page_of(operator, "/messages/new/")
    Service.objects.create(name="crm", base_url="https://crm.example")
    assert '<option value="billing" selected>' not in page_of(operator, "/messages/new/")


def test_text_and_base64_go_out_byte_for_byte(operator: Client, billing: Service) -> None:
    operator.post("/messages/new/", {**FORM, "body_kind": "text", "body": " two\r\nlines "})
    operator.post("/messages/new/", {**FORM, "body_kind": "base64", "body": "AAH/\r\n"})
    first, second = Message.objects.order_by("pk")
    assert (bytes(first.content.body), first.content.content_type) == (b" two\nlines ", "text/plain; charset=utf-8")
    assert (bytes(second.content.body), second.content.content_type) == (b"\0\x01\xff", "application/octet-stream")


def test_a_viewer_may_not_send(viewer: Client, billing: Service) -> None:
    assert viewer.get("/messages/new/").status_code == 403
    assert viewer.post("/messages/new/", FORM).status_code == 403
    assert "Send a message" not in page_of(viewer, "/messages/")


# ---- one message --------------------------------------------------------------------------------------------------
def test_markup_in_payloads_is_shown_as_text(viewer: Client, queue: Queue) -> None:
    evil = '"><script>alert(1)</script>'
    message = queue(body=json.dumps({"x": evil}).encode(), headers={"X-Evil": evil}, tags={"t": evil}, path="/" + evil)
    attempt_of(message, detail=evil, response_body=evil.encode(), response_headers=[["X", evil]], url=evil)
    for page in (page_of(viewer, f"/messages/{message.public_id}/"), page_of(viewer, "/messages/")):
        assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page_of(viewer, f"/messages/{message.public_id}/")


def test_a_binary_body_is_shown_as_hex(viewer: Client, queue: Queue) -> None:
    message = queue(body=b"\x00\xff\x10Switch", content_type="application/octet-stream")
    assert "000000  00 ff 10 53 77 69 74 63 68" in page_of(viewer, f"/messages/{message.public_id}/")


def test_a_line_of_a_megabyte_is_cut_and_said(viewer: Client, queue: Queue) -> None:
    message = queue(body=b'{"x":"' + b"a" * (1024 * 1024 - 8) + b'"}')
    page = page_of(viewer, f"/messages/{message.public_id}/")
    assert len(page) < 200_000
    assert "Showing the first 64 KB of 1 MB" in page


def test_no_secret_is_on_the_page(operator: Client, queue: Queue) -> None:
    message = queue(headers={"X-Copy": "canary-7c1e55", "X-Api-Key": "typed-by-hand"})
    page = page_of(operator, f"/messages/{message.public_id}/")
    assert "canary-7c1e55" not in page
    assert "typed-by-hand" not in page
    assert "Bearer ••••" in page  # in the curl command


def test_the_page_says_why_a_message_waits(viewer: Client, queue: Queue, billing: Service) -> None:
    message = queue()
    assert "No worker is running" in page_of(viewer, f"/messages/{message.public_id}/")
    billing.pause("their maintenance")
    assert "billing is paused: their maintenance." in page_of(viewer, f"/messages/{message.public_id}/")


def test_every_call_is_on_the_page_newest_first(viewer: Client, queue: Queue) -> None:
    message = queue(status="dead", dead_reason="attempts", calls=2, attempts=2, due_at=None)
    attempt_of(message)
    attempt_of(message, number=2, trigger="retry", fault="timeout", status_code=None, detail="no answer in 30 s")
    page = page_of(viewer, f"/messages/{message.public_id}/")
    assert page.index('id="attempt-2"') < page.index('id="attempt-1"')
    assert "timed out" in page
    assert "All attempts failed." in page


def test_the_panel_of_a_finished_message_ends_the_polling(viewer: Client, queue: Queue) -> None:
    message = queue()
    assert "hx-get" in page_of(viewer, f"/messages/{message.public_id}/")
    assert viewer.get(f"/_p/messages/{message.public_id}/").status_code == 200
    Message.objects.filter(pk=message.pk).update(status="delivered", due_at=None)
    response = viewer.get(f"/_p/messages/{message.public_id}/")
    assert response.status_code == 286
    assert b"hx-get" not in response.content


def test_the_panel_of_a_replayed_message_goes_on_until_its_replay_is_finished(viewer: Client, queue: Queue) -> None:
    message = queue(status="dead", due_at=None, finished_at=timezone.now())
    replay, _ = message.replay()
    assert "hx-get" in page_of(viewer, f"/messages/{message.public_id}/")
    assert viewer.get(f"/_p/messages/{message.public_id}/").status_code == 200
    Message.objects.filter(pk=replay.pk).update(status="delivered", due_at=None, finished_at=timezone.now())
    response = viewer.get(f"/_p/messages/{message.public_id}/")
    assert response.status_code == 286
    assert b"hx-get" not in response.content


def test_the_polled_message_stays_within_twelve_queries(operator: Client, queue: Queue) -> None:
    before, message, _ = queue(ordering_key="a"), queue(ordering_key="a"), queue(ordering_key="a")
    for number in range(1, 9):
        attempt_of(message, number=number)
    with CaptureQueriesContext(connection) as queries:
        page = page_of(operator, f"/_p/messages/{message.public_id}/")
    assert before.public_id in page
    assert len(queries) <= 12


def test_bodies_are_downloads_that_no_browser_renders(viewer: Client, queue: Queue) -> None:
    message = queue(body=b"<html>hi", content_type="text/html")
    attempt = attempt_of(message, response_body=b"\xff\x00", request_body=b"asked")
    for url, content, kind in (
        (f"/messages/{message.public_id}/body/", b"<html>hi", "text/plain; charset=utf-8"),
        (f"/attempts/{attempt.public_id}/body/", b"\xff\x00", "application/octet-stream"),
        (f"/attempts/{attempt.public_id}/body/?part=request", b"asked", "text/plain; charset=utf-8"),
    ):
        response = viewer.get(url)
        assert (response.content, response["Content-Type"]) == (content, kind)
        assert response["Content-Disposition"].startswith("attachment")
        assert response["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("url", ["/messages/msg_1_00000000/", "/messages/x/", "/attempts/att_9_00000000/body/"])
def test_an_unknown_id_is_not_found(viewer: Client, db: None, url: str) -> None:
    assert viewer.get(url).status_code == 404


# ---- actions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("verb", ["replay", "cancel", "retry-now"])
def test_a_viewer_cannot_act(viewer: Client, queue: Queue, verb: str) -> None:
    message = queue()
    assert viewer.post(f"/messages/{message.public_id}/{verb}/").status_code == 403
    assert viewer.get(f"/messages/{message.public_id}/replay/").status_code == 403
    page = page_of(viewer, f"/messages/{message.public_id}/") + page_of(viewer, "/messages/")
    assert f"/{verb}/" not in page


@pytest.mark.parametrize("verb", ["cancel", "retry-now"])
def test_actions_are_posts(operator: Client, queue: Queue, verb: str) -> None:
    assert operator.get(f"/messages/{queue().public_id}/{verb}/").status_code == 405


def test_a_pending_message_is_cancelled(operator: Client, queue: Queue) -> None:
    message = queue()
    response = operator.post(f"/messages/{message.public_id}/cancel/")
    assert (response.status_code, response["Location"]) == (303, f"/messages/{message.public_id}/")
    message.refresh_from_db()
    assert message.status == "cancelled"
    assert AuditEntry.objects.get(action="message.cancelled").target == message.public_id


def test_cancelling_a_delivered_message_says_why_not(operator: Client, queue: Queue) -> None:
    message = queue(status="delivered", due_at=None)
    page = operator.post(f"/messages/{message.public_id}/cancel/", follow=True).content.decode()
    assert "Not cancelled: it is delivered; only a pending message can be cancelled." in page


def test_retry_now_clears_the_schedule(operator: Client, queue: Queue) -> None:
    message = queue(deliver_at=timezone.now() + timedelta(days=1))
    operator.post(f"/messages/{message.public_id}/retry-now/")
    message.refresh_from_db()
    assert message.due_at is not None
    assert message.due_at <= timezone.now()


def test_a_dead_message_is_replayed_once_however_often_it_is_clicked(operator: Client, queue: Queue) -> None:
    message = queue(status="dead", due_at=None)
    locations = {operator.post(f"/messages/{message.public_id}/replay/")["Location"] for _ in range(3)}
    assert locations == {f"/messages/{message.replays.get().public_id}/"}


def test_replaying_an_unfinished_message_says_why_not(operator: Client, queue: Queue) -> None:
    page = operator.post(f"/messages/{queue().public_id}/replay/", follow=True).content.decode()
    assert "Not replayed: it is pending; only a finished message can be replayed." in page


def test_a_replay_with_current_settings_takes_the_endpoints_new_path(
    operator: Client, queue: Queue, billing: Service
) -> None:
    endpoint = Endpoint.objects.create(service=billing, name="create", path="/v2/orders")
    message = queue(endpoint=endpoint, path="/v1/orders", status="dead", due_at=None)
    operator.post(f"/messages/{message.public_id}/replay/", {"mode": "current"})
    assert message.replays.get().path == "/v2/orders"


def test_an_edited_replay_carries_the_new_body_and_an_id_of_its_own(operator: Client, queue: Queue) -> None:
    message = queue(body=b'{"amount":12345678901234567890}', headers={"X-A": "b"}, status="dead", due_at=None)
    assert "12345678901234567890" in page_of(operator, f"/messages/{message.public_id}/replay/")
    form = {
        "edited": "1",
        "confirmed": "1",
        "body": '{"amount": 12345678901234567891}',
        "headers": "X-A: b",
        "endpoint": "",
    }
    operator.post(f"/messages/{message.public_id}/replay/", form)
    made = message.replays.get()
    assert bytes(made.content.body) == b'{"amount":12345678901234567891}'
    assert made.content.headers == {"X-A": "b"}
    assert made.wire_id == made.public_id


def test_an_edit_without_a_change_keeps_the_first_id_and_bytes(operator: Client, queue: Queue) -> None:
    message = queue(body=b'{"a": 1.10,"a":2}', status="dead", due_at=None)
    form = {
        "edited": "1",
        "confirmed": "1",
        "body": '{\r\n  "a": 1.10,\r\n  "a": 2\r\n}',
        "headers": "",
        "endpoint": "",
    }
    operator.post(f"/messages/{message.public_id}/replay/", form)
    made = message.replays.get()
    assert bytes(made.content.body) == b'{"a": 1.10,"a":2}'
    assert made.wire_id == message.public_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"body": "{bad"}, "not valid JSON"),
        ({"endpoint": "missing"}, "no endpoint named missing"),
        ({"headers": "Content-Length: 1"}, "Content-Length"),
    ],
)
def test_a_wrong_edit_is_said_beside_its_field(
    operator: Client, queue: Queue, changes: dict[str, str], words: str
) -> None:
    message = queue(status="dead", due_at=None)
    form = {"edited": "1", "confirmed": "1", "body": "{}", "headers": "", "endpoint": "", **changes}
    response = operator.post(f"/messages/{message.public_id}/replay/", form)
    assert response.status_code == 422
    assert words in response.content.decode()
    assert not message.replays.exists()


def test_a_binary_message_keeps_its_body_in_an_edited_replay(operator: Client, queue: Queue) -> None:
    message = queue(body=b"\x00\xff", content_type="application/octet-stream", status="dead", due_at=None)
    assert "is sent unchanged" in page_of(operator, f"/messages/{message.public_id}/replay/")
    operator.post(
        f"/messages/{message.public_id}/replay/", {"edited": "1", "confirmed": "1", "headers": "X-A: b", "endpoint": ""}
    )
    assert bytes(message.replays.get().content.body) == b"\x00\xff"


# ---- bodies -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ['{"a":[],"b":{},"c":[1,{"d":null}]}', "[]", '{"quote":"a\\"b,{}[]:"}', "[[[[1]]]]", '{"\\u00e9":"\\ud800"}'],
)
def test_indented_json_is_the_same_json(text: str) -> None:
    pretty = pretty_json(text)
    assert pretty is not None
    assert json.loads(pretty) == json.loads(text)
    assert compact_json(pretty) == text


def test_json_that_would_outgrow_its_indentation_is_shown_as_it_is() -> None:
    deep = "[" * 60 + "]" * 60
    assert pretty_json(deep) is None
    assert payload(deep.encode()).kind == "text"
    assert json_refusal("[" * 100_000) is not None


def test_text_shows_its_control_characters_and_a_cut_spares_half_a_letter() -> None:
    assert payload(b"a\x1b[31mb\n").text == "a␛[31mb\n"
    assert payload("aé".encode(), limit=2).text == "a"
    assert payload(b"").kind == "empty"


def test_the_phases_of_a_call_fill_its_bar() -> None:
    bar = phases({"dns": 0.1, "connect": None, "tls": None, "first_byte": 0.2, "total": 0.4})
    assert [phase.name for phase in bar] == ["dns", "first_byte", "rest"]
    assert round(sum(phase.width for phase in bar)) == 1000
    assert phases({"total": 0}) == []


# ---- a search that finds nothing ------------------------------------------------------------------------------------
def test_an_empty_result_offers_what_would_have_found_something(viewer: Client, queue: Any, billing: Service) -> None:
    Service.objects.filter(pk=billing.pk).update(search_fields=["order.id"])
    billing.refresh_from_db()
    queue(body=b'{"order": {"id": 9010}}', tags={"customer": "acme"})
    page = viewer.get("/messages/?q=acme&status=dead").content.decode()
    assert 'href="?q=tag%3Acustomer%3Dacme"' in page
    assert 'href="?q=body.order.id%3A9010"' in viewer.get("/messages/?q=order.id:9010").content.decode()
    page = viewer.get("/messages/?q=nothing-like-this").content.decode()
    assert 'Declared: <span class="mono">body.order.id</span>' in page
    assert "alternatives" not in viewer.get("/messages/?q=acme").content.decode()


def test_a_field_is_declared_from_an_empty_result_and_indexed(operator: Client, queue: Any, billing: Service) -> None:
    queue(body=b'{"order": {"id": 9010}}')
    page = operator.get("/messages/?q=9010").content.decode()
    assert "Declare order.id and index the last 30 days" in page
    given = {"service": "billing", "path": "order.id", "days": "30"}
    answer = operator.post("/messages/fields/", given)
    operation = Operation.objects.get(kind="index")
    assert answer["Location"] == f"/operations/{operation.public_id}/"
    assert "Index field" in operator.get(answer["Location"]).content.decode()
    Operation.objects.update(created_at=timezone.now() - timedelta(minutes=1))
    while bulk_operations.step(operation.pk):
        for address in (answer["Location"], f"/_p{answer['Location']}", "/operations/"):
            assert operator.get(address).status_code in (200, 286)
    bulk_operations.step(operation.pk)
    bulk_operations.step(operation.pk)
    assert "Search by order.id" in operator.get(answer["Location"]).content.decode()
    assert "order.id" in operator.get("/messages/fields/").content.decode()
    refused = operator.post("/messages/fields/", given | {"path": "a b"})
    assert refused.status_code == 422
    assert "names joined by dots" in refused.content.decode()


def test_a_viewer_declares_no_field(viewer: Client, queue: Any, billing: Service) -> None:
    queue(body=b'{"order": {"id": 9010}}')
    page = viewer.get("/messages/?q=9010").content.decode()
    assert "a field that it does not declare" in page
    assert "Declare order.id" not in page
    given = {"service": "billing", "path": "order.id", "days": "30"}
    assert viewer.post("/messages/fields/", given).status_code == 403
    assert not Operation.objects.exists()


def test_a_search_without_a_result_stays_within_its_queries(
    viewer: Client, queue: Any, django_assert_max_num_queries: Any
) -> None:
    queue(body=b'{"order": {"id": 9010}}')
    for q in ("9010", "nothing", "order.id:9010", "body.order.id:1 tag:a=b key:c service:billing"):
        with django_assert_max_num_queries(12):
            viewer.get("/messages/", {"q": q, "status": "dead"})


def test_a_filter_over_many_services_is_a_field_and_not_a_list(viewer: Client, queue: Any, billing: Service) -> None:
    queue()
    assert '<option value="billing">' in viewer.get("/messages/").content.decode()
    Service.objects.bulk_create(Service(name=f"service-{number:03}") for number in range(100))
    page = viewer.get("/messages/?service=billing").content.decode()
    assert "service-042" not in page
    assert 'name="service" value="billing"' in page
    assert len(viewer.get("/messages/?service=billing").context["rows"]) == 1
