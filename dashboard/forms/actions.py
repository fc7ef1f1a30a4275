"""Forms of actions: pause, resume, rotate, override a breaker, delete, set retention and backups."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone

from dashboard.forms.schema import SchemaForm
from integrations.models import Runtime
from integrations.schemas.actions import BackupsIn, BreakerIn, PauseIn, ResumeIn, RetentionIn, RotateIn


class RotateForm(SchemaForm):
    """A choice of usual time spans; the API takes any number of seconds."""

    schema = RotateIn
    names = ("overlap",)
    labels = {"overlap": "Current secret"}
    spans = {
        "0": "Expires now",
        "3600": "Also signs for 1 hour",
        "86400": "Also signs for 24 hours",
        "604800": "Also signs for 7 days",
    }

    def _field(self, name: str) -> forms.Field:
        made = super()._field(name)
        made.widget, made.help_text = forms.Select(choices=list(self.spans.items())), ""
        return made


class PauseForm(SchemaForm):
    schema = PauseIn
    names = ("reason", "until")
    labels = {"until": "Until (optional)"}


class ResumeForm(SchemaForm):
    schema = ResumeIn
    names = ("release", "newer_than", "rate")
    labels = {"release": "Backlog", "newer_than": "Accepted after", "rate": "Messages per second (optional)"}
    choices = {
        "release": {
            "all": "Deliver all",
            "none": "Keep held for a later decision",
            "newer_than": "Deliver messages accepted after",
        }
    }
    shown_for = {"newer_than": "release=newer_than"}


class RetentionForm(SchemaForm):
    schema = RetentionIn
    names = ("messages_days", "audit_days")
    labels = {"messages_days": "Keep finished messages (days)", "audit_days": "Keep audit entries (days)"}


class BackupsForm(SchemaForm):
    schema = BackupsIn
    names = ("every_hours", "folder", "keep")
    labels = {"every_hours": "Hours between two backups", "folder": "Folder", "keep": "Backups to keep"}


class BreakerForm(SchemaForm):
    """An override of a breaker. ``ends`` is the form's own field: a time span from now instead of a time."""

    schema = BreakerIn
    names = ("action", "reason", "until")
    labels = {"until": "End time"}
    choices = {
        "action": {
            "open": "Open: stop all calls",
            "half_open": "Probe now",
            "close": "Close: resume calls",
            "reset": "Reset: close and clear the window",
            "auto": "Back to automatic",
            "observe": "Observe: measure, never stop calls",
            "disable": "Disable: neither measure nor stop calls",
        }
    }
    timed = "open observe disable"  # actions that set a manual mode, which may end at a time
    spans = {"900": "In 15 minutes", "3600": "In 1 hour", "14400": "In 4 hours", "86400": "In 1 day"}
    shown_for = {"until": "ends=at"}

    def __init__(self, given: Any = None, *, runtime: Runtime | None = None) -> None:
        super().__init__(given)
        ends = forms.ChoiceField(
            label="Ends",
            required=False,
            choices=[("", "Never, until changed by hand"), *self.spans.items(), ("at", "At a time")],
            help_text="For open, observe and disable. The breaker then returns to automatic.",
        )
        self.fields = {name: self.fields[name] for name in ("action", "reason")} | {
            "ends": ends,
            "until": self.fields["until"],
        }
        self.fields[
            "action"
        ].help_text = "Close and reset also clear the wait that the service asked for (Retry-After)."
        self.fields["until"].help_text = "In your time zone."
        if runtime is not None:
            self.fields["action"].initial = _next_action(runtime)

    def _typed(self, name: str, value: Any) -> tuple[bool, Any]:
        if name == "ends":
            return False, None
        if name == "until" and (span := self.cleaned_data.get("ends")) in self.spans:
            return self._matters(name), timezone.now() + timedelta(seconds=int(span))
        return super()._typed(name, value)

    def _matters(self, name: str) -> bool:
        # ``ends`` does not decide: a browser without JavaScript, or a script, sends the time alone.
        return name != "until" or self.cleaned_data.get("action") in self.timed.split()


def _next_action(runtime: Runtime) -> str:
    """The most frequent action on a breaker in this state."""
    if runtime.mode != "auto":
        return "auto"
    if runtime.state == "closed" and runtime.is_throttled(timezone.now()):
        return "close"
    return {"open": "half_open", "half_open": "close"}.get(runtime.state, "open")


class DeleteForm(forms.Form):
    """Confirm the deletion of a service by its name, and that of its unfinished messages."""

    name = forms.CharField(
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "autocapitalize": "none"}),
    )
    force = forms.BooleanField(required=False, label="Cancel unfinished messages and delete the service")

    def __init__(self, given: Any, service: str) -> None:
        super().__init__(given)
        self.service = service
        self.fields["name"].label = f"Type {service} to confirm"

    def clean_name(self) -> str:
        typed: str = self.cleaned_data["name"]
        if typed != self.service:
            raise forms.ValidationError(f"Type the name of the service: {self.service}.")
        return typed
