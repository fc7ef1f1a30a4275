"""The results of a search, by each way of reading it."""

from __future__ import annotations

from integrations.search.grammar import parse
from integrations.search.pages import SearchResults, selection


def found_by(text: str) -> set[int]:
    """The ids of the messages, by pages and by operations, which must agree."""
    asked = parse(text)
    assert asked.problems == []
    paged = {message.pk for message in SearchResults(asked).older(None, 50).rows}
    assert paged == {message.pk for message in SearchResults(asked).newer(0, 50).rows}
    assert paged == set(selection(asked).values_list("pk", flat=True))
    return paged
