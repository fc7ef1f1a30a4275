"""Sessions: what a reader of the database gets, and the pages that end a session."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.sessions.backends import db as plain
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from integrations.models import Account, Role
from tests.support.signed_in import PASSWORD, person

pytestmark = pytest.mark.django_db

COOKIE = settings.SESSION_COOKIE_NAME


def signed_in(account: Account) -> Client:
    client = Client()
    answer = client.post("/login/", {"username": account.username, "password": PASSWORD})
    assert answer.status_code == 302
    return client


def with_cookie(key: str) -> Client:
    client = Client()
    client.cookies[COOKIE] = key
    return client


def key_of(client: Client) -> str:
    return client.cookies[COOKIE].value


def is_signed_in(client: Client) -> bool:
    return client.get("/messages/").status_code == 200


@pytest.fixture
def logged() -> Iterator[list[str]]:
    texts: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield texts
    root.removeHandler(handler)
    root.setLevel(level)


def everything_stored() -> Iterator[str]:
    for model in apps.get_models():
        for row in model._base_manager.values():
            yield repr(row)


def test_a_reader_of_the_database_could_use_a_row_as_a_cookie(logged: list[str]) -> None:
    client = signed_in(person(Role.ADMIN))
    assert is_signed_in(with_cookie(key_of(client)))
    assert client.get("/settings/").status_code == 200
    (row,) = Session.objects.all()
    assert not is_signed_in(with_cookie(row.session_key))
    texts = [*everything_stored(), *logged]
    assert any(row.session_key in text for text in texts)
    assert not any(key_of(client) in text for text in texts)


def test_a_session_of_the_version_before_ends(settings: Any) -> None:
    """Its key stands in older backups."""
    store = plain.SessionStore()
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.db"
    client = signed_in(person(Role.VIEWER))
    assert Session.objects.get().session_key == key_of(client)
    settings.SESSION_ENGINE = "dashboard.hashed_sessions"
    assert not is_signed_in(with_cookie(key_of(client)))
    assert store.exists(key_of(client)), "it stays until it expires, and is of no use"


def test_signing_out_and_in_again_leaves_one_session() -> None:
    account = person(Role.VIEWER)
    client = signed_in(account)
    first = key_of(client)
    client.post("/logout/")
    assert not Session.objects.exists()
    assert not is_signed_in(with_cookie(first))
    client.post("/login/", {"username": account.username, "password": PASSWORD})
    assert is_signed_in(client)
    assert key_of(client) != first
    assert Session.objects.count() == 1


def test_a_key_that_somebody_else_chose_is_not_taken() -> None:
    account = person(Role.VIEWER)
    client = with_cookie("a" * 32)
    client.post("/login/", {"username": account.username, "password": PASSWORD})
    assert is_signed_in(client)
    assert key_of(client) != "a" * 32
    assert not is_signed_in(with_cookie("a" * 32))


def test_the_pages_that_end_sessions_end_them() -> None:
    account, other = person(Role.ADMIN), person(Role.VIEWER)
    here, elsewhere, theirs = signed_in(account), signed_in(account), signed_in(other)
    new = "another-horse-battery-9"
    changed = here.post("/settings/password/", {"old_password": PASSWORD, "new_password1": new, "new_password2": new})
    assert changed.status_code == 303
    assert (is_signed_in(here), is_signed_in(elsewhere), is_signed_in(theirs)) == (True, False, True)
    deactivated = here.post(f"/settings/people/{other.pk}/edit/", {"role": "viewer", "is_active": "off"})
    assert deactivated.status_code == 303
    assert (is_signed_in(here), is_signed_in(theirs)) == (True, False)


def test_an_admins_session_ends_a_day_after_the_sign_in() -> None:
    admin, viewer = person(Role.ADMIN), person(Role.VIEWER)
    for account, age in ((admin, timedelta(hours=24)), (viewer, timedelta(days=14))):
        Session.objects.all().delete()
        client = signed_in(account)
        assert client.cookies[COOKIE]["max-age"] == pytest.approx(age.total_seconds(), abs=60)
        assert Session.objects.get().expire_date - timezone.now() == pytest.approx(age, abs=timedelta(minutes=1))
    begun = timezone.now()
    client = signed_in(admin)
    ends = Session.objects.order_by("expire_date")[0].expire_date
    new = "another-horse-battery-9"
    client.post("/settings/password/", {"old_password": PASSWORD, "new_password1": new, "new_password2": new})
    assert Session.objects.order_by("expire_date")[0].expire_date == ends < begun + timedelta(hours=24, minutes=1)


def test_expired_sessions_stayed_for_ever() -> None:
    account = person(Role.VIEWER)
    expired = signed_in(account)
    Session.objects.update(expire_date=timezone.now() - timedelta(seconds=1))
    assert not is_signed_in(expired)
    signed_in(account)
    assert Session.objects.count() == 1
