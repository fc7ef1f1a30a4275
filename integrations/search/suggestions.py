"""Suggest completions for a search while it is typed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from integrations.models import Endpoint, Service, field_value
from integrations.search.grammar import ALIASES, BODY, QUALIFIERS, TIMES, declared_fields


class Suggestion(NamedTuple):
    """A search with its last word completed, and the description of that word."""

    text: str
    description: str


SUGGESTIONS_LIMIT = 20
VALUES_READ = 200  # distinct values
AGES = ("15m", "1h", "6h", "1d", "7d")


def suggest(text: str) -> list[Suggestion]:
    """Complete the last word: a key, or a value if the values of the key are known."""
    head, _, last = text.rpartition(" ")
    sign = "-" if last.startswith("-") else ""
    key, colon, begun = last.removeprefix("-").partition(":")
    before = f"{head} {sign}" if head else sign
    if not colon:
        found = [(f"{name}:", description) for name, description in _keys(key) if name.startswith(key)]
    else:
        values = [value for value in _values(ALIASES.get(key, key), begun) if value.startswith(begun)]
        found = [(f"{key}:{value}", "") for value in values]
    return [Suggestion(before + word, description) for word, description in found[:SUGGESTIONS_LIMIT]]


def _keys(begun: str) -> list[tuple[str, str]]:
    known = [(name, qualifier.description) for name, qualifier in QUALIFIERS.items()]
    known += [(name, time.description) for name, time in TIMES.items()] + [("tag", "a tag, as name=value or its name")]
    if begun and (BODY.startswith(begun) or begun.startswith(BODY)):
        known += [(f"{BODY}{path}", "a field of the body") for path in sorted(declared_fields())]
    return known


def _values(key: str, begun: str) -> Iterable[str]:
    if key == "service":
        return Service.objects.filter(name__startswith=begun).values_list("name", flat=True)[:SUGGESTIONS_LIMIT]
    if key == "endpoint":
        names = Endpoint.objects.filter(name__startswith=begun).order_by("name").values_list("name", flat=True)
        return names.distinct()[:SUGGESTIONS_LIMIT]
    if key in QUALIFIERS:
        return QUALIFIERS[key].values
    if key.startswith(BODY):
        return _stored_values(key.removeprefix(BODY), begun)
    return AGES if key in ("older", "newer") else ()


def _stored_values(path: str, begun: str) -> list[str]:
    """Stored values of a declared field that need no quotes."""
    texts = field_value.distinct_values(path, begun, VALUES_READ)
    return [text for text in texts if text and not re.search(r'[\s"]', text)]
