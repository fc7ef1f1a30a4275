"""The timing of a call: its phases as parts of one bar."""

from __future__ import annotations

from dataclasses import dataclass

PHASES = (
    ("dns", "DNS lookup"),
    ("connect", "Connect"),
    ("tls", "TLS"),
    ("first_byte", "Waiting for response"),
)
WIDTH = 1000.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a call on its bar. ``x`` and ``width`` are in thousandths of the bar."""

    name: str
    label: str
    seconds: float
    x: float
    width: float


def phases(timings: dict[str, float | None]) -> list[Phase]:
    """The phases of a call in their order; the rest of its total time is the download of the response."""
    spent = [(name, label, max(0.0, timings.get(name) or 0.0)) for name, label in PHASES]
    spent = [phase for phase in spent if timings.get(phase[0]) is not None]
    known = sum(seconds for _, _, seconds in spent)
    total = max(timings.get("total") or 0.0, known)
    if not total:
        return []
    rest = total - known
    spent.append(("rest", "Content download" if timings.get("first_byte") is not None else "Until failure", rest))
    found, at = [], 0.0
    for name, label, seconds in spent:
        width = seconds / total * WIDTH
        found.append(Phase(name, label, seconds, round(at, 1), round(width, 1)))
        at += width
    return found
