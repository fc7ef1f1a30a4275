"""Finding messages: one grammar for the console's search, the API's ``q``, exports and operations.

    service:billing -status:delivered code:500..599 older:1h tag:customer=acme body.order.id:42 /orders

A word is a qualifier (``key:value``) or free text, which is looked for in method and path; ``-`` before it means “not”.
Nothing here may get slow with history. What an index answers is asked of all of it; for anything else a page looks
through the next SEARCHED messages, says so, and leads on from there.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar, cast

from django.db.models import Count, Exists, Max, Min, Model, OuterRef, Q, QuerySet, TextField
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Cast
from django.utils import timezone

from integrations.models import (
    UNFINISHED,
    Endpoint,
    FieldValue,
    Message,
    Operation,
    Service,
    Status,
    field_value,
    identifiers,
)
from integrations.models.field_value import TEXT_LIMIT
from integrations.models.message import MessageQuerySet, answered
from integrations.outcome import Fault
from integrations.policies.retry import DeadReason
from integrations.registry import Invalid
from integrations.schemas import METHODS, checked_field

COUNT_LIMIT = 10_000
SEARCHED = 100_000  # messages looked through where no index helps
WORDS_LIMIT = 50
IDS_LIMIT = 1_000  # messages picked one by one
PROBES = 500  # row numbers looked at in one step of the search for a point in time
CLOSE = 20_000  # rows that may be read in vain for a point in time
SLACK = 1_000  # row numbers and acceptance times are in the same order, but for transactions side by side


# ---- what a word may say ------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Qualifier:
    """One key of the grammar: ``read`` turns its value into a condition or raises ValueError in words."""

    words: str  # what it finds, for people
    read: Callable[[str], Q]
    values: tuple[str, ...] = ()  # what may stand behind it, where that is a closed list
    is_indexed: bool = False  # an index finds its messages, newest first


def _equal(column: str) -> Callable[[str], Q]:
    return lambda value: Q(**{column: value})


def _one_of(column: str, values: tuple[str, ...], **implied: str) -> Callable[[str], Q]:
    """``implied``: what is so wherever the column has a value, said for the sake of an index."""

    def read(value: str) -> Q:
        if value not in values:
            raise ValueError(f"is one of {', '.join(values)}")
        return Q(**{column: value}, **implied)

    return read


_NUMBER = r"-?\d{1,15}(?:\.\d{1,15})?"
_COMPARED = re.compile(rf"(>=|<=|>|<|)({_NUMBER})")
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")
_LOOKUPS = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt", "": "exact"}


def compared(column: str, value: str) -> Q:
    """``42``, ``>42``, ``<=42`` or ``40..49``. Raises ValueError in words."""
    if found := _RANGE.fullmatch(value):
        if float(found[1]) > float(found[2]):
            raise ValueError(f"ends before it begins; write {found[2]}..{found[1]}")
        return Q(**{f"{column}__gte": float(found[1]), f"{column}__lte": float(found[2])})
    if found := _COMPARED.fullmatch(value):
        return Q(**{f"{column}__{_LOOKUPS[found[1]]}": float(found[2])})
    raise ValueError("takes a number, such as 42, >42, <=42 or 40..49")


def _number(column: str, digits: int) -> Callable[[str], Q]:
    def read(value: str) -> Q:
        if not re.fullmatch(rf"(>=|<=|>|<|\d{{1,{digits}}}\.\.|)\d{{1,{digits}}}", value):
            raise ValueError(f"takes a number of up to {digits} digits, such as 42, >42, <=42 or 40..49")
        return compared(column, value)

    return read


def _status_code(value: str) -> Q:
    """A number, or a class as retry settings name it: ``5xx``."""
    if of_class := re.fullmatch(r"([1-5])xx", value):
        value = f"{of_class[1]}00..{of_class[1]}99"
    return _number("last_status_code", 3)(value)


def _picked(value: str) -> Q:
    names = value.split(",")
    parsed = [identifiers.parse("msg", name) for name in names]
    if None in parsed or len(parsed) > IDS_LIMIT:
        example = identifiers.public_id("msg", 42, 0x9F3A7C21)
        raise ValueError(f"takes up to {IDS_LIMIT:,} ids of messages, such as {example}, with commas")
    return Q(pk__any=[one[0] for one in parsed if one], nonce__any=[one[1] for one in parsed if one])


def _named(prefix: str, column: str) -> Callable[[str], Q]:
    """The row of a public id, to which ``column`` points."""

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


def _state(value: str) -> Q:
    if value not in STATES:
        raise ValueError(f"is one of {', '.join(STATES)}")
    return STATES[value]


def _since(value: str, now: datetime) -> datetime:
    """A time of the past from its age. Raises ValueError in words."""
    found = re.fullmatch(r"(\d{1,6})(s|m|h|d|w)", value)
    if found is None:
        raise ValueError("takes an age, such as 90s, 15m, 1h, 7d or 2w")
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[found[2]]
    return now - min(timedelta(seconds=seconds), _OLDEST)


_OLDEST = timedelta(days=36_500)


def _moment(value: str, _: datetime) -> datetime:
    """A time as it is written. Raises ValueError in words."""
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("takes a time, such as 2026-01-31 or 2026-01-31T09:30, in UTC unless it says a zone") from None


class Time(NamedTuple):
    """A key for the time of acceptance."""

    words: str
    bound: str
    read: Callable[[str, datetime], datetime]


STATUSES = tuple(Status.values)
REASONS = tuple(reason.value for reason in DeadReason)
FAULTS = tuple(fault.value for fault in Fault)
STATES = {
    "replayed": Q(answered()),
    "replay": Q(replay_of__isnull=False),
    "held": Q(held=True),
    "parked": Q(parked=True),
}
QUALIFIERS = {
    "service": Qualifier("name of a service", _equal("service__name")),
    "endpoint": Qualifier("name of an endpoint", _equal("endpoint__name")),
    "status": Qualifier("where it stands", _one_of("status", STATUSES), STATUSES),
    "reason": Qualifier("why it is dead", _one_of("dead_reason", REASONS, status="dead"), REASONS),
    "fault": Qualifier("what went wrong last", _one_of("last_fault", FAULTS), FAULTS),
    "code": Qualifier("last status code", _status_code),
    "key": Qualifier("ordering key", _equal("ordering_key")),
    "method": Qualifier("HTTP method", lambda value: _one_of("method", METHODS)(value.upper()), METHODS),
    "attempts": Qualifier("attempts used", _number("attempts", 6)),
    "calls": Qualifier("calls made", _number("calls", 6)),
    "is": Qualifier("replayed, a replay, held or parked", _state, tuple(STATES)),
    "id": Qualifier("ids of messages, with commas", _picked, is_indexed=True),
    "failure": Qualifier("a failure group's id", _named("fail", "failure"), is_indexed=True),
    "operation": Qualifier("made by this operation", _operation, is_indexed=True),
    "replay_of": Qualifier("replays of this message", _named("msg", "replay_of"), is_indexed=True),
}
ALSO = {"dead_reason": "reason", "status_code": "code", "ordering_key": "key"}  # as the API calls them
TIMES = {
    "after": Time("accepted since, in UTC", "created_after", _moment),
    "before": Time("accepted before, in UTC", "created_before", _moment),
    "newer": Time("accepted in the last 15m, 1h, 7d", "created_after", _since),
    "older": Time("accepted longer ago than 15m, 1h, 7d", "created_before", _since),
}
KEYS = (*QUALIFIERS, *TIMES, "tag")
BODY = "body."
_KEY = re.compile(r"[a-z_]+(\.[^:]*)?")


# ---- reading a search ---------------------------------------------------------------------------------------------
class Field(NamedTuple):
    """What is asked of a declared field of the body."""

    path: str
    condition: Q
    is_negated: bool
    is_indexed: bool  # an index finds its messages, newest first

    def values(self, **bounds: int) -> QuerySet[FieldValue]:
        return FieldValue.objects.filter(self.condition, path=self.path, **bounds)

    def holds(self, **bounds: int) -> Q:
        return _negated(Q(Exists(self.values(**bounds).filter(message=OuterRef("pk")))), self.is_negated)


@dataclass(slots=True)
class Search:
    """What is looked for. ``values``: service, status and times, which have their own ways to the messages; the other
    conditions hold all at once. ``problems`` says, a sentence without its full stop each, what was left out."""

    values: dict[str, Any] = field(default_factory=dict)
    indexed: list[Q] = field(default_factory=list)
    others: list[Q] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    labels: list[tuple[str, bool]] = field(default_factory=list)  # name=value or a name; whether it is negated
    problems: list[str] = field(default_factory=list)
    now: datetime = field(default_factory=timezone.now)  # what ages count from

    @property
    def is_empty(self) -> bool:
        return not (self.values or self.has_conditions)

    @property
    def has_conditions(self) -> bool:
        """Whether it asks for more than service, status and time."""
        return bool(self.indexed or self.fields or self.others or self.labels)

    @property
    def needs_a_bound(self) -> bool:
        """Whether something is asked for that no index answers, newest first."""
        if self.fields or self.others or self.labels:
            return True
        status = self.values.get("status")
        if self.indexed:
            return len(self.indexed) > 1 or "service" in self.values or bool(status)
        return status in (Status.DELIVERED, Status.CANCELLED)

    def require(self, *location: str) -> None:
        """Raises Invalid where something could not be understood: what is left out would find too much."""
        if self.problems:
            raise Invalid(*((location, problem) for problem in self.problems))

    def add(self, key: str, value: str, *, is_negated: bool = False) -> None:
        """One more qualifier; what cannot be understood becomes a problem."""
        try:
            self._qualify(ALSO.get(key, key), value, is_negated)
        except ValueError as problem:
            self.problems.append(f"“{key}:{value[:80]}” {problem}")

    def _qualify(self, key: str, value: str, is_negated: bool) -> None:
        if not value or "\0" in value:
            raise ValueError("needs a value, without a NUL character")
        if key == "tag":
            self.labels.append((value, is_negated))
        elif key.startswith(BODY):
            self._qualify_field(key.removeprefix(BODY), value, is_negated)
        elif key in TIMES:
            if is_negated:
                raise ValueError("cannot be negated; turn it round instead")
            moment = TIMES[key].read(value, self.now)
            self.between(**{TIMES[key].bound: moment})
        elif key in QUALIFIERS:
            condition = QUALIFIERS[key].read(value)
            if key in ("service", "status") and not is_negated and key not in self.values:
                self.values[key] = value
            elif QUALIFIERS[key].is_indexed and not is_negated:
                self.indexed.append(condition)
            else:
                self.others.append(_negated(condition, is_negated))
        else:
            raise ValueError(_unknown(key))

    def _qualify_field(self, path: str, value: str, is_negated: bool) -> None:
        if path not in declared_fields():
            raise ValueError(_undeclared(path))
        is_compared = value[0] in "<>" or _RANGE.fullmatch(value)
        condition = compared("number", value) if is_compared else Q(text=value[:TEXT_LIMIT])
        self.fields.append(Field(path, condition, is_negated, is_indexed=not (is_compared or is_negated)))

    def between(self, created_after: datetime | None = None, created_before: datetime | None = None) -> None:
        """Narrows the time of acceptance."""
        if created_after:
            self.values["created_after"] = max(created_after, self.values.get("created_after", created_after))
        if created_before:
            self.values["created_before"] = min(created_before, self.values.get("created_before", created_before))


def read(text: str, now: datetime | None = None) -> Search:
    """A search as it is typed; ages count from ``now``."""
    search = Search(now=now or timezone.now())
    try:
        words = [word for word in shlex.split(text) if word]
    except ValueError:
        search.problems.append("A quote has no end" if re.search("['\"]", text) else "Nothing follows a backslash")
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
            search.others.append(_negated(Q(path__icontains=plain) | Q(method__iexact=plain), is_negated))
    return search


def declared_fields() -> set[str]:
    """The searchable fields of all services."""
    return {path for paths in Service.objects.values_list("search_fields", flat=True) for path in paths}


def _undeclared(path: str) -> str:
    """What is said of a field that no service has declared: what is wrong with it, or how to declare it."""
    try:
        checked_field(path)
    except ValueError as problem:
        return f"names no field: {problem}"
    return (
        f"asks for a field that no service has declared: add {path} to its service's fields of the body to search "
        "(search_fields); messages accepted from then on are found by it"
    )


def _negated(condition: Q, is_negated: bool) -> Q:
    return ~condition if is_negated else condition


def _unknown(key: str) -> str:
    """What is said of a key that is none, with the nearest one."""
    near = get_close_matches(key, [*KEYS, *ALSO], 1)
    hint = f"the nearest one is “{near[0]}:”" if near else f"use {', '.join(KEYS)}, or tag:{key[:40]}=… for a label"
    return f"has no qualifier that is known: {hint}"


# ---- what may come next -------------------------------------------------------------------------------------------
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
    texts = field_value.different(path, begun, VALUES_LOOKED_AT)
    return [text for text in texts if text and not re.search(r'[\s"]', text)]


# ---- the messages -------------------------------------------------------------------------------------------------
Row = TypeVar("Row", bound=Model)


class Slice(NamedTuple, Generic[Row]):
    """Some rows of a list, and the row number where it goes on (0 at its end)."""

    rows: list[Row]
    ahead: int = 0
    is_cut: bool = False  # it goes on, and only because no more could be looked through at once


@dataclass(frozen=True, slots=True)
class Listed(Generic[Row]):
    """The rows of a queryset as slices, which an index gives in their order."""

    rows: QuerySet[Row]

    def older(self, place: int | None, size: int) -> Slice[Row]:
        """The next ``size`` rows below a row number, newest first; without one, from the newest on."""
        rows = self.rows if place is None else self.rows.filter(pk__lt=place)
        return _sliced(list(rows.order_by("-pk")[: size + 1]), size)

    def newer(self, place: int, size: int) -> Slice[Row]:
        """The next ``size`` rows above a row number, oldest first."""
        return _sliced(list(self.rows.filter(pk__gt=place).order_by("pk")[: size + 1]), size)


def _sliced(rows: list[Row], size: int) -> Slice[Row]:
    return Slice(rows[:size], rows[size - 1].pk if len(rows) > size else 0)


@dataclass
class Found:
    """The messages of a search."""

    search: Search

    @cached_property
    def services(self) -> dict[str, Service]:
        """All services by name, once: for the filter, its choices and the names in the rows."""
        return {service.name: service for service in Service.objects.only("name")}

    @cached_property
    def newest(self) -> int:
        return Message.objects.aggregate(newest=Max("pk"))["newest"] or 0

    @cached_property
    def service_id(self) -> int | None:
        """The number of the service that is asked for; 0, which finds nothing, where the name is not registered."""
        name = self.search.values.get("service")
        return None if not name else self.services[name].pk if name in self.services else 0

    # ---- as querysets ----------------------------------------------------------------------------------------------
    @cached_property
    def messages(self) -> MessageQuerySet:
        """All that is found. Whoever reads it keeps to a window of row numbers, or uses ``older`` and ``newer``."""
        status = self.search.values.get("status")
        if not status:
            return self.everything
        found = self.unfinished if status in UNFINISHED else self.everything
        if status == Status.DEAD and self.service_id is None and self._has_few_dead:
            # So few lie far apart: by each service's index and not by a walk through all of history.
            found = found.filter(service_id__in=[service.pk for service in self.services.values()])
        return found.filter(status=status)

    @property
    def everything(self) -> MessageQuerySet:
        """All that is found, but for the status: the tabs count each."""
        return self._conditioned if self.service_id is None else self._conditioned.filter(service_id=self.service_id)

    @property
    def unfinished(self) -> MessageQuerySet:
        """Those that are pending or delivering."""
        return unfinished(self._conditioned, self.service_id)

    @cached_property
    def _conditioned(self) -> MessageQuerySet:
        """By everything but service, status and fields of the body."""
        found, values = _matching(self.search), self.search.values
        if after := values.get("created_after"):
            found = found.filter(created_at__gte=after, pk__gt=self._low)
        if before := values.get("created_before"):
            found = found.filter(created_at__lt=before, pk__lt=self._high)
        return found

    @cached_property
    def _low(self) -> int:
        """A row number below all that is found."""
        after = self.search.values.get("created_after")
        if after:
            return max(0, rows_around(after, self.newest)[0] - SLACK)
        return (Message.objects.aggregate(oldest=Min("pk"))["oldest"] or 1) - 1

    @cached_property
    def _high(self) -> int:
        """A row number above all that is found."""
        before = self.search.values.get("created_before")
        return (rows_around(before, self.newest)[1] + SLACK if before else self.newest) + 1

    # ---- as slices -------------------------------------------------------------------------------------------------
    def older(self, place: int | None, size: int) -> Slice[Message]:
        """The next ``size`` messages below a row number, newest first: fewer where that is all that was found among
        those looked through."""
        if not self._needs_a_bound:
            return Listed(listed(self.messages)).older(place, size)
        start = self._high if place is None else min(place, self._high)
        edge = self._edge_below(start)
        rows = Listed(listed(self._window(edge, start))).older(start, size)
        return rows if rows.ahead or edge <= self._low + 1 else Slice(rows.rows, edge, is_cut=True)

    def newer(self, place: int, size: int) -> Slice[Message]:
        """The next ``size`` messages above a row number, oldest first."""
        if not self._needs_a_bound:
            return Listed(listed(self.messages)).newer(place, size)
        start = max(place, self._low)
        edge = self._edge_above(start)
        rows = Listed(listed(self._window(start + 1, edge + 1))).newer(start, size)
        return rows if rows.ahead or edge >= self._high - 1 else Slice(rows.rows, edge, is_cut=True)

    def count_above(self, place: int, limit: int) -> int:
        """How many there are above a row number, up to ``limit`` and among the newest."""
        if not self._needs_a_bound:
            return self.messages.filter(pk__gt=place).order_by()[:limit].count()
        first = max(place + 1, self.newest - SEARCHED)
        return self._window(first, self.newest + 1).order_by()[:limit].count()

    def _window(self, first: int, end: int) -> MessageQuerySet:
        """What is found from a row number on and before another."""
        found = self.messages.filter(pk__gte=first, pk__lt=end)
        bounds = {"message__gte": first, "message__lt": end}  # or a database looks at the values of all of history
        for one in self.search.fields:
            leads = one is self._leading
            found = found.filter(Q(pk__in=one.values(**bounds).values("message")) if leads else one.holds(**bounds))
        return found

    @cached_property
    def _leading(self) -> Field | None:
        """The field whose index gives the messages; the others are looked for in each of them."""
        return next((one for one in self.search.fields if one.is_indexed), None)

    @cached_property
    def _needs_a_bound(self) -> bool:
        if self.search.needs_a_bound:
            return True
        # Dead messages of all services have no index; but see ``messages`` for few of them.
        is_dead = self.search.values.get("status") == Status.DEAD
        return is_dead and self.service_id is None and not self._has_few_dead

    @cached_property
    def _looked_through(self) -> tuple[QuerySet[Any], str] | None:
        """What one index gives for the search, and its column with the message's key; None where no index helps."""
        if self._leading:
            return self._leading.values(), "message_id"
        found = Message.objects.all()
        if self.search.indexed:
            found = found.filter(self.search.indexed[0])
        elif self.search.values.get("status") in UNFINISHED:
            found = found.unfinished()
        elif self.service_id is not None:
            found = found.filter(service_id=self.service_id)
            found = found.dead() if self.search.values.get("status") == Status.DEAD else found
        else:
            return None
        return found, "pk"

    def _edge_below(self, start: int) -> int:
        """The last row number to look at on the way down."""
        if self._looked_through is None:
            return max(1, start - SEARCHED)
        rows, key = self._looked_through
        below = rows.filter(**{f"{key}__lt": start}).order_by(f"-{key}").values_list(key, flat=True)
        return next(iter(below[SEARCHED - 1 : SEARCHED]), 1)

    def _edge_above(self, start: int) -> int:
        """The last row number to look at on the way up."""
        if self._looked_through is None:
            return start + SEARCHED
        rows, key = self._looked_through
        above = rows.filter(**{f"{key}__gt": start}).order_by(key).values_list(key, flat=True)
        return next(iter(above[SEARCHED - 1 : SEARCHED]), self._high)

    # ---- counts ----------------------------------------------------------------------------------------------------
    @cached_property
    def counts(self) -> dict[str, int]:
        """How many there are of the statuses that an index knows; counting stops at COUNT_LIMIT."""
        if self.search.has_conditions:
            return {}
        counts: dict[str, int] = self.unfinished.order_by()[:COUNT_LIMIT].aggregate(
            **{status.value: Count("pk", filter=Q(status=status)) for status in UNFINISHED}
        )
        return {**counts, Status.DEAD: self._dead}

    @cached_property
    def _dead(self) -> int:
        return self.everything.dead().order_by()[:COUNT_LIMIT].count()

    @property
    def _has_few_dead(self) -> bool:
        return not self.search.has_conditions and self._dead < COUNT_LIMIT


def selection(search: Search) -> MessageQuerySet:
    """All that a search finds, for who goes through history in windows of his own."""
    names = {"service": "service__name", "created_after": "created_at__gte", "created_before": "created_at__lt"}
    fields = [one.holds() for one in search.fields]
    return _matching(search).filter(*fields, **{names.get(name, name): value for name, value in search.values.items()})


def _matching(search: Search) -> MessageQuerySet:
    """What fits all but ``values`` and ``fields``."""
    found = Message.objects.filter(*search.indexed, *search.others)
    for place, (label, is_negated) in enumerate(search.labels):
        found = _labelled(found, label, is_negated, f"_label{place}")
    return found


def listed(found: MessageQuerySet) -> MessageQuerySet:
    """With what a list shows of each one's endpoint."""
    return found.select_related("endpoint").defer(
        "endpoint__body", "endpoint__description", "endpoint__headers", "endpoint__query"
    )


def unfinished(found: MessageQuerySet, service_id: int | None) -> MessageQuerySet:
    """The pending and delivering ones, by the index of the unfinished ones.

    SQLite would rather walk through all of a service's history if the service were asked for by its column alone.
    """
    found = found.unfinished()
    if service_id is None:
        return found
    return cast(MessageQuerySet, found.extra(where=["+integrations_message.service_id = %s"], params=[service_id]))


def _labelled(found: MessageQuerySet, label: str, is_negated: bool, alias: str) -> MessageQuerySet:
    name, equals, value = label.partition("=")
    if not equals:
        has = Q(**{f"{alias}__icontains": f'"{label}"'})
        return found.alias(**{alias: Cast("tags", TextField())}).filter(_negated(has, is_negated))
    found = found.alias(**{alias: KeyTransform(name, "tags")})
    if not is_negated:
        return found.filter(**{alias: value})
    # A message without the label has not got this one: NULL would be neither equal nor different.
    return found.filter(Q(**{f"{alias}__isnull": True}) | ~Q(**{alias: value}))


def rows_around(moment: datetime, newest: int) -> tuple[int, int]:
    """Row numbers with the first message accepted since ``moment`` between them, at most CLOSE apart.

    Acceptance times have no index, but row numbers grow with them. So a look at rows spread over the whole range
    closes in on the moment: one query at five million messages, wherever it lies.
    """
    low, high = 0, newest + 1
    while high - low > CLOSE:
        spread = range(low, high, max(1, (high - low) // PROBES))
        seen = Message.objects.filter(pk__in=spread).order_by("pk").values_list("pk", "created_at")
        before = (low, high)
        for pk, created_at in seen:
            if created_at >= moment:
                high = pk
                break
            low = pk
        if (low, high) == before:
            break  # what was between is pruned
    return low, high
