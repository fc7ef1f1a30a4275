"""Forms for sending: by hand as a message, in the lab, or as an edited replay.

They only turn typed text into the fields of ``schemas.MessageIn``; the rules are the schema's and the intake's, so
that form and API refuse the same things in the same words.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime
from typing import Any, cast
from urllib.parse import parse_qsl

from django import forms
from pydantic import ValidationError

from dashboard.forms.curl import Pasted
from dashboard.presenters.bodies import SHOWN, compact_json, is_json, json_refusal, pretty_json
from dashboard.presenters.diffs import Line, difference
from integrations.delivery import accept
from integrations.delivery.lab_call import LabRequest
from integrations.errors import Invalid, TooLarge
from integrations.models import Attempt, Draft, Endpoint, Message, MessageContent, Service
from integrations.outbound.redaction import MASK, redacted_headers, redacted_text
from integrations.schemas.fields import BODY_LIMIT, METHODS, in_utc
from integrations.schemas.message import MessageIn, ReplayIn

ENDPOINTS_OFFERED = 200
BODY_KINDS = (("json", "JSON"), ("text", "Text"), ("base64", "Base64"))


class LinesField(forms.CharField):
    """``name: value`` lines as pairs; the mark between name and value is given."""

    def __init__(self, mark: str, *, placeholder: str, rows: int = 3, **options: Any) -> None:
        self.mark = mark
        widget = forms.Textarea(
            attrs={"class": "mono", "rows": rows, "placeholder": placeholder, "spellcheck": "false"}
        )
        super().__init__(required=False, strip=False, max_length=64 * 1024, widget=widget, **options)

    def clean(self, value: Any) -> list[tuple[str, str]]:
        pairs = []
        for number, line in enumerate(super().clean(value).splitlines(), 1):
            if not line.strip():
                continue
            name, mark, text = line.partition(self.mark)
            if not mark or not name.strip():
                raise forms.ValidationError(f"Line {number}: write it as name{self.mark} value.")
            pairs.append((name.strip(), text.strip()))
        return pairs


def as_lines(pairs: dict[str, Any], mark: str) -> str:
    return "\n".join(
        f"{name}{mark}{item}"
        for name, value in pairs.items()
        for item in (value if isinstance(value, list) else [value])
    )


class RequestForm(forms.Form):
    """What a call consists of, for whichever purpose."""

    service = forms.CharField(widget=forms.Select, error_messages={"required": "Choose a service."})
    endpoint = forms.CharField(
        required=False,
        max_length=63,
        help_text="Optional. Brings its method, path, query, headers and example body.",
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
    query = LinesField("=", placeholder="page=2", rows=2, help_text="One parameter a line: name=value.")
    headers = LinesField(":", placeholder="X-Request-Source: console", help_text="One header a line: Name: value.")
    body_kind = forms.ChoiceField(choices=BODY_KINDS, required=False, initial="json", label="Body is")
    content_type = forms.CharField(
        required=False,
        max_length=200,
        label="Content type",
        help_text="Empty: application/json for JSON, text/plain for text.",
        widget=forms.TextInput(attrs={"class": "mono", "list": "content-types", "autocomplete": "off"}),
    )
    body = forms.CharField(
        required=False,
        strip=False,
        max_length=2 * BODY_LIMIT,
        help_text="Numbers keep every digit. Empty: the endpoint's example, or no body.",
        widget=forms.Textarea(attrs={"class": "mono", "rows": 10, "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        services = list(Service.objects.values_list("name", flat=True))
        self.has_services = bool(services)
        self._offer("service", [("", "Choose…"), *((name, name) for name in services)])
        self._offer("method", [(method, method) for method in METHODS])
        self.fields["service"].widget.attrs.update({"required": True})

    def _offer(self, name: str, choices: list[tuple[str, str]]) -> None:
        widget = cast(forms.Select, self.fields[name].widget)
        chosen = self.data.get(self.add_prefix(name)) if self.is_bound else self.initial.get(name)
        known = {value for value, _ in choices}
        widget.choices = [*choices, *([(chosen, chosen)] if chosen and chosen not in known else [])]

    @property
    def chosen_service(self) -> str:
        return str((self.data.get("service") if self.is_bound else self.initial.get("service")) or "")

    @property
    def endpoints(self) -> list[Endpoint]:
        return endpoints_of(self.chosen_service)

    def request_fields(self) -> dict[str, Any]:
        """The cleaned text as fields of MessageIn; what was left empty is left out."""
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
            # A browser sends line ends as CRLF; what was typed had LF.
            content, usual = body.replace("\r\n", "\n"), "text/plain; charset=utf-8"
        return {"body_base64": b64encode(content.encode()).decode(), "content_type": content_type or usual}

    def accept_fields(self, fields: dict[str, Any]) -> MessageIn | None:
        """The fields as a message in, or None with its errors beside the fields they are about."""
        if self.errors:
            return None
        try:
            return MessageIn.model_validate(fields)
        except ValidationError as error:
            for found in error.errors():
                self.refuse(found["loc"], found["msg"])
        return None

    def draft(self, data: MessageIn) -> Draft | None:
        """The message as intake would take it, or None with its errors beside the fields."""
        try:
            return accept.make_draft(data)
        except Invalid as error:
            for location, words in error.errors:
                self.refuse(location, words)
        except TooLarge as error:
            self.refuse(("body",), str(error))
        return None

    def refuse(self, location: Iterable[Any], words: str) -> None:
        words = words.removeprefix("Value error, ")
        words = words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
        first = next(iter(location), None)
        name = {"body_base64": "body", None: _field_of(words)}.get(first, first)
        self.add_error(name if name in self.fields else None, words)


def _field_of(words: str) -> str | None:
    """A rule about several fields is shown beside the one that can be put right."""
    lower = words.lower()
    if lower.startswith("expires_at"):
        return "expires_at"
    return "path" if "endpoint" in lower else None


def _merged(pairs: list[tuple[str, str]]) -> dict[str, str | list[str]]:
    """A repeated name becomes a list, as in the schema."""
    merged: dict[str, str | list[str]] = {}
    for name, value in pairs:
        before = merged.get(name)
        if before is None:
            merged[name] = value
        else:
            merged[name] = [*(before if isinstance(before, list) else [before]), value]
    return merged


class LocalMoment(forms.DateTimeField):
    """A time as the browser's own picker gives it, in the viewer's zone."""

    def __init__(self, **options: Any) -> None:
        widget = forms.DateTimeInput(attrs={"type": "datetime-local", "step": "1"}, format="%Y-%m-%dT%H:%M:%S")
        formats = ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d"]
        super().__init__(required=False, widget=widget, input_formats=formats, **options)

    def to_python(self, value: Any) -> datetime | None:
        moment = super().to_python(value)
        try:
            return in_utc(moment) if moment else None
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


class SendForm(RequestForm):
    """A message by hand."""

    ordering_key = forms.CharField(
        required=False,
        max_length=200,
        label="Ordering key",
        help_text="Messages with the same key keep their order, where the service does.",
    )
    deliver_at = LocalMoment(label="Not before", help_text="In your time zone. Empty: now.")
    expires_at = LocalMoment(label="Not after", help_text="Undelivered by then, it is dead.")
    tags = LinesField("=", placeholder="customer=acme", rows=2, help_text="One label a line: name=value.")

    def message_in(self) -> MessageIn | None:
        """What was typed as a checked MessageIn, or None with errors on the fields."""
        if not self.is_valid():
            return None
        cleaned = self.cleaned_data
        fields = self.request_fields()
        if cleaned["endpoint"]:
            fields["endpoint"] = cleaned["endpoint"]
            if cleaned["path"]:
                self.refuse(("path",), "An endpoint brings its own path; clear one of the two")
        else:
            fields |= {"method": cleaned["method"] or "POST", "path": cleaned["path"] or None}
            if not cleaned["path"]:
                self.refuse(("path",), "Give an endpoint or a path")
        for name in ("ordering_key", "deliver_at", "expires_at"):
            if cleaned[name]:
                fields[name] = cleaned[name]
        fields["tags"] = dict(cleaned["tags"])
        return self.accept_fields(fields)


class LabForm(RequestForm):
    """One call from the lab: method and path are always explicit; an endpoint only fills them in."""

    timeout = forms.FloatField(
        required=False,
        min_value=0.05,
        max_value=300,
        label="Timeout",
        help_text="Seconds for the whole call. Empty: the service's.",
        widget=forms.NumberInput(attrs={"step": "any"}),
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fields["body"].help_text = "Numbers keep every digit. Empty: no body."
        self.fields["endpoint"].help_text = "Only a label in the history here; Load above fills in what it says."

    def request(self) -> LabRequest | None:
        """What was typed as a request that can be sent, or None with errors on the fields."""
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


class ReplayForm(forms.Form):
    """An edited replay. What is left as it was is not given, so that the replay keeps the first message's id."""

    endpoint = forms.CharField(
        required=False,
        max_length=63,
        help_text="Another endpoint of the same service. Empty: the same address as before.",
        widget=forms.TextInput(attrs={"list": "endpoints", "autocomplete": "off", "class": "mono"}),
    )
    headers = LinesField(":", placeholder="X-Request-Source: console", help_text="One header a line: Name: value.")
    body = forms.CharField(
        required=False,
        strip=False,
        max_length=2 * BODY_LIMIT,
        help_text="JSON. Receivers see an edited replay as a new message, with an id of its own.",
        widget=forms.Textarea(attrs={"class": "mono", "rows": 12, "spellcheck": "false"}),
    )

    edited_body: bytes | None = None  # what was typed in place of the body, where it was

    def replay_in(self, message: Message) -> ReplayIn | None:
        """What was changed, as a checked ReplayIn; None with errors on the fields."""
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
            # As typed, so that the numbers nobody touched keep their digits.
            self.edited_body = compact_json(body).encode("utf-8", "surrogatepass")
        try:
            return ReplayIn.model_validate(fields)
        except ValidationError as error:
            for found in error.errors():
                name = found["loc"][0] if found["loc"] and found["loc"][0] in self.fields else None
                self.add_error(str(name) if name else None, found["msg"].removeprefix("Value error, "))
        return None


def editable_body(message: Message) -> str | None:
    """The body as text for an edit, or None where it is not JSON or too long for a text field."""
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


def edited_parts(message: Message, draft: Draft) -> list[tuple[str, list[Line]]]:
    """The parts that a replay changes, each with its difference; secret headers are masked in it."""
    content, secrets = message.content, message.service.secret_values

    def masked(line: str) -> str:
        name, mark, value = line.partition(": ")
        return mark.join(redacted_headers([(name, value)], secrets)[0]) if mark else redacted_text(line, secrets)

    before = _address(message.method, message.path, content.query)
    parts = [
        ("Address", difference(before, _address(draft.method, draft.path, draft.query))),
        ("Headers", difference(_headers(content), _headers(draft), masked)),
        ("Body", difference(_comparable(bytes(content.body)), _comparable(draft.body))),
    ]
    return [(name, lines) for name, lines in parts if lines]


def _address(method: str, path: str, query: dict[str, Any]) -> str:
    return "\n".join((f"{method} {path}", as_lines(query, "="))).strip()


def _headers(of: Draft | MessageContent) -> str:
    """In the order of their names: JSON keeps no other, and another order means no other request."""
    kind = [f"Content-Type: {of.content_type}"] if of.content_type else []
    return "\n".join([*kind, *sorted(as_lines(of.headers, ": ").splitlines())])


def _comparable(body: bytes) -> str:
    """As it is shown for an edit; what is no text is never edited."""
    text = body.decode(errors="replace")
    return (pretty_json(text) or text) if len(body) <= SHOWN else text


# ---- what a form starts from --------------------------------------------------------------------------------------
def endpoints_of(service: str) -> list[Endpoint]:
    if not service:
        return []
    return list(
        Endpoint.objects.filter(service__name=service)
        .select_related("service")
        .defer("body", "service__secrets")[:ENDPOINTS_OFFERED]
    )


def from_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """A form's initial text that does what the endpoint says."""
    return {
        "service": endpoint.service.name,
        "endpoint": endpoint.name,
        "method": endpoint.method,
        "path": endpoint.path,
        "query": as_lines(endpoint.query, "="),
        "headers": as_lines(endpoint.headers, ": "),
        **_body_text(endpoint.body.encode(), endpoint.content_type),
    }


def from_draft(draft: Draft | Message) -> dict[str, Any]:
    """A form's initial text that repeats a message."""
    content = draft.content if isinstance(draft, Message) else draft
    return {
        "service": draft.service.name,
        "method": draft.method,
        "path": draft.path,
        "query": as_lines(content.query, "="),
        "headers": as_lines(content.headers, ": "),
        **_body_text(bytes(content.body), content.content_type),
    }


def from_attempt(attempt: Attempt) -> dict[str, Any]:
    """A form's initial text that repeats a call from the lab: what the service adds by itself is left out."""
    service = attempt.service
    base = service.base_url.partition("?")[0].rstrip("/")
    url = attempt.url.removeprefix(base) if base else attempt.url
    path, _, query = url.partition("?")
    own = {name.lower() for name in service.headers} | {"webhook-id", "webhook-timestamp", "webhook-signature"}
    headers = {name: value for name, value in attempt.request_headers if name.lower() not in own and MASK not in value}
    content_type = next((headers.pop(name) for name in list(headers) if name.lower() == "content-type"), "")
    return {
        "service": service.name,
        "endpoint": attempt.endpoint.name if attempt.endpoint else "",
        "method": attempt.method,
        "path": path or "/",
        "query": _query_lines(query),
        "headers": as_lines(headers, ": "),
        **_body_text(bytes(attempt.request_body or b""), content_type),
    }


def from_pasted(pasted: Pasted) -> dict[str, Any]:
    """A form's initial text that does what a curl command does, through the service that has its address. Raises
    ValueError in words where there is none."""
    bases = ((name, url.partition("?")[0].rstrip("/")) for name, url in Service.objects.values_list("name", "base_url"))
    fitting = [(base, name) for name, base in bases if base and re.match(rf"{re.escape(base)}(?=[/?]|$)", pasted.url)]
    if not fitting:
        raise ValueError(f"No service has the address {pasted.url[:200]}: register it, and the lab can call it")
    base, service = max(fitting, key=lambda pair: len(pair[0]))
    path, _, query = pasted.url.removeprefix(base).partition("?")
    headers = {name: value for name, value in pasted.headers.items() if name.lower() != "content-type"}
    return {
        "service": service,
        "method": pasted.method,
        "path": path.partition("#")[0] or "/",
        "query": _query_lines(query.partition("#")[0]),
        "headers": as_lines(headers, ": "),
        **_body_text(pasted.body.encode(errors="replace"), pasted.content_type),
    }


def _query_lines(query: str) -> str:
    return "\n".join(f"{name}={value}" for name, value in parse_qsl(query, keep_blank_values=True))


def _body_text(body: bytes, content_type: str) -> dict[str, str]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return {"body_kind": "base64", "body": b64encode(body).decode(), "content_type": content_type}
    if text and is_json(text):
        return {"body_kind": "json", "body": pretty_json(text) or text, "content_type": content_type}
    kind = "text" if text else "json"
    return {"body_kind": kind, "body": text, "content_type": content_type}
