"""Names and values as lines of text."""

from __future__ import annotations

from typing import Any


def as_lines(pairs: dict[str, Any], mark: str) -> str:
    return "\n".join(
        f"{name}{mark}{item}"
        for name, value in pairs.items()
        for item in (value if isinstance(value, list) else [value])
    )
