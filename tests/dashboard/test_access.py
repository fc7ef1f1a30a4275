"""Every address of the console × every role × GET and POST: a page without a rule fails here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import Client
from django.urls import URLPattern, get_resolver

from integrations.models import Account, Role

PUBLIC = {"healthz", "login", "logout", "metrics", "readyz", "setup", "theme"}


def routes() -> Iterator[URLPattern]:
    for pattern in get_resolver().url_patterns:
        if isinstance(pattern, URLPattern):
            yield pattern


def address(pattern: URLPattern) -> str:
    text = str(pattern.pattern)
    for parameter, value in {
        "<slug:name>": "nothing",
        "<path:name>": "nothing",
        "<slug:endpoint>": "nothing",
        "<str:public_id>": "msg_1_00000000",
        "<slug:group>": "retries",
        "<slug:kind>": "png",
        "<str:secret>": "nothing",
        "<str:name>": "csv",
        "<int:pk>": "999",
    }.items():
        text = text.replace(parameter, value)
    assert "<" not in text, f"give {text} an example"
    return f"/{text}"


def test_every_page_has_a_rule() -> None:
    for pattern in routes():
        rule = vars(pattern.callback).get("needed_role", "missing")
        assert rule != "missing", f"{pattern.name} names no role that may open it"
        assert (rule is None) == (pattern.name in PUBLIC), pattern.name


@pytest.mark.any_database
@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("role", [None, *Role])
def test_the_rule_holds_for(role: Role | None, method: str) -> None:
    client = Client()
    if role:
        client.force_login(Account.objects.register("ada", "correct horse battery", role))
    for pattern in routes():
        needed = vars(pattern.callback)["needed_role"]
        if needed is None:
            continue
        answer = getattr(client, method)(address(pattern))
        if role is None:
            assert answer.status_code in (302, 303), pattern.name
            assert "/login/" in answer["Location"]
        elif role.covers(needed):
            # A page that a viewer may read can still require more of the sender of its form.
            assert answer.status_code != 403 or (method == "post" and role == Role.VIEWER), pattern.name
        else:
            # 405 where the address takes no such method anyway
            assert answer.status_code in (403, 405), f"{role} may {method} {pattern.name}: {answer.status_code}"
