"""Re-encrypt stored secrets with the newest key, while everything runs.

A row that the newest key reads is left alone, so an interrupted rotation goes on where it stopped. A row is replaced
only if it still holds the text that was read: a secret that an operator saves at the same time is never undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.apps import apps
from django.db import models
from django.db.models import F, Value
from django.db.models.functions import Cast

from integrations.models.fields import EncryptedJSONField, Unreadable, is_current, reencrypted

BATCH = 200  # rows read at a time


@dataclass(slots=True)
class Progress:
    """Counts of rows with secrets: all, those checked so far, those re-encrypted, and those that no key reads."""

    total: int
    checked: int = 0
    rotated: int = 0
    unreadable: tuple[str, ...] = ()  # such as "service 12"


def rotate() -> Iterator[Progress]:
    """Re-encrypt every stored secret that the newest key does not read. Yield the progress after each batch."""
    columns = _encrypted_columns()
    progress = Progress(total=sum(model._default_manager.count() for model, _ in columns))
    yield progress
    for model, name in columns:
        last = 0
        while rows := _rows_after(model, name, last):
            for key, text in rows:
                _rotate_row(model, name, key, text, progress)
            last = rows[-1][0]
            yield progress


def outdated() -> int:
    """Count the rows that the newest key does not read."""
    count = 0
    for model, name in _encrypted_columns():
        last = 0
        while rows := _rows_after(model, name, last):
            count += sum(text is not None and not is_current(text) for _, text in rows)
            last = rows[-1][0]
    return count


def _encrypted_columns() -> list[tuple[type[models.Model], str]]:
    return [
        (model, field.name)
        for model in apps.get_models()
        for field in model._meta.concrete_fields
        if isinstance(field, EncryptedJSONField)
    ]


def _rows_after(model: type[models.Model], name: str, last: int) -> list[tuple[int, str | None]]:
    """Return the next rows with their stored text, which the field would decrypt."""
    stored = _with_stored_text(model, name).filter(pk__gt=last).order_by("pk")
    return list(stored.values_list("pk", "stored")[:BATCH])


def _with_stored_text(model: type[models.Model], name: str) -> models.QuerySet[models.Model]:
    return model._default_manager.annotate(stored=Cast(F(name), models.TextField()))


def _rotate_row(model: type[models.Model], name: str, key: int, text: str | None, progress: Progress) -> None:
    progress.checked += 1
    while text is not None and not is_current(text):
        try:
            new_text = Value(reencrypted(text), models.TextField())
        except Unreadable:
            progress.unreadable += (f"{model._meta.verbose_name} {key}",)
            return
        if _with_stored_text(model, name).filter(pk=key, stored=text).update(**{name: new_text}):
            progress.rotated += 1
            return
        # An operator saved this row in between, perhaps in a process that has not yet read the new key.
        text = _with_stored_text(model, name).filter(pk=key).values_list("stored", flat=True).first()
