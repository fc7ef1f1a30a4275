"""Forms for accounts, passwords and API tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.password_validation import password_validators_help_texts, validate_password
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from integrations.models import Account, Role, Token

ROLE_HELP = "A viewer reads; an operator also acts; an admin also manages people, tokens and deletion."
NAME_TAKEN = "This username is taken. Choose another one."
LIFETIMES = {
    "": ("Never", None),
    "365d": ("In 1 year", Token.objects.DEFAULT_LIFETIME),
    "90d": ("In 90 days", timedelta(days=90)),
    "30d": ("In 30 days", timedelta(days=30)),
    "1d": ("In 24 hours", timedelta(days=1)),
}


def _new_password(label: str = "Password", *, required: bool = True) -> forms.CharField:
    return forms.CharField(
        label=label,
        required=required,
        strip=False,
        max_length=4096,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=" ".join(password_validators_help_texts()),
    )


def _username() -> forms.CharField:
    return forms.CharField(
        label="Username",
        max_length=150,
        validators=[RegexValidator(r"^[\w.@+-]+\Z", "Use letters, digits and . @ + - _ only.")],
        widget=forms.TextInput(attrs={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"}),
    )


class _PasswordRules(forms.Form):
    """Validate ``password`` against the installation's rules and its owner's username."""

    owner: Account | None = None

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if password := cleaned.get("password"):
            owner = self.owner or Account(username=cleaned.get("username", ""))
            try:
                validate_password(password, owner)
            except ValidationError as error:
                self.add_error("password", error)
        return cleaned


class FirstAdminForm(_PasswordRules):
    """The first admin account, created through the one-time link."""

    username = _username()
    password = _new_password()


class OwnPasswordForm(PasswordChangeForm):
    """Django's form, with the help and error texts of the other forms."""

    error_messages = {
        **PasswordChangeForm.error_messages,
        "password_incorrect": "Wrong current password.",
    }
    old_password = forms.CharField(
        label="Current password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password", "autofocus": True}),
    )
    new_password1 = _new_password("New password")


class PersonForm(_PasswordRules):
    """A new account."""

    username = _username()
    role = forms.ChoiceField(choices=Role.choices, initial=Role.VIEWER, help_text=ROLE_HELP)
    password = _new_password()

    def clean_username(self) -> str:
        username: str = self.cleaned_data["username"]
        if Account.objects.filter(username__iexact=username).exists():
            raise ValidationError(NAME_TAKEN)
        return username


class PersonEditForm(_PasswordRules):
    """Role, access and password of an existing account."""

    role = forms.ChoiceField(choices=Role.choices, help_text=ROLE_HELP)
    # Not a checkbox: a request without the field would look like a cleared box.
    is_active = forms.ChoiceField(
        label="May sign in",
        required=False,
        choices=[("on", "Yes"), ("off", "No")],
        help_text="“No” ends all their sessions at once.",
    )
    password = _new_password("New password", required=False)

    def __init__(self, *args: Any, owner: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = owner
        self.present = owner.is_active
        if created := Token.objects.filter(created_by=owner).count():
            tokens = "1 API token" if created == 1 else f"{created} API tokens"
            self.fields[
                "role"
            ].help_text = f"{ROLE_HELP} This account created {tokens}; a lower role deletes those that may do more."
            self.fields[
                "is_active"
            ].help_text = f"“No” ends all their sessions at once and deletes the {tokens} they created."
        self.fields["password"].help_text = f"Leave empty to keep the current one. {self.fields['password'].help_text}"

    def clean_is_active(self) -> bool:
        given: str = self.cleaned_data["is_active"]
        return given == "on" if given else self.present


class TokenForm(forms.Form):
    """An API token."""

    name = forms.CharField(max_length=100, help_text="The program that uses it, such as “billing-backend”.")
    role = forms.ChoiceField(choices=Role.choices, initial=Role.OPERATOR, help_text=ROLE_HELP)
    expires = forms.ChoiceField(
        required=False, choices=[(key, label) for key, (label, _) in LIFETIMES.items()], initial="90d"
    )

    @property
    def lifetime(self) -> timedelta | None:
        # A script that sends no choice gets the default; a browser sends the empty one for “Never”.
        return LIFETIMES[self.cleaned_data["expires"] if "expires" in self.data else "365d"][1]
