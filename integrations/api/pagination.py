"""Lists: a page of rows and a cursor to the next one."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from django.core import signing
from django.db.models import Model, QuerySet
from ninja import Query

from integrations.api.problems import validation_problem

Row = TypeVar("Row", bound=Model)

Limit = Annotated[int, Query(ge=1, le=500, description="How many at most.")]
Cursor = Annotated[str | None, Query(description="The next_cursor of the page before.")]
LIMIT = 50


def page(
    rows: QuerySet[Row], kind: str, limit: int, cursor: str | None, *, oldest_first: bool = False
) -> tuple[list[Row], str | None]:
    """``limit`` rows after the cursor, newest first, and the cursor that goes on from there.

    The cursor is the last row's key, signed for its ``kind`` of list: rows that come and go meanwhile move nothing.
    """
    if (place := position_of(kind, cursor)) is not None:
        rows = rows.filter(pk__gt=place) if oldest_first else rows.filter(pk__lt=place)
    found = list(rows.order_by("pk" if oldest_first else "-pk")[: limit + 1])
    shown = found[:limit]
    return shown, cursor_to(kind, shown[-1].pk) if len(found) > limit else None


def list_json(items: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
    return {"items": items, "next_cursor": next_cursor}


def cursor_to(kind: str, place: int) -> str:
    """The cursor of what comes after this row number in a list of this kind."""
    return signing.dumps(place, salt=_salt(kind))


def position_of(kind: str, cursor: str | None) -> int | None:
    """The row number in a cursor; None without one. Raises a problem for what is no cursor of this kind."""
    if cursor is None:
        return None
    try:
        place = signing.loads(cursor, salt=_salt(kind))
    except (signing.BadSignature, ValueError):
        place = None
    if not isinstance(place, int):
        raise validation_problem([(("query", "cursor"), "this is no cursor of this list; start without one")])
    return place


def _salt(kind: str) -> str:
    return f"api.cursor.{kind}"
