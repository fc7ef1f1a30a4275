from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from integrations.api import api
from integrations.api.responses import AuditPage, IssuedTokenOut, TokenPage
from integrations.models import Account, AuditEntry, Role, Service, Token
from tests.support.calling import Api, is_problem

ADMIN_ONLY = {"delete_service", "list_tokens", "issue_token", "revoke_token", "list_audit"} | {
    "get_retention",
    "change_retention",
    "get_backups",
    "change_backups",
}


def operations() -> list[tuple[str, str, Role]]:
    """Every call of the API and the role that docs/contract.md names."""
    found = []
    for path, methods in api.get_openapi_schema()["paths"].items():
        for method, operation in methods.items():
            if operation["operationId"] in ADMIN_ONLY:
                needed = Role.ADMIN
            else:
                needed = Role.VIEWER if method == "get" else Role.OPERATOR
            found.append(
                (method.upper(), re.sub(r"\{[^}]*id\}", "999", re.sub(r"\{(name|endpoint)\}", "x", path)), needed)
            )
    return found


def test_every_call_asks_for_its_role(viewer: Api, operator: Api, admin: Api) -> None:
    assert len(operations()) > 20
    for method, path, needed in operations():
        is_problem(Client().generic(method, path), 401)
        for caller in (viewer, operator, admin):
            answer = caller.call(method, path, b"{" if method != "GET" else b"")
            if Role(caller.token.role).covers(needed):
                assert answer.status_code != 403, (method, path, caller.token.role)
            else:
                assert needed in is_problem(answer, 403)["detail"]


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer", "Basic dTpw", "", "Bearer sbt_\xff"])
@pytest.mark.django_db
def test_without_a_valid_token_nothing_is_answered(header: str) -> None:
    answer = Client().get("/api/v1/services", headers={"Authorization": header})
    is_problem(answer, 401)
    assert answer["WWW-Authenticate"].startswith("Bearer ")


def test_an_expired_token_is_not_valid(viewer: Api) -> None:
    Token.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert 'error="invalid_token"' in viewer.get("/services")["WWW-Authenticate"]


def test_a_use_is_remembered(viewer: Api) -> None:
    viewer.get("/services")
    viewer.token.refresh_from_db()
    assert viewer.token.last_used_at is not None


def test_a_person_may_read_with_the_session_of_the_same_origin_only(billing: Service) -> None:
    person = Account.objects.register("ada", "a long password", Role.OPERATOR)
    browser = Client()
    browser.force_login(person, "django.contrib.auth.backends.ModelBackend")
    assert browser.get("/api/v1/services").status_code == 200
    assert browser.get("/api/v1/services", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    is_problem(browser.get("/api/v1/services", headers={"Sec-Fetch-Site": "cross-site"}), 401)
    is_problem(browser.get("/api/v1/services", headers={"Authorization": "Bearer wrong"}), 401)
    is_problem(browser.get("/api/v1/audit"), 403)
    is_problem(browser.post("/api/v1/services/billing/pause", {"reason": "x"}, "application/json"), 401)
    Account.objects.update(is_active=False)
    is_problem(browser.get("/api/v1/services"), 401)


def test_a_token_has_a_rate_of_its_own(
    viewer: Api, operator: Api, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.TOKEN_RATE = 3
    monkeypatch.setattr("integrations.api.auth.time.monotonic", lambda: 1000.0)
    assert [viewer.get("/services").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert operator.get("/services").status_code == 200
    answer = viewer.get("/services")
    is_problem(answer, 429)
    assert answer["Retry-After"] == "1"
    monkeypatch.setattr("integrations.api.auth.time.monotonic", lambda: 1000.5)
    assert [viewer.get("/services").status_code for _ in range(2)] == [200, 429]


# ---- tokens and audit ---------------------------------------------------------------------------------------------
def test_a_token_is_shown_once_and_ends_at_once(admin: Api) -> None:
    made = admin.post("/tokens", {"name": "deploy", "role": "viewer", "expires_in": 3600})
    assert made.status_code == 201
    issued = IssuedTokenOut.model_validate_json(made.content)
    assert made["Location"] == f"/api/v1/tokens/{issued.id}"
    assert made["Cache-Control"] == "no-store"
    holder = Api(Token.objects.get(pk=issued.id), issued.token)
    assert holder.get("/services").status_code == 200
    listed = admin.get("/tokens")
    TokenPage.model_validate_json(listed.content)
    assert issued.token.encode() not in listed.content
    assert issued.token.encode() not in admin.get("/audit").content
    assert admin.delete(made["Location"]).status_code == 204
    is_problem(holder.get("/services"), 401)
    is_problem(admin.delete(made["Location"]), 404)


@pytest.mark.parametrize(("sent", "days"), [({}, 365), ({"expires_in": 86_400}, 1), ({"expires_in": None}, None)])
def test_a_token_expires_after_a_year_unless_its_creator_says_otherwise(
    admin: Api, sent: dict[str, Any], days: int | None
) -> None:
    made = admin.post("/tokens", {"name": "deploy", "role": "viewer", **sent})
    expires_at = Token.objects.get(pk=made.json()["id"]).expires_at
    assert (made.json()["expires_at"] is None) == (expires_at is None) == (days is None)
    assert days is None or abs(expires_at - timezone.now() - timedelta(days=days)) < timedelta(minutes=1)


def test_a_token_that_is_revoked_during_its_request_creates_no_token(
    admin: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = Account.objects.select_for_update

    def revoked_before_the_lock() -> Any:
        Token.objects.all().delete()
        return locked()

    monkeypatch.setattr(Account.objects, "select_for_update", revoked_before_the_lock)
    is_problem(admin.post("/tokens", {"name": "deploy", "role": "admin"}), 401)
    assert not Token.objects.filter(name="deploy").exists()


@pytest.mark.parametrize("body", [{"role": "viewer"}, {"name": "", "role": "viewer"}, {"name": "a", "role": "root"},
                                  {"name": "a", "role": "viewer", "expires_in": -1}])  # fmt: skip
def test_a_token_needs_a_name_and_a_role(admin: Api, body: dict[str, Any]) -> None:
    is_problem(admin.post("/tokens", body), 422)


def test_the_audit_says_who_did_what_and_why(admin: Api, operator: Api, billing: Service) -> None:
    operator.post("/services/billing/pause", {"reason": "their release"})
    answer = admin.get("/audit?action=service.paused&target=billing&actor=token a-operator")
    AuditPage.model_validate_json(answer.content)
    (entry,) = answer.json()["items"]
    assert (entry["actor"], entry["target"], entry["reason"]) == ("token a-operator", "billing", "their release")
    assert len(admin.get("/audit?limit=1").json()["items"]) == 1
    assert AuditEntry.objects.count() == 2
