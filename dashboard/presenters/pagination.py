"""Pages of a list: by signed cursors, and by numbers for lists that are short and sorted in many ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from django.core.signing import BadSignature, Signer
from django.db.models import QuerySet
from django.http import HttpRequest

from integrations.search.pages import RowPages, SearchResults

PAGE = 50
_signer = Signer(salt="switchboard.cursor")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[Row]):
    """One page of a list in memory. A number beyond the end is the last page: rows leave while the operator reads."""

    rows: Sequence[Row]
    number: int
    first: int  # the place of the first row, from 1
    total: int
    size: int

    @classmethod
    def of(cls, rows: Sequence[Row], number: int, size: int) -> Self:
        last = max(1, -(-len(rows) // size))
        number = min(max(1, number), last)
        start = (number - 1) * size
        return cls(rows[start : start + size], number, start + 1, len(rows), size)

    @property
    def last(self) -> int:
        """The place of the last row on this page."""
        return self.first + len(self.rows) - 1

    @property
    def previous(self) -> int:
        return self.number - 1

    @property
    def next(self) -> int:
        """The number of the next page; 0 if there is none."""
        return self.number + 1 if self.last < self.total else 0


def page_number(request: HttpRequest) -> int:
    """The number of the page in an address; 1 if there is none."""
    given = request.GET.get("page", "")
    return int(given) if given.isdecimal() and len(given) < 7 else 1


@dataclass(slots=True)
class CursorPage:
    """One page, newest first, and the cursors of its neighbours. ``is_cut``: the page ends at the limit of rows to
    search, not at the end of the list."""

    rows: list[Any]
    newer: str = ""
    older: str = ""
    is_first: bool = True
    is_cut: bool = False
    refused: bool = False


def page(source: QuerySet[Any] | SearchResults, cursor: str, size: int = PAGE) -> CursorPage:
    """The page at a cursor. With a cursor that this function did not sign, the first page and ``refused``."""
    rows: SearchResults | RowPages[Any] = RowPages(source) if isinstance(source, QuerySet) else source
    direction, place, refused = _place(cursor)
    if direction == "newer":
        newer = rows.newer(place, size)
        if not newer.next_id and len(newer.rows) < size:  # the beginning: show a full page
            return page(source, "", size)
        shown: list[Any] = newer.rows[::-1]
        return CursorPage(
            rows=shown,
            newer=cursor_of("newer", newer.next_id),
            older=cursor_of("older", shown[-1].pk if shown else place + 1),
            is_first=not newer.next_id,
        )
    older = rows.older(place if direction else None, size)
    shown = older.rows
    return CursorPage(
        rows=shown,
        newer=cursor_of("newer", (shown[0].pk if shown else place - 1) if direction else 0),
        older=cursor_of("older", older.next_id),
        is_first=not direction,
        is_cut=older.is_cut,
        refused=refused,
    )


def cursor_of(direction: str, place: int) -> str:
    """The signed position; empty if there are no rows in that direction."""
    return _signer.sign(f"{direction} {place}") if place > 0 else ""


def _place(cursor: str) -> tuple[str, int, bool]:
    if not cursor:
        return "", 0, False
    try:
        direction, _, pk = _signer.unsign(cursor).partition(" ")
        return direction, int(pk), False
    except (BadSignature, ValueError):
        return "", 0, True
