"""What forms make of typed text: names, paths, lines of names and values, local times."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import Any

from django import forms

from integrations.schemas.fields import in_utc


def as_name(text: str) -> str:
    """“My Orders” as “my-orders”. A text without a letter or digit stays, so that the schema refuses it."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or text


def as_path(text: str) -> str:
    """“orders” as “/orders”."""
    return text if text.startswith("/") else f"/{text}"


_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|d)[a-z]*\s*")


def as_seconds(text: str) -> float:
    """“6h”, “1 h 30 min” or “90” as seconds. Raises ValueError."""
    plain = text.strip().lower()
    if re.fullmatch(r"-?\d+(\.\d+)?|-?\.\d+", plain):
        return float(plain)  # a number alone is seconds, as in the API
    parts = _PART.findall(plain)
    if not parts or _PART.sub("", plain):
        raise ValueError("Write a duration such as 30s, 5m, 6h or 2d.")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def as_share(text: str) -> float:
    """“20 %”, “20” or “0.2” as 0.2. Other numbers stay, so that the schema refuses 1.1, which may mean either.

    Raises ValueError."""
    number, percent = re.sub(r"\s*%$", "", text.strip()), text.strip().endswith("%")
    try:
        share = float(number)
    except ValueError:
        raise ValueError("Write a share such as 20 %.") from None
    return round(share / 100, 12) if percent or (share > 1 and share.is_integer()) else share


class LinesField(forms.CharField):
    """Lines of names and values as pairs; ``mark`` stands between name and value."""

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
                example = "name=value" if self.mark == "=" else f"name{self.mark} value"
                raise forms.ValidationError(f"Line {number}: write it as {example}.")
            pairs.append((name.strip(), text.strip()))
        return pairs


class LocalTimeField(forms.DateTimeField):
    """A time from the browser's own picker, in the viewer's time zone."""

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
