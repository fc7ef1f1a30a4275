"""Durations as text, in at most two units."""

from __future__ import annotations

TYPED_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration_text(seconds: float | None) -> str:
    """“2.5 ms”, “340 ms”, “1.2 s”, “45 s”, “12 min 5 s”, “3 h 5 min”, “2 d 4 h”; “–” for None."""
    if seconds is None:
        return "–"
    if seconds < 0.00995:  # most DNS lookups and connections, and services nearby
        return f"{seconds * 1000:.1f}".removesuffix(".0") + " ms"
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    return two_units(round(seconds))


def two_units(left: int) -> str:
    """“1 min 5 s” for 65. console.js has the same function."""
    parts = []
    for size, unit in UNITS:
        if left >= size:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2])


def typed_duration(seconds: float) -> str:
    """“6h”, “90s”, “200ms”: a duration exactly as a form shows it and takes it back."""
    if seconds and seconds < 1 and (thousandths := round(seconds * 1000)) == seconds * 1000:
        return f"{thousandths}ms"
    for unit, size in TYPED_UNITS:
        if seconds and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.12g}s" if seconds else "0"


def typed_share(share: float) -> str:
    """“20 %” for 0.2."""
    return f"{share * 100:.10g} %"
