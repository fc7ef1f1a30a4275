"""Suggest how a search that is being typed may continue."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from integrations.models import (
    Endpoint,
    Service,
    field_value,
)
from integrations.search.grammar import ALSO, BODY, QUALIFIERS, TIMES, declared_fields


class Offer(NamedTuple):
    """A search with its last word completed, and what that word is about."""

    text: str
    words: str


OFFERS = 20
VALUES_LOOKED_AT = 200  # different ones
AGES = ("15m", "1h", "6h", "1d", "7d")


def offers(text: str) -> list[Offer]:
    """How a search that is being typed may go on: keys first, then values where they are a list that is known."""
    head, _, last = text.rpartition(" ")
    sign = "-" if last.startswith("-") else ""
    key, colon, begun = last.removeprefix("-").partition(":")
    before = f"{head} {sign}" if head else sign
    if not colon:
        found = [(f"{name}:", words) for name, words in _keys(key) if name.startswith(key)]
    else:
        values = [value for value in _values(ALSO.get(key, key), begun) if value.startswith(begun)]
        found = [(f"{key}:{value}", "") for value in values]
    return [Offer(before + word, words) for word, words in found[:OFFERS]]


def _keys(begun: str) -> list[tuple[str, str]]:
    known = [(name, qualifier.words) for name, qualifier in QUALIFIERS.items()]
    known += [(name, time.words) for name, time in TIMES.items()] + [("tag", "a label, as name=value or its name")]
    if begun and (BODY.startswith(begun) or begun.startswith(BODY)):
        known += [(f"{BODY}{path}", "a field of the body") for path in sorted(declared_fields())]
    return known


def _values(key: str, begun: str) -> Iterable[str]:
    if key == "service":
        return Service.objects.filter(name__startswith=begun).values_list("name", flat=True)[:OFFERS]
    if key == "endpoint":
        names = Endpoint.objects.filter(name__startswith=begun).order_by("name").values_list("name", flat=True)
        return names.distinct()[:OFFERS]
    if key in QUALIFIERS:
        return QUALIFIERS[key].values
    if key.startswith(BODY):
        return _kept_values(key.removeprefix(BODY), begun)
    return AGES if key in ("older", "newer") else ()


def _kept_values(path: str, begun: str) -> list[str]:
    """Values of a declared field, those that can be written without quotes."""
    texts = field_value.distinct_values(path, begun, VALUES_LOOKED_AT)
    return [text for text in texts if text and not re.search(r'[\s"]', text)]
