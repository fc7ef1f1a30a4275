"""For a search without a result: other places where its text is, as searches that find it.

Each look is bounded: an index finds ids and declared fields in all of history, tags and ordering keys are looked for in
the newest messages, and undeclared fields in the newest bodies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from django.db.models import Q, TextField
from django.db.models.functions import Cast, Length

from integrations.models import Message, MessageContent, Service, field_value
from integrations.schemas.fields import checked_field
from integrations.search.grammar import BODY, Word, is_compared, quoted
from integrations.search.pages import SearchResults

NEWEST = 10_000  # messages whose tags and ordering keys are looked at
ROWS = 200  # of them that have the text
BODIES, LARGEST_BODY = 300, 32 * 1024  # the newest bodies that are looked into, and the bytes of the largest one
COUNT_LIMIT = 1_000


@dataclass(frozen=True, slots=True)
class Alternative:
    """A search that finds something, and how many messages it finds; the count may have stopped at a limit."""

    text: str
    count: int
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A field of a service's bodies that has the text in its newest messages, and that is not declared."""

    service: str
    path: str
    value: str
    count: int


@dataclass(slots=True)
class Alternatives:
    """Where the texts of a search are."""

    searches: list[Alternative] = field(default_factory=list)
    undeclared: list[Undeclared] = field(default_factory=list)


def alternatives(results: SearchResults) -> Alternatives:
    """Look for the longest text of a search elsewhere, in four queries at most."""
    found = Alternatives()
    texts = [text for text in results.search.sought if text and "\0" not in text]
    if not texts:
        return found
    text = max(texts, key=len)
    found.searches = [
        *_by_id(text),
        *_by_field(text, results.search.declared),
        *_by_tag_and_key(text, results.newest),
    ]
    if not found.searches:
        found.undeclared = list(_undeclared(text, results.newest, list(results.services.values())))
    return found


def _by_id(text: str) -> Iterable[Alternative]:
    if text.isascii() and text.isdecimal() and len(text) < 19 and (message := Message.objects.filter(pk=text).first()):
        yield Alternative(message.public_id, 1, False)


def _by_field(text: str, declared: Sequence[str]) -> Iterable[Alternative]:
    if is_compared(text):
        return
    for path, count in field_value.fields_having(text, declared, COUNT_LIMIT).items():
        yield Alternative(quoted(f"{BODY}{path}:{text}"), count, count == COUNT_LIMIT)


def _by_tag_and_key(text: str, newest: int) -> Iterable[Alternative]:
    """Among the newest messages. A tag is found by the begin of its value, as a word finds it."""
    begun = Word(text, is_negated=False, fields=())
    rows = Message.objects.filter(pk__gt=newest - NEWEST).alias(_tags_text=Cast("tags", TextField()))
    having = rows.filter(begun.in_tags() | Q(ordering_key__icontains=text)).order_by("-pk")
    counts: Counter[str] = Counter()
    shown = list(having.values_list("tags", "ordering_key")[:ROWS])
    for tags, key in shown:
        for name, value in tags.items():
            if str(value).lower().startswith(text.lower()) and "=" not in name:
                counts[f"tag:{name}={value}"] += 1
            elif name.lower() == text.lower():
                counts[f"tag:{name}"] += 1
        if text.lower() in key.lower():
            counts[f"key:{key}"] += 1
    for word, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:5]:
        yield Alternative(quoted(word), count, len(shown) == ROWS)


def _undeclared(text: str, newest: int, services: Sequence[Service]) -> Iterable[Undeclared]:
    """The undeclared fields of the newest bodies that have the text as their value."""
    bodies = MessageContent.objects.filter(message__gt=newest - BODIES, message__lte=newest)
    small = bodies.annotate(size=Length("body")).filter(size__lte=LARGEST_BODY).order_by("-message")
    counts: Counter[tuple[int, str]] = Counter()
    for service_id, body in small.values_list("message__service_id", "body"):
        if text.encode(errors="replace") in bytes(body):
            counts.update((service_id, path) for path in field_value.paths_of(text, bytes(body)))
    by_number = {service.pk: service for service in services}
    for (service_id, path), count in counts.most_common(5):
        service = by_number.get(service_id)
        if service and path not in service.search_fields and _may_be_declared(path):
            yield Undeclared(service.name, path, text, count)


def _may_be_declared(path: str) -> bool:
    try:
        return len(checked_field(path)) <= field_value.PATH_LIMIT
    except ValueError:
        return False
