"""The form of an edited replay."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

from django import forms
from pydantic import ValidationError

from dashboard.forms.fields import LinesField
from dashboard.presenters.bodies import compact_json, is_json, json_refusal, pretty_json
from integrations.models import Message
from integrations.schemas.fields import BODY_LIMIT
from integrations.schemas.message import ReplayIn

EDITED_LIMIT = 2 * BODY_LIMIT  # characters of a body in a form; indented it has more than the 1 MiB that is sent
ENCODED_LIMIT = 3 * BODY_LIMIT + BODY_LIMIT // 2  # of the 4 MiB of a whole form


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
        max_length=EDITED_LIMIT,
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
    """The body as text to edit, indented if a form can carry that; None if it is not JSON, or too long for a form."""
    try:
        text = bytes(message.content.body).decode()
    except UnicodeDecodeError:
        return None
    if text and not is_json(text):
        return None
    return next((each for each in (pretty_json(text, EDITED_LIMIT), text) if each is not None and _fits(each)), None)


def _fits(text: str) -> bool:
    """Whether a form can send this text, percent-encoded and with CRLF at the ends of lines."""
    sent = text.replace("\n", "\r\n")
    return len(sent) <= EDITED_LIMIT and len(quote_plus(sent)) <= ENCODED_LIMIT
