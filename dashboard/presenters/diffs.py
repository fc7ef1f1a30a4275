"""The diff of two texts, line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher

CONTEXT = 3  # unchanged lines around a change
WIDEST = 160  # characters; a longer line is compared in parts
COMPARED = 800  # lines on one side; a longer change is shown as one block, because comparing takes quadratic time
SHOWN = 1000  # lines of the result


@dataclass(frozen=True, slots=True)
class Line:
    """``mark`` is ``-``, ``+``, a space for an unchanged line, or ``…`` for omitted lines."""

    mark: str
    text: str


def difference(before: str, after: str, shown: Callable[[str], str] | None = None) -> list[Line]:
    """The changed lines with their context; empty if both texts are equal. ``shown`` masks a line for display; the
    unmasked lines are compared."""
    old, new = (_lines(text, is_split=shown is None) for text in (before, after))
    if old == new:
        return []
    shown = shown or str
    found: list[Line] = []
    last = 0
    for group in _groups(old, new):
        if (left_out := group[0][1] - last) > 0:
            found.append(Line("…", f"{left_out} unchanged line{'s' if left_out > 1 else ''}"))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                found += [Line(" ", shown(text)) for text in old[i1:i2]]
            else:
                found += [Line("-", shown(text)) for text in old[i1:i2]] + [
                    Line("+", shown(text)) for text in new[j1:j2]
                ]
        last = group[-1][2]
        if len(found) > SHOWN:
            return [*found[:SHOWN], Line("…", "more changes are not shown")]
    if (left_out := len(old) - last) > 0:
        found.append(Line("…", f"{left_out} unchanged line{'s' if left_out > 1 else ''}"))
    return found


def _lines(text: str, *, is_split: bool) -> list[str]:
    """The lines of a text; ``is_split`` cuts long ones into parts. None for an empty text."""
    lines = text.split("\n") if text else []
    if not is_split:
        return lines
    return [line[start : start + WIDEST] for line in lines for start in range(0, len(line) or 1, WIDEST)]


Group = list[tuple[str, int, int, int, int]]


def _groups(old: list[str], new: list[str]) -> list[Group]:
    """difflib's groups of changes, without the common beginning and end, which make up most of a body."""
    shorter = min(len(old), len(new))
    head = next((place for place in range(shorter) if old[place] != new[place]), shorter)
    tail = next((place for place in range(shorter - head) if old[-1 - place] != new[-1 - place]), shorter - head)
    old_end, new_end = len(old) - tail, len(new) - tail
    if max(old_end, new_end) - head > COMPARED:
        around = (max(0, head - CONTEXT), min(len(old), old_end + CONTEXT))
        return [
            [
                ("equal", around[0], head, around[0], head),
                ("replace", head, old_end, head, new_end),
                ("equal", old_end, around[1], new_end, new_end + around[1] - old_end),
            ]
        ]
    start, more = max(0, head - CONTEXT), CONTEXT
    part = SequenceMatcher(None, old[start : old_end + more], new[start : new_end + more], autojunk=False)
    return [
        [(tag, i1 + start, i2 + start, j1 + start, j2 + start) for tag, i1, i2, j1, j2 in group]
        for group in part.get_grouped_opcodes(CONTEXT)
    ]
