"""Sign in, sign out, create the first account, change the own password, choose a theme."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any, cast

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login as sign_in
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from dashboard import sign_in_limits
from dashboard.access import actor, person, public, viewer
from dashboard.forms.people import FirstAdminForm, OwnPasswordForm
from dashboard.responses import form_page, own_page, posted, see_other
from dashboard.theme import remember
from integrations.api.problems import BUSY_RETRY
from integrations.models import Account, AuditEntry, Role, SetupLink
from integrations.models.account import digest

UNKNOWN_NAMES = "names without an account"
ADMIN_SESSION = timedelta(hours=24)  # from the sign-in on; an admin makes accounts and tokens


class SignInForm(AuthenticationForm):
    error_messages = {
        **AuthenticationForm.error_messages,
        "invalid_login": "Wrong username or password. Both are case-sensitive.",
    }


class Login(LoginView):
    """Sign in. After too many failures, which django-axes counts, `locked_out` replaces this page."""

    template_name = "people/login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        address = request.META.get("REMOTE_ADDR", "")
        if wait := sign_in_limits.failures.take(address):
            return _try_later(request, wait)
        with sign_in_limits.hashing.slot() as has_slot:
            response = super().post(request, *args, **kwargs) if has_slot else _try_later(request, BUSY_RETRY)
        if not has_slot or request.user.is_authenticated:
            sign_in_limits.failures.give_back(address)
        return response

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        account = form.get_user()
        with transaction.atomic():
            AuditEntry.objects.record(f"person {account.username}", "person.signed_in", account.username)
            response = super().form_valid(form)
            _limit_session(self.request, account)
        self.request.session.clear_expired()
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        # Attempts that django-axes locks out are not recorded, so that guessing cannot fill the audit log.
        if (name := form.cleaned_data.get("username")) and not getattr(self.request, "axes_locked_out", False):
            _record_failure(name)
        return self.render_to_response(self.get_context_data(form=form), status=422)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(has_accounts=Account.objects.exists(), **kwargs)


def _limit_session(request: HttpRequest, account: Account) -> None:
    if account.may(Role.ADMIN):
        request.session.set_expiry(timezone.now() + ADMIN_SESSION)


def _record_failure(name: str) -> None:
    """Record the name of an account. Other names are what an attacker chose: those of a minute share a row.

    Both write one row, so that the time of the response does not tell which names exist.
    """
    if Account.objects.filter(username=name).exists():
        AuditEntry.objects.record("anonymous", "person.sign_in_failed", name)
    else:
        AuditEntry.objects.record_counted(
            "somebody", "person.sign_in_failed", UNKNOWN_NAMES, within=timedelta(minutes=1)
        )


def locked_out(request: HttpRequest, *_: Any) -> HttpResponse:
    """The response to a name that django-axes has locked for an address. Each further attempt starts the time again."""
    page = form_page(request, "people/locked_out.html", {}, is_refused=False)
    page.status_code, page["Retry-After"] = 429, str(round(settings.AXES_COOLOFF_TIME * 3600))
    return page


def _try_later(request: HttpRequest, seconds: float) -> HttpResponse:
    wait = math.ceil(seconds)
    page = form_page(request, "people/try_later.html", {"seconds": wait}, is_refused=False)
    page.status_code, page["Retry-After"] = 429, str(wait)
    return page


@public
def login(request: HttpRequest) -> HttpResponse:
    return cast(HttpResponse, Login.as_view()(request))


@public
@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    if request.user.is_authenticated:
        AuditEntry.objects.record(actor(request), "person.signed_out", person(request).username)
    return LogoutView.as_view()(request)


@public
@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remember the theme in the browser, and go back. With JavaScript the page changes without this request."""
    response = see_other(own_page(request.POST.get("next", "")) or "overview")
    remember(response, request.POST.get("theme", ""))
    return response


@public
@never_cache
@sensitive_post_parameters("password")
def setup(request: HttpRequest, secret: str) -> HttpResponse:
    """Create the first admin. The link works once, for the first request that submits the form."""
    if not SetupLink.objects.valid(secret):
        return _used_up(request)
    form = FirstAdminForm(posted(request))
    if not form.is_valid():
        return form_page(request, "people/setup.html", {"form": form}, is_refused=form.is_bound)
    account = _first_admin(secret, form.cleaned_data["username"], form.cleaned_data["password"])
    if account is None:
        return _used_up(request)
    sign_in(request, account, backend="django.contrib.auth.backends.ModelBackend")
    _limit_session(request, account)
    return see_other("start")


@transaction.atomic
def _first_admin(secret: str, username: str, password: str) -> Account | None:
    # Two requests at once: only one of them can delete the link's row, and that one creates the account.
    used, _ = SetupLink.objects.filter(digest=digest(secret), expires_at__gt=timezone.now()).delete()
    if not used or Account.objects.exists():
        return None
    account = Account.objects.register(username, password, Role.ADMIN)
    AuditEntry.objects.record(f"person {username}", "person.created", username, after={"role": account.role})
    return account


def _used_up(request: HttpRequest) -> HttpResponse:
    page = form_page(request, "people/used_up.html", {}, is_refused=False)
    page.status_code = 404
    return page


@viewer
@never_cache
@sensitive_post_parameters("old_password", "new_password1", "new_password2")
def password(request: HttpRequest) -> HttpResponse:
    """Change the own password. The account's other sessions end."""
    form = OwnPasswordForm(person(request), posted(request))
    if not form.is_valid():
        return form_page(request, "people/password.html", {"form": form}, is_refused=form.is_bound)
    with transaction.atomic():
        account = form.save()
        AuditEntry.objects.record(actor(request), "person.password_changed", person(request).username)
    update_session_auth_hash(request, account)
    messages.success(request, "Password changed. Your other sessions are signed out.")
    return see_other("password")
