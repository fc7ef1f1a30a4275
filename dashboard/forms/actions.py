"""Forms of the actions on services: pause, resume, rotate, override a breaker, delete, set retention."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.utils import timezone

from dashboard.forms.schema import SchemaForm
from integrations.models import Runtime
from integrations.schemas.actions import BreakerIn, PauseIn, ResumeIn, RetentionIn, RotateIn


class RotateForm(SchemaForm):
    """The spans that people think in; a program gives any number of seconds."""

    schema = RotateIn
    names = ("overlap",)
    labels = {"overlap": "The secret so far"}
    spans = {
        "0": "ends now",
        "3600": "signs too for 1 hour",
        "86400": "signs too for 24 hours",
        "604800": "signs too for 7 days",
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
    labels = {"release": "What waits", "newer_than": "Accepted after", "rate": "Messages a second (optional)"}
    choices = {
        "release": {
            "all": "goes out now",
            "none": "stays held until somebody decides",
            "newer_than": "goes out if it is newer than",
        }
    }
    shown_for = {"newer_than": "release=newer_than"}


class RetentionForm(SchemaForm):
    schema = RetentionIn
    names = ("messages_days", "audit_days")
    labels = {"messages_days": "Days that finished messages are kept", "audit_days": "Days that audit entries are kept"}


class BreakerForm(SchemaForm):
    """Steering by hand. ``ends`` is a convenience of the form: a span from now instead of a time."""

    schema = BreakerIn
    names = ("action", "reason", "until")
    labels = {"until": "At this time"}
    choices = {
        "action": {
            "open": "Open: stop calling",
            "half_open": "Probe now",
            "close": "Close: call again",
            "reset": "Reset: close and forget",
            "auto": "Back to automatic",
            "observe": "Observe: call, measure, never stop",
            "disable": "Disable: call, measure nothing",
        }
    }
    timed = "open observe disable"  # actions that set a manual mode, which may end by itself
    spans = {"900": "in 15 minutes", "3600": "in 1 hour", "14400": "in 4 hours", "86400": "in 1 day"}
    shown_for = {"until": "ends=at"}

    def __init__(self, given: Any = None, *, runtime: Runtime | None = None) -> None:
        super().__init__(given)
        ends = forms.ChoiceField(
            label="Ends",
            required=False,
            choices=[("", "when somebody ends it"), *self.spans.items(), ("at", "at a time")],
            help_text="Of open, observe and disable; then the breaker is automatic again.",
        )
        self.fields = {name: self.fields[name] for name in ("action", "reason")} | {
            "ends": ends,
            "until": self.fields["until"],
        }
        self.fields["action"].help_text = "Closing and resetting also forget how long the service asked to wait."
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
        # Not by ``ends``: who has no JavaScript, or sends few fields, gives the time alone.
        return name != "until" or self.cleaned_data.get("action") in self.timed.split()


def _next_action(runtime: Runtime) -> str:
    """What is mostly wanted of a breaker in this state."""
    if runtime.mode != "auto":
        return "auto"
    if runtime.state == "closed" and runtime.is_throttled(timezone.now()):
        return "close"
    return {"open": "half_open", "half_open": "close"}.get(runtime.state, "open")


class DeleteForm(forms.Form):
    """Deleting a service with messages on the way has to be meant."""

    force = forms.BooleanField(required=False, label="Cancel its unfinished messages and delete it")
