"""Break down what a search finds: by tag, declared field of the body, endpoint, status and the last status code.

It shows the impact: the customers of a failure group, the orders of a service. It reads the newest messages only,
since a count over all of history would read all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter

from integrations.models import Endpoint, FieldValue
from integrations.search.grammar import BODY, is_compared, quoted
from integrations.search.pages import SearchResults

READ = 2_000  # messages
SHOWN = 10  # values of each part
PARTS = 12  # of the tags, and of the fields
COLUMNS = ("pk", "service_id", "endpoint_id", "status", "last_status_code", "tags")


@dataclass(frozen=True, slots=True)
class Share:
    """The messages with one value, and the word that finds them; empty if the grammar has none."""

    value: str
    count: int
    word: str


@dataclass(frozen=True, slots=True)
class Part:
    """The messages by the values of one thing that they have in common."""

    kind: str  # tag, field, service, endpoint, status or code
    name: str
    messages: int  # that have a value
    values: int  # different ones
    shares: list[Share]  # the largest

    @property
    def rest(self) -> int:
        """The number of values that are not shown."""
        return self.values - len(self.shares)


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The newest messages that a search finds, by the values that they share."""

    messages: int
    is_cut: bool  # there may be more messages
    parts: list[Part]

    @property
    def leading(self) -> Part | None:
        """The part that names those affected: the tag, else the field, whose values repeat in most messages."""
        named = [part for part in self.parts if part.kind in ("tag", "field")]
        return next((part for part in named if part.values < part.messages), named[0] if named else None)


def break_down(found: SearchResults) -> Breakdown:
    """Break down the newest READ results, in three queries more than the search takes."""
    rows, is_cut = found.newest_rows(READ, *COLUMNS)
    names = {service.pk: service.name for service in found.services.values()}
    services = Counter(names.get(service_id, "") for _, service_id, *_ in rows)
    statuses = Counter(map(itemgetter(3), rows))
    codes = Counter(str(code) for *_, code, _ in rows if code)
    parts = [
        *_tags(row[-1] for row in rows),
        *_fields([row[0] for row in rows], found.search.declared),
        *([_part("service", "service", services, len(rows))] if len(services) > 1 else []),
        _endpoints(endpoint_id for _, _, endpoint_id, *_ in rows),
        _part("status", "status", statuses, len(rows)),
        _part("code", "last status code", codes, codes.total(), key="code"),
    ]
    return Breakdown(len(rows), is_cut, [part for part in parts if part.values])


def _part(kind: str, name: str, counts: Counter[str], messages: int, *, key: str = "") -> Part:
    shares = [Share(value, count, _word(key or name, value)) for value, count in _most(counts)]
    return Part(kind, name, messages, len(counts), shares)


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    """The largest counts, equal ones by their value, so that a second look shows the same."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]


def _word(key: str, value: str) -> str:
    """The word of the grammar that finds a value; empty if it would find something else."""
    if not value or "\0" in value or (key.startswith(BODY) and is_compared(value)):
        return ""
    return quoted(f"{key}:{value}")


def _tags(rows: Iterable[dict[str, str]]) -> list[Part]:
    counts: dict[str, Counter[str]] = {}
    for tags in rows:
        for name, value in tags.items():
            counts.setdefault(name, Counter())[str(value)] += 1
    parts = [
        Part(
            "tag",
            name,
            values.total(),
            len(values),
            [
                Share(value, count, "" if "=" in name else _word("tag", f"{name}={value}"))
                for value, count in _most(values)
            ],
        )
        for name, values in counts.items()
    ]
    return sorted(parts, key=lambda part: (-part.messages, part.name))[:PARTS]


def _fields(ids: list[int], declared: tuple[str, ...]) -> list[Part]:
    """The declared fields of the bodies. A message with several values of a field, as of an array, counts for each."""
    if not ids or not declared:
        return []
    counts: dict[str, Counter[str]] = {}
    having: dict[str, set[int]] = {}
    stored = FieldValue.objects.filter(message__any=ids, path__in=declared).order_by()
    for message_id, path, text in stored.values_list("message_id", "path", "text"):
        counts.setdefault(path, Counter())[text] += 1
        having.setdefault(path, set()).add(message_id)
    parts = [_part("field", path, values, len(having[path]), key=f"{BODY}{path}") for path, values in counts.items()]
    return sorted(parts, key=lambda part: (-part.messages, part.name))[:PARTS]


def _endpoints(ids: Iterable[int | None]) -> Part:
    counts = Counter(pk for pk in ids if pk is not None)
    rows = Endpoint.objects.filter(pk__any=list(counts)).values_list("pk", "name") if counts else ()
    named: Counter[str] = Counter()
    for pk, name in rows:
        named[name] += counts[pk]
    return _part("endpoint", "endpoint", named, named.total())
