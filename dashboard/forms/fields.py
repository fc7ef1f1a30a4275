"""Form fields for lines of names and values, and for local times."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django import forms

from integrations.schemas.fields import in_utc


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
