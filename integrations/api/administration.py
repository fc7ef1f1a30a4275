"""Tokens, the audit log, the retention of history and backups, for admins only."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from ninja import Query, Router
from pydantic import Field, StringConstraints

from integrations.api.auth import admin, caller
from integrations.api.json_io import api_path, json_response, no_content
from integrations.api.pagination import LIMIT, Cursor, Limit, list_json, page
from integrations.api.problems import CHALLENGE, Problem
from integrations.api.responses import AuditPage, BackupsOut, IssuedTokenOut, RetentionOut, TokenPage
from integrations.history import retention
from integrations.models import Account, AuditEntry, BackupSchedule, Retention, Role, Token, database_now
from integrations.operators import backup_schedule
from integrations.schemas.actions import BackupsIn, RetentionIn
from integrations.schemas.fields import StrictModel

router = Router(tags=["Administration"], auth=admin)

TEN_YEARS = 10 * 366 * 86_400.0
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class TokenIn(StrictModel):
    """A token to create."""

    name: Name = Field(description="Program that will use the token; shown in the audit log.")
    role: Role = Field(description="Role of the token: viewer reads, operator acts on traffic, admin also administers.")
    expires_in: float | None = Field(
        Token.objects.DEFAULT_LIFETIME.total_seconds(),
        ge=1,
        le=TEN_YEARS,
        description="Lifetime in seconds; default one year. null: the token does not expire.",
    )


@router.get("/tokens", response=TokenPage)
def list_tokens(request: HttpRequest, limit: Limit = LIMIT, cursor: Cursor = None) -> HttpResponse:
    """List all tokens, including expired ones. The secrets are not shown."""
    rows, next_cursor = page(Token.objects.select_related("created_by"), "tokens", limit, cursor)
    return json_response(list_json([token_json(token) for token in rows], next_cursor))


@router.post("/tokens", response={201: IssuedTokenOut})
def issue_token(request: HttpRequest, data: TokenIn) -> HttpResponse:
    """Create a token. Its secret is returned only here."""
    lifetime = None if data.expires_in is None else timedelta(seconds=data.expires_in)
    with transaction.atomic():
        token, secret = Token.objects.issue(data.name, data.role, lifetime, by=_creator(request))
        facts = {"role": token.role, "prefix": token.prefix, "expires_at": token.expires_at and str(token.expires_at)}
        AuditEntry.objects.record(caller(request).actor, "token.created", token.name, after=facts)
    return json_response({**token_json(token), "token": secret}, 201, location=api_path("tokens", token.pk))


def _creator(request: HttpRequest) -> Account | None:
    """Return the account that created the token of this request, so that the new token ends with the same account.

    Its row is locked: the account cannot be deactivated between this check and the commit of the new token.
    """
    tokens = Token.objects.filter(pk=caller(request).token_id or 0)  # writing needs a token, so it is never 0
    creator = Account.objects.select_for_update().filter(pk__in=tokens.values("created_by")).first()
    if not tokens.exists():
        raise Problem(401, "This token is unknown, revoked or expired.", headers=CHALLENGE)
    return creator


@router.delete("/tokens/{int:token_id}", response={204: None})
def revoke_token(request: HttpRequest, token_id: int) -> HttpResponse:
    """Revoke a token. Requests with it are refused within a second, and its event streams end within five seconds."""
    token = Token.objects.filter(pk=token_id).first() if token_id < 2**63 else None
    if token is None:
        raise Http404(f"No token has the id {token_id}.")
    with transaction.atomic():
        facts = {"role": token.role, "prefix": token.prefix}
        AuditEntry.objects.record(caller(request).actor, "token.deleted", token.name, before=facts)
        token.delete()
    return no_content()


@router.get("/audit", response=AuditPage)
def list_audit(
    request: HttpRequest,
    target: Annotated[str | None, Query(max_length=200, description="Changed resource, such as `billing`.")] = None,
    actor: Annotated[str | None, Query(max_length=200, description="Actor, such as `token deploy`.")] = None,
    action: Annotated[str | None, Query(max_length=60, description="Action, such as `service.paused`.")] = None,
    limit: Limit = LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """List changes with actor, reason, and the values before and after; newest first."""
    equal = {"target": target, "actor": actor, "action": action}
    rows = AuditEntry.objects.filter(**{name: value for name, value in equal.items() if value is not None})
    found, next_cursor = page(rows, "audit", limit, cursor)
    names = ("id", "at", "actor", "action", "target", "reason", "before", "after")
    return json_response(list_json([{name: getattr(entry, name) for name in names} for entry in found], next_cursor))


@router.get("/retention", response=RetentionOut)
def get_retention(request: HttpRequest) -> HttpResponse:
    """Return how long history is kept."""
    return json_response(Retention.objects.current().periods)


@router.patch("/retention", response=RetentionOut)
def change_retention(request: HttpRequest, data: RetentionIn) -> HttpResponse:
    """Change how long history is kept; workers delete older history. Omitted fields keep their values."""
    given = {name: getattr(data, name) for name in data.model_fields_set}
    return json_response(retention.change(given, actor=caller(request).actor).periods)


@router.get("/backups", response=BackupsOut)
def get_backups(request: HttpRequest) -> HttpResponse:
    """Return the schedule of backups and the result of the last one."""
    return json_response(_backups_json(BackupSchedule.objects.current()))


@router.patch("/backups", response=BackupsOut)
def change_backups(request: HttpRequest, data: BackupsIn) -> HttpResponse:
    """Change the schedule of backups. Omitted fields keep their values."""
    given = {name: getattr(data, name) for name in data.model_fields_set}
    return json_response(_backups_json(backup_schedule.change(given, actor=caller(request).actor)))


def _backups_json(schedule: BackupSchedule) -> dict[str, Any]:
    results = ("taken_at", "place", "size", "seconds", "failed_at", "failure", "next_at")
    trouble = schedule.trouble(database_now())
    return {**schedule.settings, **{name: getattr(schedule, name) for name in results}, "trouble": trouble}


def token_json(token: Token) -> dict[str, Any]:
    return {
        "id": token.pk,
        "name": token.name,
        "role": token.role,
        "prefix": token.prefix,
        "created_at": token.created_at,
        "created_by": token.created_by.username if token.created_by else None,
        "expires_at": token.expires_at,
        "last_used_at": token.last_used_at,
    }
