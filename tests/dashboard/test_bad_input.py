"""The worst that can be shown and sent, at every address of the console: words, never a 500, never live markup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
from django.core import signing
from django.db import transaction
from django.test import Client
from django.urls import URLPattern
from django.utils import timezone

from integrations.delivery import failure_groups
from integrations.models import (
    Account,
    Attempt,
    AuditEntry,
    Draft,
    Endpoint,
    Failure,
    Message,
    Role,
    SavedView,
    Service,
    Token,
    Trigger,
)
from integrations.models.operation import Kind
from integrations.operators import bulk_operations
from integrations.registration import endpoints
from integrations.schemas.service import EndpointIn
from tests.dashboard.test_access import routes
from tests.support.calling import Answered
from tests.support.signed_in import a_service, browser

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

SPITE = (
    """"'><x-spite onload=alert(1)></script></textarea></title></pre>--><a href=javascript:x>{{ 7 }}{% x %}🦄\u202e"""
)
IN_A_PATH = "/%22%27%3E<x-spite>"
MEGABYTE = 1024 * 1024


@dataclass
class World:
    """One object for each page, with the worst text that it can hold, and the signed-in browser."""

    admin: Client
    ids: dict[str, str] = field(default_factory=dict)

    def addresses(self) -> Iterator[tuple[str, str]]:
        """Every page by its name, but for those that an address alone does not show."""
        for pattern in routes():
            if pattern.name not in ("logout", "setup", "docs-picture", "_start"):
                yield str(pattern.name), self.address(pattern)

    def address(self, pattern: URLPattern) -> str:
        thing = str(pattern.name).strip("_").partition("-")[0]
        if pattern.name == "lab-result":
            thing = "lab"
        text = str(pattern.pattern).replace("<slug:name>", "billing").replace("<slug:endpoint>", "invoices")
        text = text.replace("<str:name>", "csv").replace("<slug:group>", "retries")
        text = text.replace("<path:name>", "start")
        for parameter in ("<str:public_id>", "<int:pk>"):
            if parameter in text:
                text = text.replace(parameter, self.ids["call" if pattern.name == "service-call" else thing])
        return f"/{text}"


@pytest.fixture
def world() -> World:
    service = a_service(description=SPITE, owner=SPITE[:100], tags=[SPITE[:80], "🦄"], headers={"X-Spite": "<x-spite>"})
    endpoint = endpoints.save(
        service, EndpointIn(name="invoices", path=IN_A_PATH, description=SPITE, body=SPITE), actor=SPITE[:100]
    )
    body = b'{"spite": "' + SPITE.replace('"', "'").encode() + b'"}'
    draft = Draft(service, "POST", IN_A_PATH, body, "application/json", endpoint, {"q": SPITE}, {"X-Spite": SPITE},
                  ordering_key=SPITE[:100], tags={SPITE[:60]: SPITE})  # fmt: skip
    message = Message.objects.accept([draft])[0]
    now = timezone.now()
    Message.objects.filter(pk=message.pk).update(
        status="dead", dead_reason="attempts", last_detail=SPITE, finished_at=now, due_at=None
    )
    calls = {
        trigger: a_call(service, endpoint, message, trigger)
        for trigger in (Trigger.FIRST, Trigger.LAB, Trigger.PROCESS)
    }
    group = a_group(calls[Trigger.FIRST])
    operation = bulk_operations.plan(Kind.REPLAY, "status:dead", by=f"person {SPITE}", reason=SPITE, dry_run=True)
    while bulk_operations.step(operation.pk):
        pass
    change = AuditEntry.objects.record(f"person {SPITE}", "service.changed", service.name, before={"owner": SPITE[:90]})
    admin = browser(Role.ADMIN, name="ada")
    ada = Account.objects.get(username="ada")
    token, _ = Token.objects.issue(SPITE[:60], Role.VIEWER)
    view = SavedView.objects.create(account=ada, name=SPITE[:60], query=urlencode({"q": SPITE}), shared=True)
    return World(
        admin,
        {
            "message": message.public_id,
            "attempt": calls[Trigger.FIRST].public_id,
            "lab": calls[Trigger.LAB].public_id,
            "call": calls[Trigger.PROCESS].public_id,
            "failure": group.public_id,
            "operation": operation.public_id,
            "person": str(ada.pk),
            "token": str(token.pk),
            "view": str(view.pk),
            "service": str(change.pk),
        },
    )


def a_call(service: Service, endpoint: Endpoint, message: Message, trigger: str) -> Attempt:
    """It failed with one line of a megabyte."""
    line = SPITE.encode() + b"x" * MEGABYTE
    return Attempt.objects.create(
        message=message if trigger == Trigger.FIRST else None,
        service=service,
        endpoint=endpoint,
        trigger=trigger,
        actor=f"person {SPITE}",
        started_at=timezone.now(),
        duration=0.1,
        outcome="failed",
        fault="status",
        status_code=500,
        detail=SPITE,
        method="POST",
        url=f"https://api.example.com{IN_A_PATH}?{SPITE}",
        request_headers=[["X-Spite", SPITE], [SPITE, ""]],
        request_body=line,
        request_size=len(line),
        response_headers=[["Content-Type", f"text/html; charset={SPITE}"], [SPITE, SPITE]],
        response_body=line,
        response_size=len(line),
    )


def a_group(call: Attempt) -> Failure:
    names = ("id", "message_id", "service_id", "endpoint_id", "outcome", "fault", "status_code", "detail", "timings")
    facts = {name: getattr(call, name) for name in (*names, "started_at")}
    group = failure_groups.record([facts | {"response_body": SPITE.encode()}], [None], timezone.now())[call.pk]
    Failure.objects.filter(pk=group).update(note=SPITE, assignee=SPITE[:100])
    Message.objects.filter(pk=call.message_id).update(failure=group)
    return Failure.objects.get(pk=group)


# ---- shown text --------------------------------------------------------------------------------------------------
class Markup(HTMLParser):
    """Finds what a browser would take for markup of the spiteful text, and the forms of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.live: list[str] = []
        self.forms: list[tuple[str, dict[str, str]]] = []
        self._fields: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag.startswith("x-") or any(name.startswith(("on", "x-")) for name in given):
            self.live.append(self.get_starttag_text() or tag)
        if any(given.get(name, "").strip().lower().startswith("javascript:") for name in ("href", "src", "action")):
            self.live.append(self.get_starttag_text() or tag)
        if tag == "form":
            self._fields = {}
            if given.get("method", "").lower() == "post":
                self.forms.append((given.get("action", ""), self._fields))
        elif (name := given.get("name")) and tag in ("input", "select", "textarea", "button"):
            self._fields.setdefault(name, given.get("value", ""))


def read(answer: Answered) -> str:
    return (b"".join(answer) if answer.streaming else answer.content).decode()


def test_spite_is_text_on_every_page(world: World) -> None:
    shown = set()
    for name, address in world.addresses():
        answer = world.admin.get(address)
        assert answer.status_code < 400 or answer.status_code == 405, (name, answer.status_code)
        page = read(answer)
        if answer["Content-Type"].startswith("text/html"):
            assert not Markup(page).live, name
            # The lab has the whole request of a call in its form, to be sent again.
            in_a_form = len(SPITE) + MEGABYTE if name == "lab-result" else 0
            assert len(page) < 400_000 + in_a_form, f"{name} is {len(page)} long"
        if "&lt;x-spite" in page:
            shown.add(name)
    assert shown >= {
        "audit", "failure", "failures", "lab", "lab-result", "message", "message-replay", "messages", "operation",
        "operations", "service", "service-call", "service-edit", "settings", "endpoint-edit",
    }, shown  # fmt: skip


# ---- query strings -----------------------------------------------------------------------------------------------
NAMES = (
    "q",
    "service",
    "endpoint",
    "message",
    "attempt",
    "method",
    "target",
    "actor",
    "action",
    "view",
    "cursor",
    "next",
)
BEYOND = signing.Signer(salt="switchboard.cursor").sign("older." + "9" * 30)
QUESTIONS = {
    "spite": dict.fromkeys(NAMES, SPITE),
    "20,000 characters": dict.fromkeys(NAMES, "x" * 20_000),
    "other kinds": dict.fromkeys(("service", "status", "state", "outcome", "trigger", "view", "part", "kind"), "🦄")
    | {"cursor": "x:y", "first": "9" * 5000, "rows": "1-x--9" + "9" * 5000, "before": "-1", "status_code": "1e999"}
    | {"created_after": "2026-02-31T25:61", "created_before": "9999999-01-01T00:00:00Z"},
    "far ends": {"cursor": BEYOND, "before": "9" * 400, "first": "²", "status_code": "9" * 400}
    | {"created_after": "0001-01-01T00:00", "created_before": "9999-12-31T23:59"},
    "no text": "q=%ff%fe&service=%ed%a0%80&cursor=&cursor=%ff&target=%ff&%5B%5D=%5B&&&=&;&view[]=%25s%n",
}
SEARCHES = {
    "statsu:dead": "statsu",
    "status:dying": "status",
    "code:" + "9" * 200: "code",
    "code:abc..def": "code",
    "older:" + "9" * 30 + "d": "older",
    "older:-1h": "older",
    "body" + ".a" * 120 + ":1": "body",
    "body...:1": "body",
    "id:op_1_00000000,x": "id",
    "failure:🦄": "failure",
    SPITE: "",
    "tag:[0]=1 tag:a.b=": "",
    "a " * 2000: "characters",
    '"unclosed service:billing': "",
    "- -- -: :-": "",
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_an_absurd_question_gets_words(world: World, question: dict[str, str] | str) -> None:
    query = question if isinstance(question, str) else urlencode(question)
    for name, address in world.addresses():
        answered_in_words(world.admin.get(f"{address}?{query}"), name)


def test_a_search_that_cannot_be_read_is_answered_in_words(world: World) -> None:
    for search, word in SEARCHES.items():
        assert word in answered_in_words(world.admin.get("/messages/", {"q": search}), search)
        assert word in answered_in_words(world.admin.get("/messages/export.csv", {"q": search}), search)
        answered_in_words(world.admin.get("/_p/messages/", {"q": search}), search)
        answered_in_words(world.admin.get("/_p/messages/words/", {"q": search}), search)
        answered_in_words(world.admin.post("/operations/new/", {"kind": "cancel", "all": "1", "q": search}), search)


def answered_in_words(answer: Answered, what: str) -> str:
    """The response: no fault of ours, and no refusal without a reason."""
    page = read(answer)
    assert answer.status_code < 500, what
    assert page or answer.status_code < 400 or answer.status_code == 405, what
    if answer["Content-Type"].startswith("text/html"):
        assert not Markup(page).live, what
    return page


# ---- sent forms --------------------------------------------------------------------------------------------------
VALUES = {
    "NUL": "a\0b",
    "digits without end": "9" * 5000,
    "brackets without end": "[" * 20_000,
    "spite": SPITE,
    "nothing": "",
    "infinity": "1e999",
    "a negative": "-1",
    "no number": "NaN",
    "JSON of no numbers": '{"a": [NaN, 1e999]}',
    "half a pair": "\ud800",
}


@pytest.fixture
def forms(world: World) -> dict[str, dict[str, str]]:
    """The fields of every form as it stands on a page, by the address that it is sent to."""
    found: dict[str, dict[str, str]] = {}
    for _, address in world.addresses():
        for action, fields in Markup(read(world.admin.get(address, {"all": ""}))).forms:
            found.setdefault(urlsplit(urljoin(address, action)).path, {}).update(fields)
    del found["/logout/"]
    assert sum(map(len, found.values())) > 150
    return found


def test_a_form_of_bad_values_is_refused_in_words(world: World, forms: dict[str, dict[str, str]]) -> None:
    for value in VALUES.values():
        for address, fields in forms.items():
            sent(world, address, dict.fromkeys(fields, value))


def test_no_address_needs_what_its_form_would_send(world: World) -> None:
    for _, address in world.addresses():
        sent(world, address, {})


def test_a_nul_in_a_form_is_refused_on_both_databases(world: World, forms: dict[str, dict[str, str]]) -> None:
    for address, fields in forms.items():
        answer = world.admin.post(address, fields | {"spite": "a\0b"})
        assert (answer.status_code, "NUL character" in read(answer)) == (400, True), address


@pytest.mark.long
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_one_bad_value_in_a_form_is_refused_in_words(
    world: World, forms: dict[str, dict[str, str]], value: str
) -> None:
    for address, fields in forms.items():
        for name in fields:
            sent(world, address, fields | {name: value})


def sent(world: World, address: str, fields: dict[str, str]) -> None:
    """Sends a form, and takes back whatever it did."""
    cookies = SimpleCookie(world.admin.cookies.output(header="", sep=";"))
    with transaction.atomic():
        body = urlencode(fields, encoding="utf-8", errors="surrogatepass")
        answer = world.admin.post(address, body, "application/x-www-form-urlencoded")
        answered_in_words(answer, f"{address} {str(fields)[:300]}")
        transaction.set_rollback(True)
    world.admin.cookies = cookies  # another password makes another session
