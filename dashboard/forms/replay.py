"""The form of an edited replay."""

from __future__ import annotations

from typing import Any

from django import forms
from pydantic import ValidationError

from dashboard.forms.fields import LinesField
from dashboard.presenters.bodies import SHOWN, compact_json, is_json, json_refusal, pretty_json
from integrations.models import Message
from integrations.schemas.fields import BODY_LIMIT
from integrations.schemas.message import ReplayIn


class ReplayForm(forms.Form):
    """An edited replay. Unchanged parts are left out, so that an unchanged replay keeps the first message's id."""

    endpoint = forms.CharField(
        required=False,
        max_length=63,
        help_text="Another endpoint of the same service. Empty: the same method and path as before.",
        widget=forms.TextInput(attrs={"list": "endpoints", "autocomplete": "off", "class": "mono"}),
    )
    headers = LinesField(":", placeholder="X-Request-Source: console", help_text="One header per line: Name: value.")
    body = forms.CharField(
        required=False,
        strip=False,
        max_length=2 * BODY_LIMIT,
        help_text="JSON. Receivers see an edited replay as a new message with a new webhook-id.",
        widget=forms.Textarea(attrs={"class": "mono", "rows": 12, "spellcheck": "false"}),
    )

    edited_body: bytes | None = None  # the new body, if it was edited

    def replay_in(self, message: Message) -> ReplayIn | None:
        """The changes as a validated ReplayIn, or None with the errors at their fields."""
        if not self.is_valid():
            return None
        cleaned = self.cleaned_data
        fields: dict[str, Any] = {}
        if cleaned["endpoint"]:
            fields |= {"endpoint": cleaned["endpoint"], "mode": "current"}
        if dict(cleaned["headers"]) != message.content.headers:
            fields["headers"] = dict(cleaned["headers"])
        body = cleaned["body"].replace("\r\n", "\n")
        if "body" in self.data and body != editable_body(message):
            if refusal := json_refusal(body):
                self.add_error("body", f"This is {refusal}." if refusal.startswith("not") else refusal)
                return None
            # As typed, so that unchanged numbers keep their digits.
            self.edited_body = compact_json(body).encode("utf-8", "surrogatepass")
        try:
            return ReplayIn.model_validate(fields)
        except ValidationError as error:
            for found in error.errors():
                name = found["loc"][0] if found["loc"] and found["loc"][0] in self.fields else None
                self.add_error(str(name) if name else None, found["msg"].removeprefix("Value error, "))
        return None


def editable_body(message: Message) -> str | None:
    """The body as text to edit, or None if it is not JSON or too long for a text field."""
    body = bytes(message.content.body)
    if len(body) > SHOWN:
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    if text and not is_json(text):
        return None
    return pretty_json(text) or text if text else ""
