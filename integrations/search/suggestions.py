"""Suggest completions for a search while it is typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from django.db.models import Max, QuerySet

from integrations.models import Endpoint, Message, Service, Status, field_value
from integrations.search.grammar import ALIASES, BODY, QUALIFIERS, TIMES, declared_fields, is_compared, quoted


class Suggestion(NamedTuple):
    """A search with its last word completed, and the description of that word."""

    text: str
    description: str


SUGGESTIONS_LIMIT = 20
VALUES_READ = 200  # distinct values
TAGGED = 1_000  # the newest messages whose tags are offered
EVERYWHERE = 8  # completions of free text
AGES = ("15m", "1h", "6h", "1d", "7d")


def suggest(text: str) -> list[Suggestion]:
    """Complete the last word: a key, a value if the values of the key are known, or the key of a value."""
    head, _, last = text.rpartition(" ")
    sign = "-" if last.startswith("-") else ""
    key, colon, begun = last.removeprefix("-").partition(":")
    before = f"{head} {sign}" if head else sign
    if not colon:
        found = [(f"{name}:", description) for name, description in _keys(key) if name.startswith(key)]
        found += _everywhere(key) if len(key) > 1 else []
    else:
        values = [value for value in _values(ALIASES.get(key, key), begun) if value.startswith(begun)]
        found = [(f"{key}:{value}", "") for value in values]
    return [Suggestion(before + quoted(word), description) for word, description in found[:SUGGESTIONS_LIMIT]]


def _keys(begun: str) -> list[tuple[str, str]]:
    known = [(name, qualifier.description) for name, qualifier in QUALIFIERS.items()]
    known += [(name, time.description) for name, time in TIMES.items()] + [("tag", "a tag, as name=value or its name")]
    if begun and (BODY.startswith(begun) or begun.startswith(BODY)):
        known += [(f"{BODY}{path}", "a field of the body") for path in sorted(declared_fields())]
    return known


def _everywhere(begun: str) -> list[tuple[str, str]]:
    """The words that find a value of which the begin was typed: statuses, services, tags and declared fields."""
    if "\0" in begun:
        return []
    lower = begun.lower()
    found = [(f"status:{status}", "status") for status in Status.values if status.startswith(lower)]
    found += [(f"service:{name}", "service") for name in _services(lower)[:EVERYWHERE]]
    found += [
        (f"tag:{name}={value}", "tag")
        for name, value in _newest_tags()
        if value.lower().startswith(lower) and "=" not in name
    ][:EVERYWHERE]
    if not is_compared(begun):
        having = field_value.fields_having(begun, sorted(declared_fields()), 1)
        found += [(f"{BODY}{path}:{begun}", "field of the body") for path in having]
    return found


def _values(key: str, begun: str) -> Iterable[str]:
    if key == "service":
        return _services(begun)[:SUGGESTIONS_LIMIT]
    if key == "endpoint":
        names = Endpoint.objects.filter(name__startswith=begun).order_by("name").values_list("name", flat=True)
        return names.distinct()[:SUGGESTIONS_LIMIT]
    if key == "tag":
        return _tags(begun)
    if key in QUALIFIERS:
        return QUALIFIERS[key].values
    if key.startswith(BODY):
        return _stored_values(key.removeprefix(BODY), begun)
    return AGES if key in ("older", "newer") else ()


def _services(begun: str) -> QuerySet[Service, str]:
    return Service.objects.filter(name__startswith=begun).order_by("name").values_list("name", flat=True)


def _tags(begun: str) -> list[str]:
    """The names of tags, each with its ``=``, or the values of a name."""
    name, equals, _ = begun.partition("=")
    if equals:
        return [f"{name}={value}" for tag, value in _newest_tags() if tag == name]
    return list(dict.fromkeys(f"{tag}=" for tag, _ in _newest_tags() if "=" not in tag))


def _newest_tags() -> list[tuple[str, str]]:
    """The tags of the newest messages, the most frequent first."""
    newest = Message.objects.aggregate(newest=Max("pk"))["newest"] or 0
    rows = Message.objects.filter(pk__gt=newest - TAGGED).values_list("tags", flat=True)
    counts = Counter((name, str(value)) for tags in rows for name, value in tags.items())
    return [tag for tag, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def _stored_values(path: str, begun: str) -> list[str]:
    """Stored values of a declared field."""
    return [text for text in field_value.distinct_values(path, begun, VALUES_READ) if text]
