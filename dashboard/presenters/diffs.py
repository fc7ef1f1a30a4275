"""What an edit changes, line by line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher

CONTEXT = 3  # unchanged lines around a change
WIDEST = 160  # characters; a longer line is compared in parts
COMPARED = 800  # lines on one side; a longer change is shown as a whole, for the comparison grows with the square
SHOWN = 1000  # lines of the result


@dataclass(frozen=True, slots=True)
class Line:
    """``mark`` is ``-``, ``+``, a space for what stays, or ``…`` for what is left out."""

    mark: str
    text: str


def difference(before: str, after: str, shown: Callable[[str], str] | None = None) -> list[Line]:
    """The changed lines with what is around them; nothing where both are the same. ``shown`` makes of a whole line
    what may be displayed; the lines themselves are compared."""
    old, new = (_lines(text, is_split=shown is None) for text in (before, after))
    if old == new:
        return []
    shown = shown or str
    found: list[Line] = []
    last = 0
    for group in _groups(old, new):
        if (left_out := group[0][1] - last) > 0:
            found.append(Line("…", f"{left_out} line{'s' if left_out > 1 else ''} as before"))
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                found += [Line(" ", shown(text)) for text in old[i1:i2]]
            else:
                found += [Line("-", shown(text)) for text in old[i1:i2]] + [
                    Line("+", shown(text)) for text in new[j1:j2]
                ]
        last = group[-1][2]
        if len(found) > SHOWN:
            return [*found[:SHOWN], Line("…", "the difference goes on")]
    if (left_out := len(old) - last) > 0:
        found.append(Line("…", f"{left_out} line{'s' if left_out > 1 else ''} as before"))
    return found


def _lines(text: str, *, is_split: bool) -> list[str]:
    """The lines of a text, where asked for with the long ones in parts; none of an empty one."""
    lines = text.split("\n") if text else []
    if not is_split:
        return lines
    return [line[start : start + WIDEST] for line in lines for start in range(0, len(line) or 1, WIDEST)]


Group = list[tuple[str, int, int, int, int]]


def _groups(old: list[str], new: list[str]) -> list[Group]:
    """difflib's groups of changes; the same beginning and end are taken off first, which is all of most bodies."""
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
