"""Forms made from the API's schemas, so that fields, help texts, defaults and rules are defined once.

A form field is named by its path in the schema (``retry.max_attempts``). The form puts the typed values together
into the nested object, the schema validates it, and each error goes back to its field.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from django import forms
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from dashboard.forms.fields import as_seconds, as_share
from dashboard.presenters.durations import typed_duration, typed_share
from integrations.errors import Invalid
from integrations.schemas.fields import rule_text

Kind = Literal["text", "number", "check", "choice", "list", "lines", "time"]


class SchemaForm(forms.Form):
    """``names`` are the fields in their order; ``value`` is the validated object once ``is_valid()`` is true."""

    schema: ClassVar[type[BaseModel]]
    names: ClassVar[tuple[str, ...]]
    labels: ClassVar[dict[str, str]] = {}
    choices: ClassVar[dict[str, dict[str, str]]] = {}
    secret: ClassVar[frozenset[str]] = frozenset()  # never echoed; an empty one keeps its stored value
    large: ClassVar[frozenset[str]] = frozenset()  # text of several lines
    durations: ClassVar[frozenset[str]] = frozenset()  # seconds in the schema, “6h” in the form
    shares: ClassVar[frozenset[str]] = frozenset()  # 0.2 in the schema, “20 %” in the form
    help_texts: ClassVar[dict[str, str]] = {}  # in place of the schema's, which speak of seconds and shares
    tidied: ClassVar[dict[str, Callable[[str], str]]] = {}  # corrects typed text, by field
    stand_ins: ClassVar[dict[str, Any]] = {}  # valid values of required fields, see ``partial``
    shown_for: ClassVar[dict[str, str]] = {}  # "auth.type=basic": the field counts only while auth.type is basic
    value: Any = None
    # After errors, the object without the refused values: the rules that read several fields, and those of the
    # database, can be checked in the same round.
    partial: Any = None

    def __init__(
        self,
        given: Any = None,
        *,
        present: dict[str, Any] | None = None,
        without: Iterable[str] = (),
        fixed: dict[str, Any] | None = None,
    ) -> None:
        """``present``: the current settings as the API returns them; ``fixed``: parts without a field."""
        self.leaves = leaves(self.schema)
        initial = (
            {name: self._present(present, name) for name in self.names if name not in self.secret}
            if present is not None
            else None
        )
        super().__init__(given, initial=initial)
        self.fixed = fixed or {}
        self.present = present
        hidden = set(without)
        for name in self.names:
            if name not in hidden:
                self.fields[name] = self._field(name)

    def _present(self, present: dict[str, Any], name: str) -> Any:
        value = _at(present, name)
        if kind_of(self.leaves[name]) == "time" and value:
            return datetime.fromisoformat(value)
        return self._text(name, value)

    def _text(self, name: str, value: Any) -> Any:
        """A value of the schema as its field shows it."""
        if name in self.durations and value is not None:
            return ", ".join(map(typed_duration, value)) if isinstance(value, list | tuple) else typed_duration(value)
        if name in self.shares and value is not None:
            return typed_share(value)
        return _shown(value, _sign(name))

    def _field(self, name: str) -> forms.Field:
        info, kind = self.leaves[name], kind_of(self.leaves[name])
        label = self.labels.get(name) or name.split(".")[-1].replace("_", " ").capitalize()
        options: dict[str, Any] = {
            "label": label,
            "help_text": self.help_texts.get(
                name, "" if info.description in (label, f"{label}.") else info.description or ""
            ),
            "required": False,
            "initial": self._default(name),
        }
        made: forms.Field
        if kind == "check":
            made = forms.BooleanField(**options)
        elif kind == "choice":
            choice_labels = self.choices.get(name, {})
            values = [value for value in get_args(_plain(info)) if isinstance(value, str)] or list(choice_labels)
            made = forms.ChoiceField(choices=[(value, choice_labels.get(value, value)) for value in values], **options)
        elif kind == "time":
            made = forms.DateTimeField(
                widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"), **options
            )
        else:
            made = forms.CharField(strip=name not in self.large, widget=self._widget(name, kind), **options)
        return made

    def _default(self, name: str) -> Any:
        info = self.leaves[name]
        return None if info.is_required() else self._text(name, info.get_default(call_default_factory=True))

    def differs(self, name: str) -> bool:
        """Whether the current setting is not the default."""
        return name in self.initial and (self.initial[name] or None) != (self._default(name) or None)

    def _widget(self, name: str, kind: Kind) -> forms.Widget:
        if name in self.secret:
            return forms.PasswordInput(attrs={"autocomplete": "off", "data-1p-ignore": ""})
        if kind == "lines" or name in self.large:
            code = {"class": "mono", "spellcheck": "false"} if kind == "lines" or name == "body" else {}
            return forms.Textarea(attrs={"rows": 3, **code})
        if kind == "number" and name not in self.durations | self.shares:
            return forms.TextInput(attrs={"inputmode": "decimal"})
        return forms.TextInput()

    # ---- from typed values to the object ---------------------------------------------------------------------------
    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        nested: dict[str, Any] = {}
        for name in self.fields:
            try:
                given, value = self._typed(name, cleaned.get(name))
            except ValueError as error:
                self.add_error(name, str(error))
                continue
            if given:
                _put(nested, name, value)
        nested |= self.fixed
        for drop in (_drop, _drop_section, _drop_section):
            self.partial = self._validated(nested)
            if self.partial is not None:
                break
            for name in self.errors:
                drop(nested, name, self.stand_ins.get(name))
        self.value = None if self.errors else self.partial
        return cleaned

    def _validated(self, nested: dict[str, Any]) -> Any:
        try:
            return self.schema.model_validate(nested)
        except ValidationError as error:
            self.refuse((tuple(map(str, row["loc"])), _error_text(row)) for row in error.errors(include_url=False))
            return None

    def _typed(self, name: str, value: Any) -> tuple[bool, Any]:
        """Whether this field has a value, and the value."""
        kind, info = kind_of(self.leaves[name]), self.leaves[name]
        if not self._matters(name):
            return False, None
        if not self.was_sent(name):
            # A script may send a few fields only: the others keep their settings, or get their defaults.
            current = None if name in self.secret else _at(self.present, name)
            return current is not None, current
        if kind == "check":
            return True, bool(value)
        if value and name in self.tidied:
            value = self.tidied[name](value)
        if value in (None, ""):
            empty: Any = {"lines": {}, "list": []}.get(kind, "")
            if kind == "list" and info.default is None:
                return True, None
            if kind in ("list", "lines"):
                return True, empty
            # An empty text is a value; an empty number or choice means the default.
            return kind == "text" and info.default == "", ""
        if kind == "lines":
            return True, _from_lines(value, _sign(name))
        if name in self.shares:
            return True, as_share(value)
        if name in self.durations:
            seconds = [as_seconds(part) for part in value.split(",") if part.strip()]
            return True, seconds if kind == "list" else seconds[0] if len(seconds) == 1 else as_seconds(value)
        if kind == "list":
            return True, [int(part) if part.isdecimal() else part for part in map(str.strip, value.split(",")) if part]
        return True, value

    def was_sent(self, name: str) -> bool:
        """A browser sends every field: the ``field`` tag puts a hidden “false” before each checkbox."""
        return name in self.data

    def _matters(self, name: str) -> bool:
        if name not in self.shown_for:
            return True
        other, _, values = self.shown_for[name].partition("=")
        chosen = self.cleaned_data.get(other) if self.was_sent(other) else _at(self.present, other)
        return chosen in values.split()

    # ---- from errors to fields -------------------------------------------------------------------------------------
    def refuse(self, errors: Invalid | Iterable[tuple[Sequence[str], str]]) -> None:
        """Add each error to its field, the first one per field."""
        for location, text in errors.errors if isinstance(errors, Invalid) else errors:
            # “basic authentication needs username” has the location auth; show it at that field.
            name = self._field_at((*location, text.split()[-1])) if text else self._field_at(location)
            sentence = text[:1].upper() + text[1:]
            if name is None:
                self.add_error(None, sentence)
            elif name not in self.errors:
                self.add_error(name, sentence if sentence.endswith((".", "?")) else f"{sentence}.")

    def _field_at(self, location: Sequence[str]) -> str | None:
        for length in range(len(location), 0, -1):
            path = ".".join(location[:length])
            if path in self.fields:
                return path
            if inside := next((name for name in self.fields if name.startswith(f"{path}.")), None):
                return inside
        return None


# ---- reading a schema ---------------------------------------------------------------------------------------------
def leaves(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every field of a schema and its nested schemas, by path."""
    found: dict[str, FieldInfo] = {}
    for name, info in schema.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = info
    return found


def kind_of(info: FieldInfo) -> Kind:
    plain = _plain(info)
    origin = get_origin(plain)
    if origin is Literal:
        return "choice"
    if plain is bool:
        return "check"
    if plain in (int, float):
        return "number"
    if plain is datetime:
        return "time"
    if origin is dict:
        return "lines"
    if origin in (list, tuple):
        return "list"
    return "text"


def _plain(info: FieldInfo) -> Any:
    """The annotation without ``| None`` and without constraints."""
    annotation: Any = info.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return annotation


# ---- values and texts ---------------------------------------------------------------------------------------------
def _sign(name: str) -> str:
    """The separator of name and value in a line: “Accept: text/plain”, but “page=2”."""
    return "=" if name.endswith("query") else ": "


def _shown(value: Any, sign: str = ": ") -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return str(int(value)) if value == int(value) else repr(value)
    if isinstance(value, dict):
        pairs = (
            (name, part) for name, given in value.items() for part in (given if isinstance(given, list) else [given])
        )
        return "\n".join(f"{name}{sign}{part}" for name, part in pairs)
    if isinstance(value, (list, tuple)):
        return ", ".join(str(_shown(part)) for part in value)
    return value


def _from_lines(text: str, sign: str) -> dict[str, Any]:
    """Names and values of lines. In a query a name may repeat; its value is then a list. Raises ValueError."""
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, divider, value = (part.strip() for part in line.partition(sign.strip()))
        if not name or not divider:
            raise ValueError(f"Line {number}: write it as name{sign}value.")
        if name not in found:
            found[name] = value
        elif sign == "=":
            found[name] = [*(found[name] if isinstance(found[name], list) else [found[name]]), value]
        else:
            raise ValueError(f"Line {number}: {name} is set twice. Keep one of the two lines.")
    return found


def _at(nested: Any, path: str) -> Any:
    for part in path.split("."):
        nested = nested.get(part) if isinstance(nested, dict) else None
    return nested


def _put(nested: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        nested = nested.setdefault(part, {})
    nested[last] = value


def _drop(nested: dict[str, Any], path: str, stand_in: Any) -> None:
    """Replace a value by its stand-in, or remove it."""
    *parents, last = path.split(".")
    for part in parents:
        nested = nested.get(part, {})
    nested.pop(last, None)
    if stand_in is not None:
        nested[last] = stand_in


def _drop_section(nested: dict[str, Any], path: str, stand_in: Any) -> None:
    """The same for all of ``auth`` if the rule is about several of its fields."""
    _drop(nested, path.partition(".")[0], stand_in)


def _error_text(row: ErrorDetails) -> str:
    """A broken rule as its field shows it, with the entry of a list that breaks it."""
    text = rule_text(row)
    in_a_list = any(isinstance(part, int) for part in row["loc"])
    given = f"{row['input']:g}" if isinstance(row["input"], float) else row["input"]
    return f"“{given}”: {text}" if in_a_list else f"{text[:1].upper()}{text[1:]}"
