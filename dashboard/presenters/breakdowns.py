"""Breakdowns of messages on pages: each value with the address of its messages, and the sentence that sums it up."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from integrations.search.breakdown import Breakdown

LABELS = {"tag": "tag", "field": "body field"}


def sentence(found: Breakdown) -> str:
    """“312 messages, 41 customers, most: acme 96”."""
    count = f"{found.messages:,}"
    messages = (
        f"Newest {count} messages" if found.is_cut else "1 message" if found.messages == 1 else f"{count} messages"
    )
    part = found.leading
    if part is None or not part.shares:
        return messages
    first = part.shares[0]
    values = f"{part.values:,} {plural(part.name) if part.values != 1 else part.name}"
    most = f"most: {first.value} {first.count:,}" if part.values > 1 else first.value
    return f"{messages}, {values}, {most}"


def plural(name: str) -> str:
    """The name of a tag or field for several values: customers, countries, addresses; “values of order.id”."""
    if not name.isascii() or not name.isalpha():
        return f"values of {name}"
    if name.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    return f"{name[:-1]}ies" if name.endswith("y") and name[-2:-1] not in (*"aeiou", "") else f"{name}s"


def shown_parts(found: Breakdown, filters: dict[str, str]) -> list[dict[str, Any]]:
    """The parts for the page: each value leads to the messages that have it, among those of the search."""
    return [
        {
            "part": part,
            "id": f"by-{number}",
            "label": LABELS.get(part.kind, ""),
            "shares": [
                {"value": share.value, "count": share.count, "url": _url(filters, share.word)} for share in part.shares
            ],
            "others": found.messages - part.messages,
        }
        for number, part in enumerate(found.parts)
    ]


def _url(filters: dict[str, str], word: str) -> str:
    """The search with one more word; empty without a word."""
    if not word:
        return ""
    return urlencode({**filters, "q": f"{filters.get('q', '')} {word}".strip()})
