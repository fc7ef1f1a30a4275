"""Settings: accounts, API tokens, retention and backups."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from dashboard.access import actor, admin, person
from dashboard.forms.actions import BackupsForm, RetentionForm
from dashboard.forms.people import NAME_TAKEN, PersonEditForm, PersonForm, TokenForm
from dashboard.responses import form_page, posted, see_other
from integrations.backups import schedule
from integrations.history import retention
from integrations.models import Account, AuditEntry, BackupSchedule, Retention, Role, Token
from integrations.operators import backup_schedule

LISTED = 500


@admin
def settings(request: HttpRequest) -> HttpResponse:
    return render(
        request,
        "settings/settings.html",
        {
            "people": Account.objects.order_by("-is_active", "username")[:LISTED],
            "tokens": Token.objects.select_related("created_by")[:LISTED],
            "retention": Retention.objects.current(),
            "oldest": retention.oldest_message_at(),
            "backups": (backups := BackupSchedule.objects.current()),
            "backup_folder": schedule.folder_of(backups),
            "now": timezone.now(),
        },
    )


# ---- people -------------------------------------------------------------------------------------------------------
@admin
@never_cache
@sensitive_post_parameters("password")
def person_new(request: HttpRequest) -> HttpResponse:
    form = PersonForm(posted(request))
    account = _registered(form, actor(request)) if form.is_valid() else None
    if account is None:
        return form_page(request, "settings/person.html", {"form": form}, is_refused=form.is_bound)
    messages.success(request, f"{account.username} added as {account.role}.")
    return see_other("settings")


def _registered(form: PersonForm, by: str) -> Account | None:
    """The new account; None, with an error on the form, if another admin has just taken the name."""
    given = form.cleaned_data
    try:
        with transaction.atomic():
            account = Account.objects.register(given["username"], given["password"], given["role"])
            AuditEntry.objects.record(by, "person.created", account.username, after={"role": account.role})
    except IntegrityError:
        form.add_error("username", NAME_TAKEN)
        return None
    return account


@admin
@never_cache
@sensitive_post_parameters("password")
def person_edit(request: HttpRequest, pk: int) -> HttpResponse:
    account = get_object_or_404(Account, pk=pk)
    form = PersonEditForm(
        posted(request),
        owner=account,
        initial={"role": account.role, "is_active": "on" if account.is_active else "off"},
    )
    if form.is_valid():
        refusal, ended = _change_person(account, form.cleaned_data, actor(request))
        if refusal is None:
            if form.cleaned_data["password"] and account == person(request):
                update_session_auth_hash(request, account)
            messages.success(request, f"{account.username} saved.{_ended_text(ended)}")
            return see_other("settings")
        form.add_error(None, refusal)
    return form_page(request, "settings/person.html", {"form": form, "account": account}, is_refused=form.is_bound)


@transaction.atomic
def _change_person(account: Account, given: dict[str, Any], by: str) -> tuple[str | None, list[Token]]:
    """Change an account, and end the tokens that it created and that may now do more than it may. Returns the reason
    of a refusal, or None, and those tokens.

    The admins' rows are locked, so that two admins cannot remove each other at the same time, and the account's own,
    so that it creates no token at the same time."""
    is_admin = Q(role=Role.ADMIN, is_active=True)
    locked = Account.objects.select_for_update().filter(is_admin | Q(pk=account.pk)).order_by("pk")
    others = [other for other in locked if other.pk != account.pk]
    stays_admin = given["role"] == Role.ADMIN and given["is_active"]
    if account.may(Role.ADMIN) and not stays_admin and not others:
        return f"{account.username} is the last active admin. Make another account an admin first.", []
    before = {"role": account.role, "is_active": account.is_active}
    account.role, account.is_active = given["role"], given["is_active"]
    if given["password"]:
        account.set_password(given["password"])
    account.save()
    after: dict[str, Any] = {"role": account.role, "is_active": account.is_active}
    if given["password"]:
        after["password"] = "changed"  # noqa: S105 - the fact, not the password
    ended = Token.objects.end_exceeding(account, by)
    if ended:
        after["tokens_deleted"] = [token.name for token in ended]
    AuditEntry.objects.record(by, "person.changed", account.username, before=before, after=after)
    return None, ended


def _ended_text(ended: list[Token]) -> str:
    if not ended:
        return ""
    names = ", ".join(token.name for token in ended)
    return f" Deleted the API tokens created by this account that had more rights: {names}."


# ---- tokens -------------------------------------------------------------------------------------------------------
@admin
@never_cache
def token_new(request: HttpRequest) -> HttpResponse:
    """Create a token. Only this response shows its secret."""
    form = TokenForm(posted(request))
    if not form.is_valid():
        return form_page(request, "settings/token.html", {"form": form}, is_refused=form.is_bound)
    given = form.cleaned_data
    with transaction.atomic():
        # Locked and checked again: another admin may be deactivating this account.
        creator = Account.objects.select_for_update().get(pk=person(request).pk)
        if not creator.may(Role.ADMIN):
            raise PermissionDenied
        token, secret = Token.objects.issue(given["name"], given["role"], form.lifetime, by=creator)
        AuditEntry.objects.record(
            actor(request), "token.created", token.name, after={"role": token.role, "prefix": token.prefix}
        )
    return render(request, "settings/token_made.html", {"token": token, "secret": secret})


@admin
@require_POST
def token_delete(request: HttpRequest, pk: int) -> HttpResponse:
    token = get_object_or_404(Token, pk=pk)
    with transaction.atomic():
        AuditEntry.objects.record(
            actor(request), "token.deleted", token.name, before={"role": token.role, "prefix": token.prefix}
        )
        token.delete()
    messages.success(request, f"Token {token.name} deleted. Requests with it are refused from now on.")
    return see_other("settings")


# ---- history ------------------------------------------------------------------------------------------------------
@admin
def retention_edit(request: HttpRequest) -> HttpResponse:
    """Change the retention. If it deletes history at once, the page shows how much and asks for confirmation."""
    form = RetentionForm(posted(request), present=Retention.objects.current().periods)
    context: dict[str, Any] = {"form": form, "oldest": retention.oldest_message_at()}
    if not form.is_valid():
        return form_page(request, "settings/retention.html", context, is_refused=form.is_bound)
    given = form.value.model_dump()
    loss = retention.preview_deletion(**given)
    agreed = f"{given['messages_days']} {given['audit_days']}"
    if (loss.messages or loss.audit_entries) and request.POST.get("agreed") != agreed:
        context |= {"loss": loss, "agreed": agreed, "given": given, "looked_at": retention.PREVIEWED}
        return form_page(request, "settings/retention.html", context, is_refused=False)
    kept = retention.change(given, actor=actor(request))
    messages_days, audit_days = retention.for_days(kept.messages_days), retention.for_days(kept.audit_days)
    messages.success(request, f"Saved. Finished messages are kept {messages_days}, audit entries {audit_days}.")
    return see_other("settings")


# ---- backups ------------------------------------------------------------------------------------------------------
@admin
def backups_edit(request: HttpRequest) -> HttpResponse:
    form = BackupsForm(posted(request), present=BackupSchedule.objects.current().settings)
    if not form.is_valid():
        return form_page(request, "settings/backups.html", {"form": form}, is_refused=form.is_bound)
    saved = backup_schedule.change(form.value.model_dump(), actor=actor(request))
    hours = saved.every_hours
    every = "hour" if hours == 1 else f"{hours} hours"
    messages.success(request, f"Saved. A backup is made every {every}." if hours else "Saved. Backups are off.")
    return see_other("settings")
