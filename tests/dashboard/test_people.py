"""Signing in, the first account, people and tokens in the browser."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test import Client
from django.utils import timezone

from integrations.models import Account, AuditEntry, Role, SetupLink, Token
from tests.support.calling import Api
from tests.support.signed_in import PASSWORD, browser, person, words

pytestmark = pytest.mark.django_db


# ---- signing in ---------------------------------------------------------------------------------------------------
def test_who_is_not_signed_in_is_sent_to_the_login_page_and_back() -> None:
    person(Role.VIEWER, "vera")
    visitor = Client()
    asked = visitor.get("/services/")
    assert asked["Location"] == "/login/?next=/services/"

    answer = visitor.post(asked["Location"], {"username": "vera", "password": PASSWORD, "next": "/services/"})
    assert answer["Location"] == "/services/"


def test_a_wrong_password_is_said_in_words_and_keeps_the_name() -> None:
    person(Role.VIEWER, "vera")
    answer = Client().post("/login/", {"username": "vera", "password": "wrong"})
    assert answer.status_code == 422
    assert "Wrong username or password" in words(answer)
    assert 'value="vera"' in answer.content.decode()


def test_signing_in_never_leads_to_another_site() -> None:
    person(Role.VIEWER, "vera")
    answer = Client().post(
        "/login/?next=https://evil.example/",
        {"username": "vera", "password": PASSWORD, "next": "https://evil.example/"},
    )
    assert answer["Location"] == "/"


def test_after_too_many_tries_the_right_password_is_refused_for_a_while() -> None:
    person(Role.VIEWER, "vera")
    visitor = Client()
    for _ in range(settings.AXES_FAILURE_LIMIT):
        visitor.post("/login/", {"username": "vera", "password": "wrong"})
    answer = visitor.post("/login/", {"username": "vera", "password": PASSWORD})
    assert answer.status_code == 429
    assert "Too many attempts" in words(answer)


def test_signing_out_takes_a_post() -> None:
    client = browser(Role.VIEWER)
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/")["Location"].startswith("/login/")


def test_a_shut_out_person_is_signed_out_at_once() -> None:
    client = browser(Role.OPERATOR, "otto")
    Account.objects.filter(username="otto").update(is_active=False)
    assert client.get("/")["Location"].startswith("/login/")


# ---- the first account --------------------------------------------------------------------------------------------
def test_the_set_up_link_makes_the_first_admin_and_signs_them_in() -> None:
    secret = SetupLink.objects.open()
    client = Client()
    assert client.get(f"/setup/{secret}/").status_code == 200

    answer = client.post(f"/setup/{secret}/", {"username": "anna", "password": PASSWORD})
    assert answer.status_code == 303
    assert client.get("/settings/").status_code == 200
    assert Account.objects.get().role == Role.ADMIN
    assert AuditEntry.objects.get(action="person.created").actor == "person anna"


def test_the_set_up_link_works_once() -> None:
    secret = SetupLink.objects.open()
    Client().post(f"/setup/{secret}/", {"username": "anna", "password": PASSWORD})
    answer = Client().post(f"/setup/{secret}/", {"username": "mallory", "password": PASSWORD})
    assert answer.status_code == 404
    assert "no longer works" in words(answer)
    assert list(Account.objects.values_list("username", flat=True)) == ["anna"]


def test_an_old_or_wrong_set_up_link_makes_nobody() -> None:
    secret = SetupLink.objects.open()
    SetupLink.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    for link in (secret, "guessed"):
        answer = Client().post(f"/setup/{link}/", {"username": "anna", "password": PASSWORD})
        assert answer.status_code == 404
    assert not Account.objects.exists()


def test_a_weak_first_password_is_refused_and_the_link_stays_good() -> None:
    secret = SetupLink.objects.open()
    answer = Client().post(f"/setup/{secret}/", {"username": "anna", "password": "1234567890"})
    assert answer.status_code == 422
    assert "entirely numeric" in words(answer)
    assert SetupLink.objects.valid(secret or "")


# ---- people -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
@pytest.mark.parametrize("path", ["/settings/", "/settings/people/new/", "/settings/tokens/new/"])
def test_settings_are_for_admins(role: Role, path: str) -> None:
    answer = browser(role).get(path)
    assert answer.status_code == 403
    assert "needs the admin role" in words(answer)


def test_an_admin_adds_somebody_who_can_sign_in() -> None:
    answer = browser(Role.ADMIN).post(
        "/settings/people/new/", {"username": "otto", "role": "operator", "password": PASSWORD}
    )
    assert answer.status_code == 303
    assert Client().post("/login/", {"username": "otto", "password": PASSWORD})["Location"] == "/"
    entry = AuditEntry.objects.get(action="person.created")
    assert (entry.target, entry.after) == ("otto", {"role": "operator"})


def test_a_name_that_is_taken_is_refused_beside_the_field() -> None:
    person(Role.VIEWER, "otto")
    answer = browser(Role.ADMIN).post(
        "/settings/people/new/", {"username": "Otto", "role": "viewer", "password": PASSWORD}
    )
    assert answer.status_code == 422
    assert 'id="id_username_error"' in answer.content.decode()


def test_the_last_admin_cannot_be_removed() -> None:
    client = browser(Role.ADMIN, "anna")
    anna = Account.objects.get()
    for change in ({"role": "viewer"}, {"role": "admin", "is_active": "off"}):
        answer = client.post(f"/settings/people/{anna.pk}/edit/", change)
        assert answer.status_code == 422
        assert "anna is the last active admin" in words(answer)
    anna.refresh_from_db()
    assert anna.may(Role.ADMIN)


def test_an_admin_can_go_when_there_is_another() -> None:
    client = browser(Role.ADMIN, "anna")
    other = person(Role.ADMIN, "bert")
    assert client.post(f"/settings/people/{other.pk}/edit/", {"role": "viewer", "is_active": "off"}).status_code == 303
    other.refresh_from_db()
    assert (other.role, other.is_active) == ("viewer", False)
    entry = AuditEntry.objects.get(action="person.changed")
    assert entry.before == {"role": "admin", "is_active": True}


def test_a_reset_password_ends_the_sessions_of_its_owner() -> None:
    theirs = browser(Role.VIEWER, "vera")
    vera = Account.objects.get()
    browser(Role.ADMIN, "anna").post(
        f"/settings/people/{vera.pk}/edit/", {"role": "viewer", "is_active": "on", "password": "another-long-word-7"}
    )
    assert theirs.get("/")["Location"].startswith("/login/")
    assert "another-long-word-7" not in str(AuditEntry.objects.values_list("before", "after"))


def test_everybody_changes_their_own_password_and_stays_signed_in() -> None:
    client = browser(Role.VIEWER, "vera")
    new = "another-long-word-7"
    answer = client.post("/settings/password/", {"old_password": PASSWORD, "new_password1": new, "new_password2": new})
    assert answer.status_code == 303
    assert client.get("/settings/password/").status_code == 200
    assert Account.objects.get().check_password(new)


# ---- tokens -------------------------------------------------------------------------------------------------------
def test_a_new_token_is_shown_once_and_works() -> None:
    client = browser(Role.ADMIN)
    answer = client.post("/settings/tokens/new/", {"name": "backend", "role": "operator", "expires": "30d"})
    secret = re.search(r"sbt_[\w-]+", answer.content.decode())
    assert secret is not None
    token = Token.objects.holding(secret[0])
    assert token is not None
    assert token.role == "operator"
    assert token.expires_at is not None
    assert "no-store" in answer["Cache-Control"]
    assert secret[0] not in client.get("/settings/").content.decode()
    assert secret[0] not in str(dict(client.session))


def test_a_deleted_token_is_refused_from_then_on() -> None:
    token, secret = Token.objects.issue("backend", Role.VIEWER)
    client = browser(Role.ADMIN)
    assert client.get(f"/settings/tokens/{token.pk}/delete/").status_code == 405
    assert client.post(f"/settings/tokens/{token.pk}/delete/").status_code == 303
    assert Token.objects.holding(secret) is None
    assert AuditEntry.objects.get(action="token.deleted").target == "backend"


def test_names_of_people_and_tokens_are_shown_as_text() -> None:
    Token.objects.issue("<script>alert(1)</script>", Role.VIEWER)
    page = browser(Role.ADMIN).get("/settings/").content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def a_token(role: Role, by: Account | None) -> str:
    return Token.objects.issue(f"{role}-token", role, by=by)[1]


def test_a_deactivated_admins_tokens_end_also_those_that_they_created_with_a_token() -> None:
    client, leaving = browser(Role.ADMIN, "anna"), person(Role.ADMIN, "bert")
    theirs = Api(*Token.objects.issue("first", Role.ADMIN, by=leaving))
    made = theirs.post("/tokens", {"name": "second", "role": "viewer"})
    child = Api(Token.objects.get(name="second"), made.json()["token"])
    assert made.json()["created_by"] == "bert"
    of_another = a_token(Role.ADMIN, Account.objects.get(username="anna"))
    assert (
        "deletes the 2 API tokens they created" in client.get(f"/settings/people/{leaving.pk}/edit/").content.decode()
    )

    client.post(f"/settings/people/{leaving.pk}/edit/", {"role": "admin", "is_active": "off"})

    assert [api.get("/services").status_code for api in (theirs, child)] == [401, 401]
    assert Token.objects.holding(of_another) is not None
    told = client.get("/settings/").content.decode()
    assert "Deleted the API tokens created by this account that had more rights: second, first." in told
    ended = AuditEntry.objects.filter(action="token.deleted").values_list("target", "reason", "actor")
    assert set(ended) == {(name, "bert was deactivated", "person anna") for name in ("first", "second")}
    assert AuditEntry.objects.get(action="person.changed").after["tokens_deleted"] == ["second", "first"]


def test_a_demoted_admin_keeps_the_tokens_that_fit_the_new_role() -> None:
    client, demoted = browser(Role.ADMIN, "anna"), person(Role.ADMIN, "bert")
    secrets = {role: a_token(role, demoted) for role in Role}
    client.post(f"/settings/people/{demoted.pk}/edit/", {"role": "operator", "is_active": "on"})
    living = [role for role, secret in secrets.items() if Token.objects.holding(secret)]
    assert living == [Role.VIEWER, Role.OPERATOR]


def test_an_admin_who_was_deactivated_a_moment_ago_creates_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    client = browser(Role.ADMIN, "anna")
    locked = Account.objects.select_for_update

    def deactivated_before_the_lock() -> Any:
        Account.objects.update(is_active=False)
        return locked()

    monkeypatch.setattr(Account.objects, "select_for_update", deactivated_before_the_lock)
    refused = client.post("/settings/tokens/new/", {"name": "backend", "role": "admin", "expires": "30d"})
    assert (refused.status_code, Token.objects.count()) == (403, 0)


@pytest.mark.parametrize(("sent", "days"), [({}, 365), ({"expires": "1d"}, 1), ({"expires": ""}, None)])
def test_a_token_of_the_form_expires_unless_the_admin_chooses_never(sent: dict[str, str], days: int | None) -> None:
    browser(Role.ADMIN).post("/settings/tokens/new/", {"name": "backend", "role": "operator", **sent})
    expires_at = Token.objects.get().expires_at
    assert expires_at is None if days is None else expires_at is not None
    assert days is None or abs(expires_at - timezone.now() - timedelta(days=days)) < timedelta(minutes=1)


@pytest.mark.django_db(transaction=True)
def test_of_two_who_use_the_set_up_link_at_once_one_becomes_admin() -> None:
    secret = SetupLink.objects.open()
    start = Barrier(2)

    def use(name: str) -> int:
        try:
            client = Client()
            client.get(f"/setup/{secret}/")
            start.wait(10)
            return client.post(f"/setup/{secret}/", {"username": name, "password": PASSWORD}).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(use, ("anna", "bert")))
    assert answers == [303, 404]
    assert Account.objects.count() == 1


def test_signing_in_failing_to_and_signing_out_are_in_the_audit() -> None:
    person(Role.VIEWER, "vera")
    visitor = Client()
    visitor.post("/login/", {"username": "vera", "password": "wrong"})
    visitor.post("/login/", {"username": "vera", "password": PASSWORD})
    visitor.post("/logout/")
    visitor.post("/logout/")
    entries = AuditEntry.objects.filter(target="vera").order_by("pk").values_list("actor", "action")
    assert list(entries) == [
        ("anonymous", "person.sign_in_failed"),
        ("person vera", "person.signed_in"),
        ("person vera", "person.signed_out"),
    ]
    for number in range(3 * settings.AXES_FAILURE_LIMIT):
        Client().post("/login/", {"username": "vera", "password": f"wrong {number}"})
    assert AuditEntry.objects.filter(action="person.sign_in_failed").count() <= settings.AXES_FAILURE_LIMIT + 1


def test_a_form_without_the_field_shuts_nobody_out() -> None:
    other = person(Role.VIEWER, "otto")
    browser(Role.ADMIN, "anna").post(f"/settings/people/{other.pk}/edit/", {"role": "operator"})
    other.refresh_from_db()
    assert (other.role, other.is_active) == ("operator", True)


def test_a_name_taken_at_the_same_moment_is_refused_beside_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = browser(Role.ADMIN, "anna")
    person(Role.VIEWER, "otto")
    monkeypatch.setattr("dashboard.forms.people.PersonForm.clean_username", lambda form: form.cleaned_data["username"])
    answer = admin.post("/settings/people/new/", {"username": "otto", "role": "viewer", "password": PASSWORD})
    assert answer.status_code == 422
    assert 'id="id_username_error"' in answer.content.decode()


# ---- the theme ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("came_from", "leads_to"), [("/login/?next=/services/", "/login/?next=/services/"), ("https://evil.example/", "/")]
)
def test_a_theme_is_kept_by_the_browser_and_leads_back_to_the_console_only(came_from: str, leads_to: str) -> None:
    visitor = Client()
    answer = visitor.post("/theme/", {"theme": "dark", "next": came_from})
    assert (answer.status_code, answer["Location"]) == (303, leads_to)
    assert 'data-theme="dark"' in visitor.get("/login/").content.decode()
    visitor.post("/theme/", {"theme": ""})
    assert "data-theme" not in visitor.get("/login/").content.decode()


def test_a_theme_that_no_one_has_drawn_is_the_system_s() -> None:
    visitor = Client()
    visitor.cookies["switchboard_theme"] = '"><b>'
    assert "data-theme" not in visitor.get("/login/").content.decode()
