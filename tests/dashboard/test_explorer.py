"""Around the list of messages: files, views that are kept, and what the search offers while it is typed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html import unescape
from io import StringIO
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from dashboard.presenters import exports
from dashboard.views.messages import saved_views
from integrations.models import Draft, Endpoint, FieldValue, Message, SavedView, Service
from integrations.search import grammar

Queue = Callable[..., Message]


def file_of(client: Client, url: str) -> str:
    answer: Any = client.get(url)
    assert answer.status_code == 200
    assert "attachment" in answer["Content-Disposition"]
    return b"".join(answer.streaming_content).decode()


# ---- files --------------------------------------------------------------------------------------------------------
def test_a_file_has_what_the_list_finds(viewer: Client, queue: Queue, billing: Service, monkeypatch: Any) -> None:
    monkeypatch.setattr(exports, "STEP", 2)
    endpoint = Endpoint.objects.create(service=billing, name="create")
    wanted = [queue(path=f"/wanted/{number}", endpoint=endpoint, tags={"n": str(number)}) for number in range(5)][::-1]
    queue(path="/other")
    page = viewer.get("/messages/?q=/wanted").content.decode()
    assert 'href="/messages/export.csv?q=%2Fwanted"' in page

    rows = list(csv.DictReader(StringIO(file_of(viewer, "/messages/export.csv?q=/wanted"), newline="")))
    assert [row["id"] for row in rows] == [message.public_id for message in wanted]
    assert rows[0] | {"created_at": "", "next_attempt_at": ""} == dict.fromkeys(exports.COLUMNS, "") | {
        "id": wanted[0].public_id, "service": "billing", "endpoint": "create", "method": "POST", "path": "/wanted/4",
        "status": "pending", "attempts": "0", "tags": '{"n": "4"}',
    }  # fmt: skip
    assert rows[0]["created_at"].endswith("Z")

    lines = [json.loads(line) for line in file_of(viewer, "/messages/export.ndjson?q=/wanted").splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert lines[0]["tags"] == {"n": "4"}


def test_a_file_of_nothing_is_a_file(viewer: Client, db: None) -> None:
    assert file_of(viewer, "/messages/export.csv").startswith("id,service")
    assert file_of(viewer, "/messages/export.ndjson") == ""


def test_a_file_goes_on_where_a_search_is_cut(viewer: Client, queue: Queue, monkeypatch: Any) -> None:
    monkeypatch.setattr("integrations.search.pages.SCAN_LIMIT", 2)
    old = queue(path="/wanted")
    for _ in range(5):
        queue()
    assert json.loads(file_of(viewer, "/messages/export.ndjson?q=/wanted"))["id"] == old.public_id


def test_a_file_that_ends_too_early_says_so(viewer: Client, queue: Queue, monkeypatch: Any) -> None:
    monkeypatch.setattr(exports, "LIMIT", 3)
    for _ in range(3):
        queue()
    assert "Export limit" not in file_of(viewer, "/messages/export.csv")
    queue()
    assert "Export limit of 3 messages reached" in file_of(viewer, "/messages/export.csv").splitlines()[-1]
    assert (
        "Export limit of 3 messages reached"
        in json.loads(file_of(viewer, "/messages/export.ndjson").splitlines()[-1])["notice"]
    )


@pytest.mark.parametrize(
    ("evil", "harmless"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@sum", "'@sum"),
        ("\t=1", "'\t'=1"),
        ('=cmd|"/c calc"!A1', '\'=cmd|"/c calc"!A1'),
        # For a spreadsheet with another separator than the comma, these begin a cell or a row within ours.
        ("a;=1+1", "a;'=1+1"),
        ("a;b; +1", "a;b; '+1"),
        ('a;"=1+1"', 'a;"\'=1+1"'),
        ("a\t@sum", "a\t'@sum"),
        ("a\n-1", "a\n'-1"),
        ("2026-01-31; a=b, c-d", "2026-01-31; a=b, c-d"),
    ],
)
def test_no_cell_is_a_formula(viewer: Client, queue: Queue, evil: str, harmless: str) -> None:
    queue(ordering_key=evil)
    (row,) = csv.DictReader(StringIO(file_of(viewer, "/messages/export.csv"), newline=""))
    assert row["ordering_key"] == harmless


def test_a_file_takes_the_same_statements_however_many_it_has(viewer: Client, queue: Queue) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as queries:
            file_of(viewer, "/messages/export.csv")
        return len(queries)

    queue()
    few = statements()
    for _ in range(20):
        queue()
    assert statements() == few


def test_a_filter_that_cannot_be_read_makes_no_file(viewer: Client, queue: Queue) -> None:
    queue()
    answer = viewer.get("/messages/export.csv?q=servcie:billing")
    assert answer.status_code == 400
    assert "the nearest one is “service:”" in answer.content.decode()
    assert viewer.get("/messages/export.exe").status_code == 404


# ---- views that are kept ------------------------------------------------------------------------------------------
def kept(client: Client, **form: str) -> str:
    answer = client.post("/messages/views/", {"name": "Broken", "filters": "q=code%3A503&service=billing", **form})
    assert answer.status_code == 303
    return client.get(answer["Location"], follow=True).content.decode()


def test_a_view_is_kept_shown_replaced_and_deleted(viewer: Client, queue: Queue) -> None:
    queue()
    page = kept(viewer)
    assert "View “Broken” saved." in page
    assert 'href="?q=code%3A503&amp;service=billing" aria-current="page">Broken' in page
    assert "Delete “Broken”" in page
    assert 'aria-current="page">Broken' not in viewer.get("/messages/").content.decode()
    kept(viewer, filters="status=dead")
    view = SavedView.objects.get()
    assert view.query == "status=dead"
    assert viewer.post(f"/messages/views/{view.pk}/delete/")["Location"] == "/messages/?status=dead"
    assert not SavedView.objects.exists()


def test_what_is_shared_is_everybodys_and_the_rest_is_not(viewer: Client, operator: Client, queue: Queue) -> None:
    queue()
    kept(operator, shared="1", name="For all")
    kept(operator, name="Mine", filters="status=dead")
    page = viewer.get("/messages/?q=code%3A503&service=billing").content.decode()
    assert "For all" in page
    assert "Mine" not in page
    assert "Delete “For all”" not in page
    shared, mine = SavedView.objects.order_by("name")
    assert viewer.post(f"/messages/views/{shared.pk}/delete/").status_code == 403
    assert viewer.post(f"/messages/views/{mine.pk}/delete/").status_code == 404
    assert viewer.post("/messages/views/", {"name": "x", "filters": "q=a", "shared": "1"}).status_code == 403
    assert SavedView.objects.count() == 2


@pytest.mark.parametrize("form", [{"name": " "}, {"name": "x" * 61}, {"filters": ""}, {"filters": "cursor=1"}])
def test_a_view_that_says_nothing_is_refused_in_words(viewer: Client, queue: Queue, form: dict[str, str]) -> None:
    queue()
    assert "Not saved" in kept(viewer, **form)
    assert not SavedView.objects.exists()


def test_a_person_has_so_many_views(viewer: Client, queue: Queue, monkeypatch: Any) -> None:
    monkeypatch.setattr(saved_views, "VIEWS_LIMIT", 1)
    queue()
    kept(viewer)
    assert "Not saved. You already have 1 views" in kept(viewer, name="Another")
    assert "View “" in kept(viewer, filters="status=dead")


def test_a_view_keeps_only_filters_of_the_list(viewer: Client, queue: Queue) -> None:
    queue()
    kept(viewer, filters='q="><script>&cursor=older+5%3Ax&next=//evil.example')
    assert SavedView.objects.get().query == "q=%22%3E%3Cscript%3E"


# ---- what the search offers ---------------------------------------------------------------------------------------
def test_the_search_offers_keys_then_values(viewer: Client, billing: Service) -> None:
    Endpoint.objects.create(service=billing, name="create")
    billing.search_fields = ["order.id"]
    billing.save()

    def offered(q: str) -> list[str]:
        page = viewer.get("/_p/messages/words/", {"q": q}).content.decode()
        return [unescape(text) for text in re.findall(r'data-text="([^"]*)"', page)]

    assert offered("") == [f"{key}:" for key in grammar.KEYS]
    assert offered("sta") == ["status:"]
    assert offered("dea") == ["status:dead"]
    assert offered("-bil") == ["-service:billing"]
    assert offered("service:billing st") == ["service:billing status:"]
    assert offered("-status:de") == ["-status:delivering", "-status:delivered", "-status:dead"]
    assert offered("a service:b") == ["a service:billing"]
    assert offered("endpoint:") == ["endpoint:create"]
    assert offered("dead_reason:at") == ["dead_reason:attempts"]
    assert offered("bo") == offered("body.or") == ["body.order.id:"]
    message = Message.objects.accept([Draft(billing, "POST", "/", b"{}", "application/json")])[0]
    texts = ["4711"] * 3000 + ["4712", "two words", "5"]  # one that is frequent hides no other
    FieldValue.objects.bulk_create(FieldValue(message=message, path="order.id", text=text) for text in texts)
    assert offered("body.order.id:47") == ["body.order.id:4711", "body.order.id:4712"]
    in_order = ["body.order.id:4711", "body.order.id:4712", "body.order.id:5", "'body.order.id:two words'"]
    assert offered("body.order.id:") == in_order
    assert offered("status:dead 4712") == ["status:dead body.order.id:4712"]
    assert offered("older:1") == ["older:15m", "older:1h", "older:1d"]
    assert offered("nothing:") == offered("key:") == offered("/path") == offered("a\0") == []


def test_the_search_offers_the_tags_of_the_newest_messages(viewer: Client, queue: Queue) -> None:
    queue(tags={"customer": "acme", "region": "eu"})
    queue(tags={"customer": "bolt ltd", "region": "eu"})

    def offered(q: str) -> list[str]:
        page = viewer.get("/_p/messages/words/", {"q": q}).content.decode()
        return [unescape(text) for text in re.findall(r'data-text="([^"]*)"', page)]

    assert offered("tag:") == ["tag:region=", "tag:customer="]
    assert offered("tag:customer=") == ["tag:customer=acme", "'tag:customer=bolt ltd'"]
    assert offered("Acm") == ["tag:customer=acme"]


def test_the_search_offers_saved_views(viewer: Client, queue: Queue) -> None:
    queue()
    kept(viewer)
    for text, found in (("", True), ("bro", True), ("other", False)):
        page = viewer.get("/_p/messages/words/", {"q": text}).content.decode()
        assert ('data-href="?q=code%3A503&amp;service=billing">Broken' in page) == found
