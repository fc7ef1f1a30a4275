"""Pages of lists, with signed cursors."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from django.core import signing
from django.db.models import Model, QuerySet
from ninja import Query

from integrations.api.problems import validation_problem

Row = TypeVar("Row", bound=Model)

Limit = Annotated[int, Query(ge=1, le=500, description="Maximum number of items; default 50.")]
Cursor = Annotated[str | None, Query(description="next_cursor of the previous page. Omit it for the first page.")]
LIMIT = 50


def page(
    rows: QuerySet[Row], kind: str, limit: int, cursor: str | None, *, oldest_first: bool = False
) -> tuple[list[Row], str | None]:
    """Return ``limit`` rows after the cursor, newest first, and the cursor of the next page.

    A cursor is the last row's key, signed for its ``kind`` of list, so new and deleted rows do not shift the pages.
    """
    if (position := position_of(kind, cursor)) is not None:
        rows = rows.filter(pk__gt=position) if oldest_first else rows.filter(pk__lt=position)
    found = list(rows.order_by("pk" if oldest_first else "-pk")[: limit + 1])
    shown = found[:limit]
    return shown, cursor_to(kind, shown[-1].pk) if len(found) > limit else None


def list_json(items: list[dict[str, Any]], next_cursor: str | None) -> dict[str, Any]:
    return {"items": items, "next_cursor": next_cursor}


def cursor_to(kind: str, position: int) -> str:
    """Return the cursor that continues a list of this kind after the row with this key."""
    return signing.dumps(position, salt=_salt(kind))


def position_of(kind: str, cursor: str | None) -> int | None:
    """Return the key in a cursor, or None without one. Raises Problem(422) for a cursor of another list."""
    if cursor is None:
        return None
    try:
        position = signing.loads(cursor, salt=_salt(kind))
    except (signing.BadSignature, ValueError):
        position = None
    if not isinstance(position, int):
        text = "this cursor belongs to another list; omit it to start from the first page"
        raise validation_problem([(("query", "cursor"), text)])
    return position


def _salt(kind: str) -> str:
    return f"api.cursor.{kind}"
