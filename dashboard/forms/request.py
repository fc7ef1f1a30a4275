"""Forms that describe a call: send a message by hand, and call an endpoint from the lab."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any, cast

from django import forms
from pydantic import ValidationError

from dashboard.forms.fields import LinesField, LocalTimeField, as_path
from dashboard.presenters.bodies import compact_json, json_refusal
from integrations.delivery import accept
from integrations.delivery.lab_call import LabRequest
from integrations.errors import Conflict, Invalid, TooLarge
from integrations.models import Draft, Endpoint, Service
from integrations.schemas.fields import BODY_LIMIT, METHODS
from integrations.schemas.message import MessageIn

ENDPOINTS_OFFERED = 200
BODY_KINDS = (("json", "JSON"), ("text", "Text"), ("base64", "Base64"))


class RequestForm(forms.Form):
    """The parts of a call: service, method, path, query, headers and body.

    The form only turns typed text into the fields of ``MessageIn``. The rules are the schema's and those of accepting
    a message, so form and API refuse the same input with the same texts.
    """

    service = forms.CharField(widget=forms.Select, error_messages={"required": "Choose a service."})
    endpoint = forms.CharField(
        required=False,
        max_length=63,
        help_text="Optional. Provides method, path, query, headers and example body.",
        widget=forms.TextInput(attrs={"list": "endpoints", "autocomplete": "off", "class": "mono"}),
    )
    method = forms.CharField(required=False, max_length=20, widget=forms.Select)
    path = forms.CharField(
        required=False,
        max_length=2000,
        strip=True,
        widget=forms.TextInput(
            attrs={"class": "mono", "placeholder": "/orders", "spellcheck": "false", "autocomplete": "off"}
        ),
    )
    query = LinesField("=", placeholder="page=2", rows=2, help_text="One parameter per line: name=value.")
    headers = LinesField(":", placeholder="X-Request-Source: console", help_text="One header per line: Name: value.")
    body_kind = forms.ChoiceField(choices=BODY_KINDS, required=False, initial="json", label="Body format")
    content_type = forms.CharField(
        required=False,
        max_length=200,
        label="Content type",
        help_text="Default: application/json for JSON, text/plain for text.",
        widget=forms.TextInput(attrs={"class": "mono", "list": "content-types", "autocomplete": "off"}),
    )
    body = forms.CharField(
        required=False,
        strip=False,
        max_length=2 * BODY_LIMIT,
        help_text="JSON numbers keep every digit. Empty: the endpoint's example, or no body.",
        widget=forms.Textarea(attrs={"class": "mono", "rows": 10, "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        services = list(Service.objects.values_list("name", flat=True))
        self.has_services = bool(services)
        if len(services) == 1 and not self.initial.get("service"):
            self.initial["service"] = services[0]
        self._offer("service", [("", "Choose…"), *((name, name) for name in services)])
        self._offer("method", [(method, method) for method in METHODS])
        self.fields["service"].widget.attrs.update({"required": True})

    def _offer(self, name: str, choices: list[tuple[str, str]]) -> None:
        widget = cast(forms.Select, self.fields[name].widget)
        chosen = self.data.get(self.add_prefix(name)) if self.is_bound else self.initial.get(name)
        known = {value for value, _ in choices}
        widget.choices = [*choices, *([(chosen, chosen)] if chosen and chosen not in known else [])]

    def clean_path(self) -> str:
        path: str = self.cleaned_data["path"]
        return as_path(path) if path else ""

    @property
    def chosen_service(self) -> str:
        return str((self.data.get("service") if self.is_bound else self.initial.get("service")) or "")

    @property
    def endpoints(self) -> list[Endpoint]:
        return endpoints_of(self.chosen_service)

    def request_fields(self) -> dict[str, Any]:
        """The cleaned text as fields of MessageIn, without empty ones."""
        cleaned = self.cleaned_data
        fields: dict[str, Any] = {
            "service": cleaned.get("service", ""),
            "query": _merged(cleaned.get("query", [])),
            "headers": dict(cleaned.get("headers", [])),
        }
        if body := cleaned.get("body", ""):
            fields |= self._body_fields(body)
        elif cleaned.get("content_type"):
            fields["content_type"] = cleaned["content_type"]
        return fields

    def _body_fields(self, body: str) -> dict[str, str]:
        kind = self.cleaned_data.get("body_kind") or "json"
        content_type = self.cleaned_data.get("content_type", "")
        if kind == "base64":
            return {
                "body_base64": "".join(body.split()),
                "content_type": content_type or "application/octet-stream",
            }
        if kind == "json":
            if refusal := json_refusal(body):
                self.add_error("body", f"This is {refusal}." if refusal.startswith("not") else refusal)
                return {}
            # As bytes and not as a value: a round trip through Python would rewrite 1.10 and drop duplicate keys.
            content, usual = compact_json(body), "application/json"
        else:
            # A browser sends line ends as CRLF; the typed text had LF.
            content, usual = body.replace("\r\n", "\n"), "text/plain; charset=utf-8"
        return {"body_base64": b64encode(content.encode()).decode(), "content_type": content_type or usual}

    def accept_fields(self, fields: dict[str, Any]) -> MessageIn | None:
        """The fields as a validated MessageIn, or None with the errors at their fields."""
        if self.errors:
            return None
        try:
            return MessageIn.model_validate(fields)
        except ValidationError as error:
            for found in error.errors():
                self.refuse(found["loc"], found["msg"])
        return None

    def draft(self, data: MessageIn) -> Draft | None:
        """The message as the API would accept it, or None with the errors at their fields."""
        try:
            return accept.make_draft(data)
        except Invalid as error:
            for location, text in error.errors:
                self.refuse(location, text)
        except TooLarge as error:
            self.refuse(("body",), str(error))
        except Conflict as error:
            self.refuse(("service",), str(error))
        return None

    def refuse(self, location: Iterable[Any], text: str) -> None:
        text = text.removeprefix("Value error, ")
        sentence = text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
        first = next(iter(location), None)
        name = {"body_base64": "body", None: _field_of(sentence)}.get(first, first)
        self.add_error(name if name in self.fields else None, sentence)


def _field_of(error: str) -> str | None:
    """The field that can fix a rule about several fields."""
    lower = error.lower()
    if lower.startswith("expires_at"):
        return "expires_at"
    return "path" if "endpoint" in lower else None


def _merged(pairs: list[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Pairs as a dict; a repeated name gets a list of values, as in the schema."""
    merged: dict[str, str | list[str]] = {}
    for name, value in pairs:
        before = merged.get(name)
        if before is None:
            merged[name] = value
        else:
            merged[name] = [*(before if isinstance(before, list) else [before]), value]
    return merged


class SendForm(RequestForm):
    """Send a message by hand."""

    ordering_key = forms.CharField(
        required=False,
        max_length=200,
        label="Ordering key",
        help_text="Messages with the same key are delivered in order, if the service uses ordering keys.",
    )
    deliver_at = LocalTimeField(label="Deliver at", help_text="In your time zone. Empty: now.")
    expires_at = LocalTimeField(label="Expires at", help_text="If undelivered by then, the message is dead.")
    tags = LinesField("=", placeholder="customer=acme", rows=2, help_text="One tag per line: name=value.")

    def message_in(self) -> MessageIn | None:
        """The typed values as a validated MessageIn, or None with the errors at their fields."""
        if not self.is_valid():
            return None
        cleaned = self.cleaned_data
        fields = self.request_fields()
        if cleaned["endpoint"]:
            fields["endpoint"] = cleaned["endpoint"]
            if cleaned["path"]:
                self.refuse(("path",), "An endpoint has its own path. Clear the endpoint or the path")
        else:
            fields |= {"method": cleaned["method"] or "POST", "path": cleaned["path"] or None}
            if not cleaned["path"]:
                self.refuse(("path",), "Enter an endpoint or a path")
        for name in ("ordering_key", "deliver_at", "expires_at"):
            if cleaned[name]:
                fields[name] = cleaned[name]
        fields["tags"] = dict(cleaned["tags"])
        return self.accept_fields(fields)


class LabForm(RequestForm):
    """One call from the lab. Method and path are always explicit; an endpoint only prefills them."""

    timeout = forms.FloatField(
        required=False,
        min_value=0.05,
        max_value=300,
        label="Timeout (s)",
        help_text="For the whole call. Default: the service's.",
        widget=forms.NumberInput(attrs={"step": "any"}),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["body"].help_text = "JSON numbers keep every digit. Empty: no body."
        self.fields["endpoint"].help_text = "Only names the call in the history. “Load” above fills in its settings."

    def request(self) -> LabRequest | None:
        """The typed values as a request that can be sent, or None with the errors at their fields."""
        if not self.is_valid():
            return None
        cleaned = self.cleaned_data
        fields = self.request_fields() | {"method": cleaned["method"] or "GET", "path": cleaned["path"] or "/"}
        data = self.accept_fields(fields)
        draft = self.draft(data) if data else None
        if draft is None:
            return None
        endpoint = draft.service.endpoints.filter(name=cleaned["endpoint"]).first() if cleaned["endpoint"] else None
        return LabRequest(
            service=Service.objects.get(pk=draft.service.pk),  # a draft's has only some of its columns
            method=draft.method,
            path=draft.path,
            query=draft.query,
            headers=draft.headers,
            body=draft.body,
            content_type=draft.content_type,
            endpoint=endpoint,
            timeout=cleaned["timeout"],
        )


def endpoints_of(service: str) -> list[Endpoint]:
    if not service:
        return []
    return list(
        Endpoint.objects.filter(service__name=service)
        .select_related("service")
        .defer("body", "service__secrets")[:ENDPOINTS_OFFERED]
    )
