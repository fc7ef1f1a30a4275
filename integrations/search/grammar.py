"""The search grammar: one for the console's search, the API's ``q``, exports and operations.

    service:billing -status:delivered code:500..599 older:1h tag:customer=acme body.order.id:42 /orders

A word is a qualifier (``key:value``) or free text (``Word``); a leading ``-`` negates it. A search must not become slow
with a long history. A condition with an index searches the whole history; for any other, a page scans the next
SCAN_LIMIT messages, says so, and links to the next scan.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, NamedTuple

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from integrations.errors import Invalid
from integrations.models import FieldValue, Operation, Service, Status, identifiers
from integrations.models.field_value import TEXT_LIMIT
from integrations.models.message import is_replayed
from integrations.outbound.outcome import Fault
from integrations.policies.retry import DeadReason
from integrations.schemas.fields import METHODS, checked_field, checked_method

WORDS_LIMIT = 50
IDS_LIMIT = 1_000  # messages chosen by id


@dataclass(frozen=True, slots=True)
class Qualifier:
    """One key of the grammar. ``read`` turns its value into a condition, or raises ValueError with a message."""

    description: str  # for users
    read: Callable[[str], Q]
    values: tuple[str, ...] = ()  # the permitted values, if they are a closed list
    is_indexed: bool = False  # an index finds its messages, newest first


def _equal(column: str) -> Callable[[str], Q]:
    return lambda value: Q(**{column: value})


def _one_of(column: str, values: tuple[str, ...], **implied: str) -> Callable[[str], Q]:
    """``implied``: conditions that hold whenever the column has a value, so that an index serves the search."""

    def read(value: str) -> Q:
        if value not in values:
            raise ValueError(f"has an unknown value; use {', '.join(values)}")
        return Q(**{column: value}, **implied)

    return read


_NUMBER = r"-?\d{1,15}(?:\.\d{1,15})?"
_COMPARED = re.compile(rf"(>=|<=|>|<|)({_NUMBER})")
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_LOOKUPS = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "": "exact"}


def compared(column: str, value: str) -> Q:
    """A condition from ``42``, ``>42``, ``<=42`` or ``40..49``. Raises ValueError with a message for users."""
    if found := _RANGE.fullmatch(value):
        if float(found[1]) > float(found[2]):
            raise ValueError(f"ends before it starts; write {found[2]}..{found[1]}")
        return Q(**{f"{column}__gte": float(found[1]), f"{column}__lte": float(found[2])})
    if found := _COMPARED.fullmatch(value):
        return Q(**{f"{column}__{_LOOKUPS[found[1]]}": float(found[2])})
    raise ValueError("takes a number, such as 42, >42, <=42 or 40..49")


def is_compared(value: str) -> bool:
    """Whether a field's value compares numbers, such as >42 or 40..49; else it is the text itself."""
    return value[0] in "<>" or _RANGE.fullmatch(value) is not None


def _number(column: str, digits: int) -> Callable[[str], Q]:
    def read(value: str) -> Q:
        if not re.fullmatch(rf"(>=|<=|>|<|\d{{1,{digits}}}\.\.|)\d{{1,{digits}}}", value):
            raise ValueError(f"takes a number of up to {digits} digits, such as 42, >42, <=42 or 40..49")
        return compared(column, value)

    return read


def _status_code(value: str) -> Q:
    """A number, or a class of codes as in the retry settings: ``5xx``."""
    if of_class := re.fullmatch(r"([1-5])xx", value):
        value = f"{of_class[1]}00..{of_class[1]}99"
    return _number("last_status_code", 3)(value)


def _picked(value: str) -> Q:
    names = value.split(",")
    parsed = [identifiers.parse("msg", name) for name in names]
    if None in parsed or len(parsed) > IDS_LIMIT:
        example = identifiers.public_id("msg", 42, 0x9F3A7C21)
        raise ValueError(f"takes up to {IDS_LIMIT:,} ids of messages, such as {example}, with commas")
    return Q(pk__any=[pair[0] for pair in parsed if pair], nonce__any=[pair[1] for pair in parsed if pair])


def _named(prefix: str, column: str) -> Callable[[str], Q]:
    """A condition for the row with a public id, to which ``column`` points."""

    def read(value: str) -> Q:
        number, nonce = _identified(prefix, value)
        return Q(**{f"{column}__pk": number, f"{column}__nonce": nonce})

    return read


def _operation(value: str) -> Q:
    number, nonce = _identified("op", value)
    return Q(Exists(Operation.objects.filter(pk=number, nonce=nonce)), operation_id=number)


def _identified(prefix: str, value: str) -> tuple[int, int]:
    if (parsed := identifiers.parse(prefix, value)) is None:
        raise ValueError(f"takes an id, such as {identifiers.public_id(prefix, 42, 0x9F3A7C21)}")
    return parsed


def _method(value: str) -> Q:
    """Methods of the API's rule: also custom ones such as PURGE, which messages may have."""
    return Q(method=checked_method(value))


def _state(value: str) -> Q:
    if value not in STATES:
        raise ValueError(f"has an unknown value; use {', '.join(STATES)}")
    return STATES[value]


def _since(value: str, now: datetime) -> datetime:
    """The time at an age, such as 15m, before now. Raises ValueError with a message for users."""
    found = re.fullmatch(r"(\d{1,6})(s|m|h|d|w)", value)
    if found is None:
        raise ValueError("takes an age, such as 90s, 15m, 1h, 7d or 2w")
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[found[2]]
    return now - min(timedelta(seconds=seconds), _OLDEST)


_OLDEST = timedelta(days=36_500)


def _moment(value: str, _: datetime) -> datetime:
    """A time from ISO 8601. Raises ValueError with a message for users."""
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("takes a time, such as 2026-01-31 or 2026-01-31T09:30, in UTC unless it says a zone") from None


class TimeQualifier(NamedTuple):
    """A key of the grammar for the time of acceptance."""

    description: str
    bound: str
    read: Callable[[str, datetime], datetime]


STATUSES = tuple(Status.values)
REASONS = tuple(reason.value for reason in DeadReason)
FAULTS = tuple(fault.value for fault in Fault)
STATES = {
    "replayed": is_replayed(),
    "replay": Q(replay_of__isnull=False),
    "held": Q(held=True),
    "parked": Q(parked=True),
}
QUALIFIERS = {
    "service": Qualifier("name of a service", _equal("service__name")),
    "endpoint": Qualifier("name of an endpoint", _equal("endpoint__name")),
    "status": Qualifier("message status", _one_of("status", STATUSES), STATUSES),
    "reason": Qualifier("reason why it is dead", _one_of("dead_reason", REASONS, status="dead"), REASONS),
    "fault": Qualifier("fault of the last failed call", _one_of("last_fault", FAULTS), FAULTS),
    "code": Qualifier("last status code", _status_code),
    "key": Qualifier("ordering key", _equal("ordering_key")),
    "method": Qualifier("HTTP method", _method, METHODS),
    "attempts": Qualifier("attempts used", _number("attempts", 6)),
    "calls": Qualifier("calls made", _number("calls", 6)),
    "is": Qualifier("replayed, a replay, held or parked", _state, tuple(STATES)),
    "id": Qualifier("ids of messages, with commas", _picked, is_indexed=True),
    "failure": Qualifier("a failure group's id", _named("fail", "failure"), is_indexed=True),
    "operation": Qualifier("made by this operation", _operation, is_indexed=True),
    "replay_of": Qualifier("replays of this message", _named("msg", "replay_of"), is_indexed=True),
}
ALIASES = {"dead_reason": "reason", "status_code": "code", "ordering_key": "key"}  # the names of the API's parameters
TIMES = {
    "after": TimeQualifier("accepted since, in UTC", "created_after", _moment),
    "before": TimeQualifier("accepted before, in UTC", "created_before", _moment),
    "newer": TimeQualifier("accepted in the last 15m, 1h, 7d", "created_after", _since),
    "older": TimeQualifier("accepted longer ago than 15m, 1h, 7d", "created_before", _since),
}
KEYS = (*QUALIFIERS, *TIMES, "tag")
TEXTS = ("tag", "key", "endpoint")  # keys whose values may stand elsewhere in a message, too
BODY = "body."
_KEY = re.compile(r"[a-z_]+(\.[^:]*)?")


class FieldCondition(NamedTuple):
    """A condition on a declared field of the body."""

    path: str
    condition: Q
    is_negated: bool
    is_indexed: bool  # an index finds its messages, newest first

    def values(self, **bounds: int) -> QuerySet[FieldValue]:
        return FieldValue.objects.filter(self.condition, path=self.path, **bounds)

    def holds(self, **bounds: int) -> Q:
        return negated(Q(Exists(self.values(**bounds).filter(message=OuterRef("pk")))), self.is_negated)


_ID = re.compile(r"(?:msg_)?(\d{1,18})(?:_[0-9a-f]{0,8})?")
_NONCE = re.compile(r"[0-9a-f]{8}")


class Word(NamedTuple):
    """Free text: a part of the path or the ordering key, the method, the begin of a tag's name or value, the whole
    value of a declared field, or an id or a half of it."""

    text: str
    is_negated: bool
    fields: tuple[str, ...]  # that services declare

    def holds(self, **bounds: int) -> Q:
        """A condition on messages. ``bounds``: limits of the ids among which the caller looks. With them the values of
        fields are read once by their index, else for each message."""
        found = Q(path__icontains=self.text) | Q(method__iexact=self.text) | Q(ordering_key__icontains=self.text)
        found |= self.in_tags()
        if self.fields:
            values = FieldValue.objects.filter(path__in=self.fields, text=self.text[:TEXT_LIMIT], **bounds)
            by_field = Q(pk__in=values.values("message"))
            found |= by_field if bounds else Q(Exists(values.filter(message=OuterRef("pk"))))
        if by_id := _ID.fullmatch(self.text.lower()):
            found |= Q(pk=int(by_id[1]))
        if _NONCE.fullmatch(self.text.lower()):
            found |= Q(nonce=int(self.text, 16))
        return negated(found, self.is_negated)

    def in_tags(self) -> Q:
        """A condition on ``_tags_text``, the tags as text."""
        found = Q()
        for begun in {json.dumps(self.text)[:-1], json.dumps(self.text, ensure_ascii=False)[:-1]}:
            found |= Q(_tags_text__icontains=begun)  # one database stores its JSON in ASCII
        return found


@dataclass(slots=True)
class Search:
    """The conditions of a search. ``values`` holds service, status and times, which have their own indexes; all other
    conditions must hold too. ``problems`` lists the parts left out, as sentences without a full stop."""

    values: dict[str, Any] = field(default_factory=dict)
    indexed: list[Q] = field(default_factory=list)
    others: list[Q] = field(default_factory=list)
    fields: list[FieldCondition] = field(default_factory=list)
    tags: list[tuple[str, bool]] = field(default_factory=list)  # name=value or a name; True if it is negated
    words: list[Word] = field(default_factory=list)
    sought: list[str] = field(default_factory=list)  # the texts that it looks for, wherever they are
    problems: list[str] = field(default_factory=list)
    now: datetime = field(default_factory=timezone.now)  # ages count from this time
    _services: dict[str, Service] | None = None

    @property
    def services(self) -> dict[str, Service]:
        """All services by name, read once: for the filter, its choices, the names in the rows and declared fields."""
        if self._services is None:
            self._services = {service.name: service for service in Service.objects.only("name", "search_fields")}
        return self._services

    @property
    def declared(self) -> tuple[str, ...]:
        """The fields of bodies that services declare."""
        return tuple(sorted({path for service in self.services.values() for path in service.search_fields}))

    @property
    def is_empty(self) -> bool:
        return not (self.values or self.has_conditions)

    @property
    def has_conditions(self) -> bool:
        """Whether it has conditions other than service, status and time."""
        return bool(self.indexed or self.fields or self.others or self.tags or self.words)

    @property
    def needs_scan(self) -> bool:
        """Whether no single index gives the results, newest first."""
        if self.fields or self.others or self.tags or self.words:
            return True
        status = self.values.get("status")
        if self.indexed:
            return len(self.indexed) > 1 or "service" in self.values or bool(status)
        return status in (Status.DELIVERED, Status.CANCELLED)

    def require(self, *location: str) -> None:
        """Raise Invalid if a part was not understood: without it the search would find too much."""
        if self.problems:
            raise Invalid(*((location, problem) for problem in self.problems))

    def add(self, key: str, value: str, *, is_negated: bool = False) -> None:
        """Add a qualifier; one that is not understood becomes a problem."""
        try:
            self._qualify(ALIASES.get(key, key), value, is_negated)
        except ValueError as problem:
            self.problems.append(f"“{key}:{value[:80]}” {problem}")

    def _qualify(self, key: str, value: str, is_negated: bool) -> None:
        if not value or "\0" in value:
            raise ValueError("needs a value, without a NUL character")
        if not is_negated and (key in TEXTS or key not in KEYS):
            self.sought.append(value.partition("=")[2] or value if key == "tag" else value)
        if key == "tag":
            self.tags.append((value, is_negated))
        elif key.startswith(BODY):
            self._qualify_field(key.removeprefix(BODY), value, is_negated)
        elif key in TIMES:
            if is_negated:
                raise ValueError("cannot be negated; use the opposite qualifier instead")
            moment = TIMES[key].read(value, self.now)
            self.between(**{TIMES[key].bound: moment})
        elif key in QUALIFIERS:
            condition = QUALIFIERS[key].read(value)
            if key in ("service", "status") and not is_negated and key not in self.values:
                self.values[key] = value
            elif QUALIFIERS[key].is_indexed and not is_negated:
                self.indexed.append(condition)
            else:
                self.others.append(negated(condition, is_negated))
        else:
            raise ValueError(_unknown(key))

    def _qualify_field(self, path: str, value: str, is_negated: bool) -> None:
        if path not in self.declared:
            raise ValueError(_undeclared(path))
        compares = is_compared(value)
        condition = compared("number", value) if compares else Q(text=value[:TEXT_LIMIT])
        self.fields.append(FieldCondition(path, condition, is_negated, is_indexed=not (compares or is_negated)))

    def between(self, created_after: datetime | None = None, created_before: datetime | None = None) -> None:
        """Narrow the time of acceptance."""
        if created_after:
            self.values["created_after"] = max(created_after, self.values.get("created_after", created_after))
        if created_before:
            self.values["created_before"] = min(created_before, self.values.get("created_before", created_before))


def parse(text: str, now: datetime | None = None) -> Search:
    """Parse a search as typed; ages count from ``now``."""
    search = Search(now=now or timezone.now())
    try:
        words = [word for word in shlex.split(text) if word]
    except ValueError:
        search.problems.append("A quote is not closed" if re.search("['\"]", text) else "Nothing follows the backslash")
        return search
    if len(words) > WORDS_LIMIT or "\0" in text:
        search.problems.append(f"A search has up to {WORDS_LIMIT} words, and no NUL character")
        return search
    for word in words:
        is_negated = len(word) > 1 and word.startswith("-")
        plain = word[1:] if is_negated else word
        key, colon, value = plain.partition(":")
        if not key.startswith(BODY):
            key = key.lower()
        if identifiers.parse("msg", plain.lower()):
            search.add("id", plain.lower(), is_negated=is_negated)
        elif colon and _KEY.fullmatch(key) and not value.startswith("//"):
            search.add(key, value, is_negated=is_negated)
        else:
            search.words.append(Word(plain, is_negated, search.declared))
            search.sought += [] if is_negated else [plain]
    return search


def quoted(word: str) -> str:
    """A word as it is typed into a search: in quotes if it would be cut otherwise."""
    return shlex.quote(word) if re.search(r"[\s'\"\\]", word) or not word else word


def declared_fields() -> set[str]:
    """The searchable fields of all services."""
    return {path for paths in Service.objects.values_list("search_fields", flat=True) for path in paths}


def _undeclared(path: str) -> str:
    """The message for a field that no service has declared: the fault of its name, or the way to declare it."""
    try:
        checked_field(path)
    except ValueError as problem:
        return f"names no field: {problem}"
    return (
        f"uses a field that no service has declared: add {path} to its service's fields of the body to search "
        "(search_fields); it finds messages accepted from then on, and Body fields in the console indexes older ones"
    )


def negated(condition: Q, is_negated: bool) -> Q:
    return ~condition if is_negated else condition


def _unknown(key: str) -> str:
    """The message for an unknown key, with the nearest known key."""
    near = get_close_matches(key, [*KEYS, *ALIASES], 1)
    hint = f"the nearest one is “{near[0]}:”" if near else f"use {', '.join(KEYS)}, or tag:{key[:40]}=… for a tag"
    return f"is not a known qualifier: {hint}"
