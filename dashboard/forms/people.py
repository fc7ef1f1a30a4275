"""Forms about people and their keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.password_validation import password_validators_help_texts, validate_password
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from integrations.models import Account, Role

ROLE_HELP = "A viewer reads; an operator also acts; an admin also manages people, tokens and deletion."
NAME_TAKEN = "There is an account with this name already."
LIFETIMES = {
    "": ("never", None),
    "365d": ("in a year", timedelta(days=365)),
    "90d": ("in 90 days", timedelta(days=90)),
    "30d": ("in 30 days", timedelta(days=30)),
    "1d": ("in 24 hours", timedelta(days=1)),
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
        label="User name",
        max_length=150,
        validators=[RegexValidator(r"^[\w.@+-]+\Z", "Letters, digits and . @ + - _ only.")],
        widget=forms.TextInput(attrs={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"}),
    )


class _PasswordRules(forms.Form):
    """Checks ``password`` by the installation's rules, with what is known about its owner."""

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
    """The first account, by the one-time link."""

    username = _username()
    password = _new_password()


class OwnPasswordForm(PasswordChangeForm):
    """Django's, with its rules and its refusal in the words of the other forms."""

    error_messages = {
        **PasswordChangeForm.error_messages,
        "password_incorrect": "This is not your present password.",
    }
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
    """Role, access and password of somebody who has an account."""

    role = forms.ChoiceField(choices=Role.choices, help_text=ROLE_HELP)
    # No checkbox: one that is left out of what is sent cannot be told from one that was cleared.
    is_active = forms.ChoiceField(
        label="May sign in",
        required=False,
        choices=[("on", "yes"), ("off", "no")],
        help_text="Taken away, every session of theirs ends at once.",
    )
    password = _new_password("New password", required=False)

    def __init__(self, *args: Any, owner: Account, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = owner
        self.present = owner.is_active
        self.fields["password"].help_text = f"Leave empty to keep theirs. {self.fields['password'].help_text}"

    def clean_is_active(self) -> bool:
        given: str = self.cleaned_data["is_active"]
        return given == "on" if given else self.present


class TokenForm(forms.Form):
    """A key to the API."""

    name = forms.CharField(max_length=100, help_text="What uses it, such as “billing-backend”.")
    role = forms.ChoiceField(choices=Role.choices, initial=Role.OPERATOR, help_text=ROLE_HELP)
    expires = forms.ChoiceField(
        required=False, choices=[(key, words) for key, (words, _) in LIFETIMES.items()], initial="90d"
    )

    @property
    def lifetime(self) -> timedelta | None:
        return LIFETIMES[self.cleaned_data["expires"]][1]
